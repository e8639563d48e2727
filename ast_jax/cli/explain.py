"""`ast-jax explain`: draws what the scores of sound files depend on."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ast_jax.cli.arguments import CORES, Dtype, Positive, check_given
from ast_jax.cli.load_classifier import load_classifier
from ast_jax.cli.sound_files import STDIN, expand_folders, read_inputs
from ast_jax.errors import InputError, one_line, quoted
from ast_jax.io import check_free
from ast_jax.urls import check_local

if TYPE_CHECKING:
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
        files: sound files, folders to read recursively, or - for a sound file on standard input
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
        raise InputError("no sound files are given; name files, folders or -")
    for file in files:
        check_given(FILE=file)
    if labels and top_k is not None:
        raise InputError("--labels and --top-k are both given; leave one of them out")
    sounds, status = expand_folders(files)
    targets = _choose_targets(sounds, output, method)
    classifier = load_classifier(checkpoint, dtype)
    from ast_jax.inference.batching import map_values

    unusable: list[str] = []
    inputs = read_inputs(
        sounds, classifier, CORES, unusable,
        scale_loud=scale_loud, advice="cut the part to explain into a file of its own",
    )  # fmt: skip
    compute = partial(classifier.explain_inputs, labels=labels or None, top_k=top_k, method=method)
    for file, explanation in map_values(compute, inputs):
        print(one_line(file))
        for label, score in zip(explanation.labels, explanation.scores, strict=True):
            print(one_line(f"  {score:6.1%}  {label}"))
        for path in targets[file]:
            _write(explanation, path, file)
            print(one_line(f"  wrote {path}"), flush=True)
    return 1 if unusable else status


def _choose_targets(sounds: list[str], output: str, method: str) -> dict[str, list[Path]]:
    """Returns the files to write for each sound.

    Raises:
        InputError: one of them exists, or is that of two sounds.
    """
    check_local(output)
    if Path(output).suffix.lower() in SUFFIXES:
        if len(sounds) > 1:
            raise InputError(
                f"{output}: is one file and there are {len(sounds)} sounds; give a folder"
            )
        targets = {sound: [Path(output)] for sound in sounds}
    else:
        targets = {}
        for sound in sounds:
            name = "standard_input" if sound == STDIN else Path(sound).stem
            paths = [Path(output) / f"{name}.{method}{suffix}" for suffix in SUFFIXES]
            if paths in targets.values():
                raise InputError(
                    f"two files are named {quoted(name)}, and so would be their pictures; explain "
                    f"them one by one, each with another --output"
                )
            targets[sound] = paths
    for paths in targets.values():
        for path in paths:
            check_free(path)
    return targets


def _write(explanation: "Explanation", path: Path, file: str) -> None:
    from ast_jax.inference.draw_explanation import draw_explanation

    if path.suffix.lower() == ".png":
        draw_explanation(explanation, path, title="" if file == STDIN else Path(file).name)
    else:
        explanation.save(path)
