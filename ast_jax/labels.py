"""Class lists of the benchmarks, and the settings that their published checkpoints share."""

import csv
import functools
from importlib import resources
from typing import Any, NamedTuple


class Benchmark(NamedTuple):
    """Settings of a benchmark's published checkpoints (the original's egs/*/run*.sh).

    `mean` and `std` are those of its log-mels; the model's input is (x - mean) / (2·std).
    """

    class_list: str
    mean: float
    std: float
    problem_type: str


AUDIOSET = Benchmark("audioset", -4.2677393, 4.5689974, "multi_label_classification")
ESC50 = Benchmark("esc50", -6.6268077, 5.358466, "single_label_classification")
SPEECH_COMMANDS = Benchmark(
    "speech_commands_v2_35", -6.845978, 5.5654526, "single_label_classification"
)

# The published files contain neither labels nor statistics, only the number of classes.
BY_NUM_LABELS = {527: AUDIOSET, 50: ESC50, 35: SPEECH_COMMANDS}


@functools.cache
def class_names(class_list: str) -> tuple[str, ...]:
    """Returns the display names of a class list, in the published order.

    Args:
        class_list: 'audioset', 'esc50' or 'speech_commands_v2_35'.
    """
    file = resources.files("ast_jax") / "class_lists" / f"{class_list}.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(row["display_name"] for row in csv.DictReader(lines))


def id2label(class_list: str) -> dict[int, str]:
    """Returns a class list in the form of `ASTConfig.id2label`."""
    return dict(enumerate(class_names(class_list)))


def label_fields(num_labels: int) -> dict[str, Any]:
    """Returns the label fields of `ASTConfig` for a checkpoint with that many classes.

    They are those of the benchmark with that many classes, or single-label without names.
    """
    fields: dict[str, Any] = {
        "num_labels": num_labels,
        "problem_type": "single_label_classification",
    }
    if benchmark := BY_NUM_LABELS.get(num_labels):
        fields["id2label"] = id2label(benchmark.class_list)
        fields["problem_type"] = benchmark.problem_type
    return fields
