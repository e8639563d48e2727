"""Formats of the results of `classify`: text, JSON, and lines of files."""

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ast_jax.errors import one_line
from ast_jax.io import csv_line

if TYPE_CHECKING:
    from ast_jax.cli.output_file import OutputFile
    from ast_jax.inference.classifier import Labels

Results = Iterator[tuple[str, Iterable[Any]]]  # the results of each sound file


class ResultFormat(NamedTuple):
    """The format of results of one kind.

    Attributes:
        name: what the results are.
        columns: of a .csv.
        to_lines: by the suffix of a file; each returns the lines, without the last line break, of
            a sound file's name and a result.
        to_json: returns a dict of the same.
        to_text: returns the lines to print below the sound file's name.
        heading: a line to print above these, if there are any.
    """

    name: str
    columns: tuple[str, ...]
    to_lines: dict[str, Callable[[str, Any], str]]
    to_json: Callable[[str, Any], dict[str, Any]]
    to_text: Callable[[Any], str]
    heading: str = ""


def _labels_json(file: str, labels: "Labels") -> dict[str, Any]:
    return {"file": file, "labels": labels}


def _labels_csv(file: str, labels: "Labels") -> str:
    return csv_lines((file, label["label"], label["score"]) for label in labels)


def _labels_text(labels: "Labels") -> str:
    return "\n".join(f"  {percent(label)}" for label in labels)


def percent(label: dict[str, Any]) -> str:
    """Returns a label with its score for people."""
    return f"{label['score']:6.1%}  {one_line(label['label'])}"


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Returns rows as CSV, without the last line break."""
    return "\n".join(map(csv_line, rows))


def make_json_line(to_json: Callable[[str, Any], dict[str, Any]]) -> Callable[[str, Any], str]:
    """Returns the function for JSON Lines that goes with `ResultFormat.to_json`."""
    return lambda file, result: json.dumps(to_json(file, result))


LABELS = ResultFormat(
    "labels",
    ("file", "label", "score"),
    {".csv": _labels_csv, ".jsonl": make_json_line(_labels_json)},
    _labels_json,
    _labels_text,
)


def write_results(
    results: Results,
    format: ResultFormat,
    suffix: str,
    unusable: Sequence[str],
    output: "OutputFile",
) -> None:
    """Writes results as they are found, in the format of a suffix.

    `unusable` has the files that cannot be used, or not completely, when their results are found.
    """
    for file, found in results:
        for result in found:
            output.write(f"{format.to_lines[suffix](file, result)}\n")
        output.finish(file, is_damaged=file in unusable)


def print_results(results: Results, format: ResultFormat) -> None:
    """Prints results as they are found, below the names of the sound files."""
    for file, found in results:
        print(one_line(file), flush=True)
        heading = format.heading
        for result in found:
            if heading:
                print(heading)
            heading = ""
            print(format.to_text(result), flush=True)
        if heading:
            print("  none", flush=True)


def print_json(results: Results, format: ResultFormat) -> None:
    """Prints a list as JSON, with an item for each result as it is found."""
    separator = "["
    for file, found in results:
        for result in found:
            item = json.dumps(format.to_json(file, result), indent=2)
            print(f"{separator}\n{textwrap.indent(item, '  ')}", end="", flush=True)
            separator = ","
    print("[]" if separator == "[" else "\n]", flush=True)
