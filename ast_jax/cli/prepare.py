"""`ast-jax prepare`: decodes a data set once, for training."""

import os
from typing import Annotated, Literal

import tyro

from ast_jax.cli.arguments import CORES, NonNegative, Positive
from ast_jax.cli.command import complain, naming
from ast_jax.errors import one_line, shorten
from ast_jax.storage import check_local


def prepare(
    name: Annotated[
        Literal["audioset", "esc50", "speech_commands", "json", "csv", "folder"],
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
        beam_runner: write with Apache Beam
        beam_option: for Beam, such as --beam-option=--project=mine; may be repeated
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from ast_jax.data.prepared import check_packages, classes_without_clips

    check_packages()
    from ast_jax.data.prepare import run_builder

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
    empty = classes_without_clips(prepared.folder)
    if empty:
        print(f"note: no clip of {shorten(empty)}")
    print(f"wrote {prepared.folder}, of digest {prepared.digest}")
    return 0
