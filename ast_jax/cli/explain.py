"""`ast-jax explain`: draws what the scores of sound files depend on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ast_jax.cli.arguments import Dtype, Positive, check_given
from ast_jax.cli.load import load_classifier
from ast_jax.cli.sound_files import STDIN, complain_about, note_length, read_file
from ast_jax.errors import InputError, one_line, print_note, quoted
from ast_jax.io import check_free
from ast_jax.urls import check_local

if TYPE_CHECKING:
    import numpy as np

    from ast_jax.inference.classifier import AudioClassifier
    from ast_jax.inference.explain import Explanation

SUFFIXES = (".png", ".npz")


def explain(
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")],
    *,
    checkpoint: str,
    labels: tuple[str, ...] = (),
    top_k: Positive | None = None,
    method: Literal["relevance", "rollout", "heads"] = "relevance",
    output: str = ".",
    dtype: Dtype = None,
    scale_loud: bool = False,
) -> int:
    """Draw what the scores of sound files depend on, over time and frequency.

    Args:
        files: sound files, or - for a sound file on standard input
        checkpoint: a checkpoint or run folder, a Hugging Face folder, a .safetensors or a .pth
        labels: classes to explain (the most probable)
        top_k: number of most probable classes to explain (3)
        method: relevance for each class (attention weighted by the gradient of the class's logit),
            attention rollout, or the attention of each head
        output: a folder for the picture and the arrays of each file, NAME.METHOD.png and .npz (the
            current folder), or for one file a new .png or .npz
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        scale_loud: divide sounds that go beyond 1 by their peak
    """
    if not files:
        raise InputError("no sound files are given; name files or -")
    for file in files:
        check_given(FILE=file)
    if labels and top_k is not None:
        raise InputError("--labels and --top-k are both given; leave one of them out")
    targets = _choose_targets(files, output, method)
    from ast_jax.inference.explain import find_classes

    classifier = load_classifier(checkpoint, dtype)
    if labels:
        find_classes(classifier.config, labels)
    status = 0
    for file, paths in zip(files, targets, strict=True):
        try:
            waveform = _read(file, classifier, scale_loud)
            explanation = classifier.explain(
                waveform, labels or None, top_k, method, classifier.feature_extractor.sampling_rate
            )
        except (InputError, OSError) as error:
            status = complain_about(file, error)
            continue
        print(one_line(file))
        for label, score in zip(explanation.labels, explanation.scores, strict=True):
            print(f"  {score:6.1%}  {label}")
        for path in paths:
            _write(explanation, path, file)
            print(one_line(f"  wrote {path}"), flush=True)
    return status


def _choose_targets(files: tuple[str, ...], output: str, method: str) -> list[list[Path]]:
    """Returns the files to write for each sound.

    Raises:
        InputError: one of them exists, or is that of two sounds.
    """
    check_local(output)
    if Path(output).suffix.lower() in SUFFIXES:
        if len(files) > 1:
            raise InputError(
                f"{output}: is one file and there are {len(files)} sounds; give a folder"
            )
        targets = [[Path(output)]]
    else:
        names = ["standard_input" if file == STDIN else Path(file).stem for file in files]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"two files are named {quoted(name)}, so their pictures would be, too; explain "
                    f"them one by one, each with another --output"
                )
        targets = [
            [Path(output) / f"{name}.{method}{suffix}" for suffix in SUFFIXES] for name in names
        ]
    for paths in targets:
        for path in paths:
            check_free(path)
    return targets


def _read(file: str, classifier: "AudioClassifier", scale_loud: bool) -> "np.ndarray":
    """Returns the waveform of a sound file; prints notes about one that is unusual or long."""
    recording = read_file(file, classifier, scale_loud)
    for note in filter(None, (recording.note, recording.level_note)):
        print_note(note)
    if recording.seconds is None or recording.seconds > 1.05 * classifier.seconds:
        note_length(file, recording.seconds, classifier.seconds)
    return recording.waveform


def _write(explanation: "Explanation", path: Path, file: str) -> None:
    from ast_jax.inference.draw_explanation import draw_explanation

    if path.suffix.lower() == ".png":
        draw_explanation(explanation, path, title="" if file == STDIN else Path(file).name)
    else:
        explanation.save(path)
