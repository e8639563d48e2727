"""Class lists of the benchmarks, and what goes with them in the published checkpoints."""

import csv
import functools
from importlib import resources
from typing import NamedTuple


class Benchmark(NamedTuple):
    """What the published checkpoints of a benchmark have in common (egs/*/run*.sh).

    `mean` and `std` are those of its log-mels; inputs are (x - mean) / (2·std).
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

# The published files say neither their labels nor their statistics; the number of classes
# tells which benchmark they are of.
BY_NUM_LABELS = {527: AUDIOSET, 50: ESC50, 35: SPEECH_COMMANDS}


@functools.cache
def class_names(class_list: str) -> tuple[str, ...]:
    """Display names in the published order of 'audioset', 'esc50' or 'speech_commands_v2_35'."""
    file = resources.files("ast_jax") / "class_lists" / f"{class_list}.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(row["display_name"] for row in csv.DictReader(lines))


def id2label(class_list: str) -> dict[int, str]:
    """The class list as `ASTConfig.id2label` has it."""
    return dict(enumerate(class_names(class_list)))
