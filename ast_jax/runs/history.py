"""The history of a run: a row of metrics per evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ast_jax.errors import InputError
from ast_jax.evaluation.report import finite_or_none, format_number
from ast_jax.io import read_json, write_csv, write_json
from ast_jax.runs.plots import draw_loss

HISTORY_FILE = "history.json"

History = list[dict[str, Any]]


def write_history(folder: Path, history: History) -> None:
    """Writes a row per evaluation to `history.json` and `history.csv`, and draws `loss.png`."""
    rows = [finite_or_none(row) for row in history]
    write_json(folder / HISTORY_FILE, rows)
    write_csv(folder / "history.csv", rows)
    draw_loss(history, folder / "loss.png")


def read_history(workdir: Path, step: int, steps_per_epoch: int) -> History:
    """Reads the rows of the evaluations up to a training step.

    Later rows are of a run that was interrupted before its next checkpoint; resuming makes them
    again.

    Raises:
        InputError: the file is damaged.
    """
    file = workdir / HISTORY_FILE
    rows = read_json(file) if file.exists() else []
    try:
        return [row for row in rows if row["epoch"] * steps_per_epoch <= step]
    except (TypeError, KeyError):
        raise InputError(
            f"{file}: is not a list of evaluations; delete it to resume without the earlier ones"
        ) from None


def best_epoch(history: History, metric: str) -> int | None:
    """Returns the first epoch with the best value of a metric; None before any evaluation."""
    scored = [row for row in history if row.get(metric) is not None]
    return max(scored, key=lambda row: row[metric])["epoch"] if scored else None


def print_table(console: Console, history: History, rows: int = 10) -> None:
    """Prints the last evaluations as a table."""
    table = Table(title="held-out clips")
    for name in ("epoch", "training loss", "loss", "mAP", "mAUC", "d'", "accuracy"):
        table.add_column(name, justify="right")
    for row in history[-rows:]:
        table.add_row(
            str(row["epoch"]),
            format_number(row["training_loss"], ".4f"),
            format_number(row["loss"], ".4f"),
            format_number(row["mean_average_precision"], ".3f"),
            format_number(row["mean_auc"], ".3f"),
            "∞" if row["mean_auc"] == 1 else format_number(row["d_prime"], ".2f"),
            format_number(row["accuracy"], ".1%"),
        )
    console.print(table)


def describe_metrics(row: Mapping[str, Any]) -> str:
    """Returns the metrics of an evaluation on one line."""
    parts = [f"loss {row['loss']:.4f}", f"accuracy {row['accuracy']:.1%}"]
    for name, short in (("mean_average_precision", "mAP"), ("mean_auc", "mAUC")):
        parts.append(f"{short} {format_number(row[name], '.3f')}")
    return ", ".join(parts)
