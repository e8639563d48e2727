"""`ast-jax prepare`: decodes a data set once, for training."""

import os
from typing import Annotated, Literal

import tyro

from ast_jax.cli.arguments import CORES, NonNegative, Positive, check_given
from ast_jax.cli.command import complain, naming
from ast_jax.errors import InputError, one_line, quoted, shorten
from ast_jax.urls import check_local

MAX_LISTED = 20  # classes that are printed


def prepare(
    name: Annotated[
        Literal[
            "audioset",
            "esc50",
            "fsd50k",
            "speech_commands",
            "urbansound8k",
            "json",
            "csv",
            "folder",
        ],
        tyro.conf.Positional,
    ],
    *,
    source: str,
    output: str,
    classes: str | None = None,
    sampling_rate: Positive = 16000,
    processes: Positive = CORES,
    max_damaged: NonNegative = 0,
    scale_loud: bool = False,
    column: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    label_separator: str = "",
    beam_runner: str = "",
    beam_option: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
) -> int:
    """Decode a data set once, for training.

    Args:
        name: the kind of source
        source: its folder or file
        output: folder for prepared sets, as OUTPUT/NAME
        classes: class list of a json or csv manifest, a CSV
        sampling_rate: of the set, in Hz
        processes: that decode
        max_damaged: number of unreadable sound files to leave out
        scale_loud: divide clips that go beyond 1 by their peak, instead of clipping them
        column: of a csv list that has other names: path=NAME, labels=NAME, split=NAME, id=NAME,
            group=NAME, start=NAME or end=NAME; may be repeated
        label_separator: between the labels of a clip in a csv list (;)
        beam_runner: write with Apache Beam
        beam_option: for Beam, such as --beam-option=--project=mine; may be repeated
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from ast_jax.data.prepared import check_packages, clips_per_class

    check_packages()
    from ast_jax.data.prepare import run_builder

    check_given(source=source, output=output)
    check_local(output)
    try:
        with naming(output):
            prepared = run_builder.prepare(
                name,
                source,
                output,
                classes=classes,
                sampling_rate=sampling_rate,
                processes=processes,
                max_damaged=max_damaged,
                scale_loud=scale_loud,
                columns=_parse_columns(column),
                label_separator=label_separator,
                beam_runner=beam_runner,
                beam_options=list(beam_option),
            )
    except KeyboardInterrupt:
        if not beam_runner:  # a run with Beam does not resume
            complain(f"stopped; run the same command again to resume in {output}")
        raise
    for split, clips in prepared.splits.items():
        print(f"{split}: {clips} clips")
    for what, lines in (("missing", prepared.missing), ("unreadable", prepared.damaged)):
        if lines:
            print(one_line(f"{len(lines)} clips {what}, listed in skipped.csv, such as {lines[0]}"))
    for note in prepared.notes:
        print(one_line(f"note: {note}"))
    counts = clips_per_class(prepared.folder)
    listed = shorten([f"{label} ({n})" for label, n in counts.items()], MAX_LISTED)
    print(one_line(f"{len(counts)} classes and their clips: {listed}"))
    if empty := [label for label, n in counts.items() if n == 0]:
        print(f"note: no clip of {shorten(empty)}")
    print(f"wrote {prepared.folder}, of digest {prepared.digest}")
    return 0


def _parse_columns(texts: tuple[str, ...]) -> dict[str, str]:
    """Returns names of columns by what they mean, of 'path=NAME'."""
    columns = {}
    for text in texts:
        role, equals, name = text.partition("=")
        if not equals or role in columns:
            raise InputError(
                f"--column is {quoted(text)}; give what the column is, once, and its name, such as "
                f"path=FILE"
            )
        columns[role] = name
    return columns
