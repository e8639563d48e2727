"""`ast-jax classify`: labels sound files."""

import csv
import json as json_module
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ast_jax.cli.arguments import CORES, Dtype, Positive, check_given
from ast_jax.cli.command import naming
from ast_jax.cli.load import load_classifier
from ast_jax.cli.sound_files import expand_folders, read_inputs
from ast_jax.errors import InputError, one_line
from ast_jax.io import check_free
from ast_jax.urls import check_local

if TYPE_CHECKING:
    import numpy as np

    from ast_jax.inference.classifier import Labels

Write = Callable[[str, "Labels"], None]


def classify(
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")],
    *,
    checkpoint: str,
    top_k: Positive = 5,
    batch_size: Positive = 1,
    dtype: Dtype = None,
    scale_loud: bool = False,
    output: str = "",
    json: bool = False,
) -> int:
    """Label sound files.

    Args:
        files: sound files, folders to read recursively, or - for a sound file on standard input
        checkpoint: a checkpoint or run folder, a Hugging Face folder, a .safetensors or a .pth
        top_k: number of labels per file
        batch_size: files that the device computes at once
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        scale_loud: divide sounds that go beyond 1 by their peak
        output: a new .csv or .jsonl (JSON Lines) to write each file's labels to as they are found
        json: print JSON
    """
    if not files:
        raise InputError("no sound files are given; name files, folders or -")
    for file in files:
        check_given(FILE=file)
    if output:
        _check_output(output)
        if json:
            raise InputError(f"--json prints what --output writes to {output}; leave one out")
    classifier = load_classifier(checkpoint, dtype)
    sounds, status = expand_folders(files)
    unusable: list[str] = []
    names: deque[str] = deque()  # of the inputs without labels so far

    def inputs() -> "Iterator[np.ndarray]":
        for file, values in read_inputs(
            sounds, classifier, CORES + batch_size, unusable, scale_loud=scale_loud
        ):
            names.append(file)
            yield values

    results = classifier.classify_inputs(inputs(), top_k, batch_size=batch_size)
    named = ((names.popleft(), labels) for labels in results)
    if output:
        with naming(output), _open_output(output) as write:
            for file, labels in named:
                write(file, labels)
        print(f"wrote the labels of {len(sounds) - len(unusable)} files to {output}", flush=True)
    elif json:
        _print_json(named)
    else:
        for file, labels in named:
            print(one_line(file), flush=True)
            for label in labels:
                print(f"  {label['score']:6.1%}  {label['label']}", flush=True)
    return 1 if unusable else status


def _print_json(results: "Iterable[tuple[str, Labels]]") -> None:
    """Prints a list as JSON, each file as it is labeled."""
    separator = "["
    for file, labels in results:
        item = json_module.dumps({"file": file, "labels": labels}, indent=2)
        print(f"{separator}\n{textwrap.indent(item, '  ')}", end="", flush=True)
        separator = ","
    print("[]" if separator == "[" else "\n]", flush=True)


def _check_output(output: str) -> None:
    check_local(output)
    check_free(Path(output))
    if Path(output).suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(f"{output}: ends in neither .csv nor .jsonl; choose one of them")


@contextmanager
def _open_output(output: str) -> Iterator[Write]:
    """Creates the output, and yields the function that writes a file's labels to it."""
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    # Names of files may be no valid UTF-8.
    with open(output, "x", encoding="utf-8", errors="backslashreplace", newline="") as target:
        table = csv.writer(target, lineterminator="\n")

        def write_csv(file: str, labels: "Labels") -> None:
            table.writerows((file, label["label"], label["score"]) for label in labels)
            target.flush()

        def write_json(file: str, labels: "Labels") -> None:
            target.write(json_module.dumps({"file": file, "labels": labels}) + "\n")
            target.flush()

        if Path(output).suffix.lower() == ".csv":
            table.writerow(("file", "label", "score"))
            yield write_csv
        else:
            yield write_json
