"""What a person looks at after a run: a table, the loss curve, the confusion matrix."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

History = list[dict[str, Any]]

MOST_INCHES = 20
MOST_NAMED = 60  # classes whose names and counts are still legible within MOST_INCHES


def print_table(console: Console, history: History, rows: int = 10) -> None:
    """The last evaluations as a table."""
    table = Table(title="held-out clips")
    for name in ("epoch", "training loss", "loss", "accuracy", "mAP"):
        table.add_column(name, justify="right")
    for row in history[-rows:]:
        table.add_row(
            str(row["epoch"]),
            f"{row['training_loss']:.4f}",
            f"{row['loss']:.4f}",
            f"{row['accuracy']:.1%}",
            f"{row['mean_average_precision']:.3f}",
        )
    console.print(table)


def draw_loss(history: History, file: Path) -> None:
    """Training and held-out loss by epoch, and the accuracy beside, as a PNG."""
    figure, (left, right) = _subplots(1, 2, (10, 4))
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["training_loss"] for row in history], ".-", label="training")
    left.plot(epochs, [row["loss"] for row in history], ".-", label="held out")
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    right.plot(epochs, [row["accuracy"] for row in history], ".-", label="accuracy")
    right.plot(epochs, [row["mean_average_precision"] for row in history], ".-", label="mAP")
    right.set(xlabel="epoch", ylim=(0, 1.05), title="held-out clips")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def draw_confusion(matrix: np.ndarray, labels: list[str], file: Path) -> None:
    """A confusion matrix, true classes down, predicted across, as a PNG.

    More than `MOST_NAMED` classes are drawn without their names and counts.
    """
    size = min(3 + 0.4 * len(labels), MOST_INCHES)
    figure, axes = _subplots(1, 1, (size, size))
    axes.imshow(
        matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1
    )
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= MOST_NAMED:
        ticks = range(len(labels))
        # parse_math=False: a '$' in a name is a '$' and begins no formula.
        axes.set_xticks(ticks, labels, rotation=90, parse_math=False)
        axes.set_yticks(ticks, labels, parse_math=False)
        for true, predicted in zip(*np.nonzero(matrix), strict=True):
            dark = matrix[true, predicted] > matrix[true].sum() / 2
            axes.text(
                predicted, true, matrix[true, predicted],
                ha="center", va="center", color="white" if dark else "black", fontsize=8,
            )  # fmt: skip
    figure.savefig(file, dpi=120)


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> Any:
    # Not pyplot: it would choose a window system, and a pod has none.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)
