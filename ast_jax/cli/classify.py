"""`ast-jax classify`: labels sound files."""

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ast_jax.cli.arguments import CORES, Dtype, MaskPadding, Positive, check_given
from ast_jax.cli.command import complain, naming
from ast_jax.cli.load_classifier import load_classifier
from ast_jax.cli.long_recordings import WindowOptions, classify_windows
from ast_jax.cli.output_file import check_output, open_output
from ast_jax.cli.result_formats import LABELS, Results, print_json, print_results, write_results
from ast_jax.cli.sound_files import expand_folders, read_inputs
from ast_jax.errors import InputError, print_note

if TYPE_CHECKING:
    from ast_jax.inference.classifier import AudioClassifier


NO_WINDOWS = WindowOptions()


def classify(
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")],
    *,
    checkpoint: str,
    top_k: Positive | None = None,
    batch_size: Positive | None = None,
    dtype: Dtype = None,
    mask_padding: MaskPadding = None,
    scale_loud: bool = False,
    output: str = "",
    json: bool = False,
    windows: Annotated[WindowOptions, tyro.conf.arg(name="")] = NO_WINDOWS,
) -> int:
    """Label sound files.

    Args:
        files: sound files, folders to read recursively, or - for a sound file on standard input
        checkpoint: a checkpoint or run folder, a Hugging Face folder, a .safetensors or a .pth
        top_k: number of labels per file (5) or window (1)
        batch_size: files (1) or windows (8) that the device computes at once
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        mask_padding: mask the padding of short sounds (as the checkpoint was trained)
        scale_loud: divide sounds that go beyond 1 by their peak
        output: a new .csv, .jsonl or, of events, .txt (Audacity) or .rttm to write results to
        json: print JSON
        windows: for recordings that are longer than the model's input
    """
    if not files:
        raise InputError("no sound files are given; name files, folders or -")
    for file in files:
        check_given(FILE=file)
    windows.check()
    if windows.events and top_k:
        raise InputError("--top-k is for labels, and --events finds all events; leave one out")
    format = windows.result_format() if windows.are_set else LABELS
    suffix = Path(output).suffix.lower()
    given = {"--checkpoint": checkpoint, "--top-k": top_k, "--dtype": dtype}
    given |= {"--mask-padding": mask_padding, "--scale-loud": scale_loud} | windows.resumed()
    if output:
        if json:
            raise InputError(f"--json prints what --output writes to {output}; leave one out")
        check_output(output, format.to_lines, given)
    classifier = load_classifier(checkpoint, dtype, mask_padding)
    sounds, status = expand_folders(files)
    windows.check_number(len(sounds), output)
    if classifier.config.frame_level and not windows.are_set:
        print_note(
            f"{checkpoint}: is frame-level; a label's score is the highest over time, and --events "
            f"finds when"
        )
    unusable: list[str] = []

    def find(sounds: list[str]) -> Results:
        if not windows.are_set:
            size = batch_size or 1
            return _classify_files(sounds, classifier, unusable, top_k or 5, size, scale_loud)
        return classify_windows(
            sounds,
            classifier,
            windows,
            unusable,
            top_k=top_k or (5 if windows.aggregate else 1),
            batch_size=batch_size or 8,
            scale_loud=scale_loud,
            show_bar=bool(output) or not sys.stdout.isatty(),
        )

    if output:
        header = f"{','.join(format.columns)}\n" if suffix == ".csv" else ""
        with naming(output), open_output(output, header, given) as target:
            left = _not_finished(sounds, target.finished, output)
            for file in target.damaged:
                status = complain(f"{file}: could not be read to its end; what precedes is kept")
            write_results(find(left), format, suffix, unusable, target)
            if not target.finished:
                raise InputError(f"{output}: is not written, as none of the files can be used")
        print(
            f"wrote the {format.name} of {len(left) - len(unusable)} files to {output}", flush=True
        )
    elif json:
        print_json(find(sounds), format)
    else:
        print_results(find(sounds), format)
    return 1 if unusable else status


def _classify_files(
    sounds: list[str],
    classifier: "AudioClassifier",
    unusable: list[str],
    top_k: int,
    batch_size: int,
    scale_loud: bool,
) -> Results:
    """Yields the labels of each file; arguments are those of `classify_windows`."""
    from ast_jax.inference.batching import map_values

    ahead = CORES + batch_size
    inputs = read_inputs(sounds, classifier, ahead, unusable, scale_loud=scale_loud)
    compute = partial(classifier.classify_inputs, top_k=top_k, batch_size=batch_size)
    for file, labels in map_values(compute, inputs):
        yield file, [labels]


def _not_finished(sounds: list[str], finished: Counter[str], output: str) -> list[str]:
    """Returns the sounds without those that the output has; prints how many these are."""
    remaining = finished.copy()
    left = []
    for sound in sounds:
        if remaining[sound]:
            remaining[sound] -= 1
        else:
            left.append(sound)
    if skipped := len(sounds) - len(left):
        print_note(f"{output} is continued: it has {skipped} of {len(sounds)} files")
    return left
