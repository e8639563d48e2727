"""The history of a run: a row of metrics per evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ast_jax.config import TrainConfig
from ast_jax.errors import InputError
from ast_jax.evaluation.event_report import EVENT_METRICS
from ast_jax.evaluation.rows import finite_or_none, format_number
from ast_jax.io import read_json, write_csv, write_json
from ast_jax.runs.plots import draw_loss

HISTORY_FILE = "history.json"

SHORT_NAMES = {"mean_average_precision": "mAP"}  # of metrics

History = list[dict[str, Any]]


class KeptEpochs(NamedTuple):
    """The epochs of the parameters that a run results in.

    Attributes:
        first: the first epoch of an average, otherwise the epoch.
        last: the last epoch of an average, otherwise the epoch.
        reason: 'last', 'best mAP', 'best accuracy' or 'average'.
    """

    first: int
    last: int
    reason: str

    def __str__(self) -> str:
        """Returns 'epoch 8 (last)', or 'mean of epochs 2 to 8'."""
        if self.reason == "average":
            return f"mean of epochs {self.first} to {self.last}"
        return f"epoch {self.last} ({self.reason})"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields of `results.json`: `epoch`, or `averaged_epochs` (first, last)."""
        if self.reason == "average":
            return {"averaged_epochs": [self.first, self.last]}
        return {"epoch": self.last}


def kept_epochs(config: TrainConfig, history: History) -> KeptEpochs | None:
    """Returns the epochs that a run keeps if it ends with this history; None if none yet."""
    if not history:
        return None
    last = history[-1]["epoch"]
    if config.final_params == "average":
        first, last = config.average_from, min(config.average_to or last, last)
        return KeptEpochs(first, last, "average") if first <= last else None
    best = best_epoch(history, config.metric)
    if config.final_params == "last" or best is None:
        return KeptEpochs(last, last, "last")
    name = SHORT_NAMES.get(config.metric, config.metric)
    return KeptEpochs(best, best, f"best {name}")


def write_history(
    folder: Path, history: History, chance: float | None = None, kept: KeptEpochs | None = None
) -> None:
    """Writes a row per evaluation to `history.json` and `history.csv`, and draws `loss.png`.

    Args:
        folder: of the run.
        history: a row per evaluation.
        chance: see `draw_loss`.
        kept: the epochs to mark; None to mark none.
    """
    rows = [finite_or_none(row) for row in history]
    write_json(folder / HISTORY_FILE, rows)
    write_csv(folder / "history.csv", rows)
    draw_loss(history, folder / "loss.png", chance, kept and (kept.first, kept.last))


def read_history(workdir: Path, step: int, steps_per_epoch: int) -> History:
    """Reads the rows of the evaluations up to a training step.

    Later rows are of a run that was interrupted before its next checkpoint; resuming makes them
    again.

    Raises:
        InputError: the file is damaged.
    """
    file = workdir / HISTORY_FILE
    rows = read_json(file) if file.exists() else []
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise InputError(
            f"{file}: is not a list of evaluations; delete it to resume without the earlier ones"
        )
    return [row for row in rows if row["epoch"] * steps_per_epoch <= step]


def _is_row(row: Any) -> bool:
    """Returns whether a value has the fields that every version has written, with numbers."""
    return (
        isinstance(row, dict)
        and all(map(_is_number_or_none, row.values()))
        and isinstance(row.get("epoch"), int)
        and row["epoch"] > 0
        and {"training_loss", "loss", "accuracy", "mean_average_precision"} <= row.keys()
    )


def _is_number_or_none(value: Any) -> bool:
    # JSON's integers may be beyond a float's range, and Python reads its NaN.
    return value is None or (isinstance(value, int | float) and abs(value) < 1e300)


def best_epoch(history: History, metric: str) -> int | None:
    """Returns the first epoch with the best value of a metric; None before any evaluation."""
    scored = [row for row in history if row.get(metric) is not None]
    return max(scored, key=lambda row: row[metric])["epoch"] if scored else None


# Of the table that a run prints, a row per evaluation. It fits 80 columns up to 999 epochs.
COLUMNS = {
    "training loss": 13,
    "held-out loss": 13,
    "accuracy": 8,
    "mAP": 5,
    "mAUC": 5,
    "clips/s": 7,
    "waiting": 7,
}


def epoch_header(num_epochs: int) -> str:
    """Returns the header of `epoch_line`."""
    return _join("epoch", list(COLUMNS), num_epochs)


def epoch_line(
    row: Mapping[str, Any], num_epochs: int, speed: tuple[float, float] | None = None
) -> str:
    """Returns the line of an evaluation, below `epoch_header`.

    Args:
        row: of the history.
        num_epochs: of the run.
        speed: clips/s, and the share of the time spent waiting for data; None if unknown.
    """
    rate, waiting = speed or (None, None)
    values = [
        format_number(row["training_loss"], ".4f"),
        format_number(row["loss"], ".4f"),
        format_number(row["accuracy"], ".1%"),
        format_number(row["mean_average_precision"], ".3f"),
        format_number(row["mean_auc"], ".3f"),
        format_number(rate, ".1f" if rate and rate < 100 else ".0f"),
        format_number(waiting, ".0%"),
    ]
    return _join(f"{row['epoch']}/{num_epochs}", values, num_epochs)


def _join(first: str, values: list[str], num_epochs: int) -> str:
    width = max(len("epoch"), len(f"{num_epochs}/{num_epochs}"))
    cells = [f"{value:>{n}}" for value, n in zip(values, COLUMNS.values(), strict=True)]
    return "  ".join([f"{first:>{width}}", *cells])


def describe_metrics(row: Mapping[str, Any]) -> str:
    """Returns the loss, the accuracy and the mAP of an evaluation, and those of its events."""
    precision = format_number(row["mean_average_precision"], ".3f")
    words = f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.1%}, mAP {precision}"
    for name, title in EVENT_METRICS.items():
        if name in row:
            words += f", {title} {format_number(row[name], '.3f')}"
    return words
