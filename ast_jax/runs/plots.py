"""What a person looks at after a run or an evaluation: a table, files to go on with, pictures."""

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ast_jax.evaluation.metrics import ClassMetrics, Metrics, confusion_matrix, per_class_metrics
from ast_jax.io import atomic_write, write_json

HISTORY_FILE = "history.json"

History = list[dict[str, Any]]

MOST_INCHES = 20
MOST_NAMED = 60  # classes whose names and counts are still legible within MOST_INCHES
EXTREMES = 25  # of more classes than that, how many of the best and of the worst are named
MOST_LETTERS = 40  # of a name beside an axis


def print_table(console: Console, history: History, rows: int = 10) -> None:
    """The last evaluations as a table."""
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


def describe_scores(row: Mapping[str, Any]) -> str:
    """The metrics of an evaluation in a few words."""
    parts = [f"loss {row['loss']:.4f}", f"accuracy {row['accuracy']:.1%}"]
    for name, short in (("mean_average_precision", "mAP"), ("mean_auc", "mAUC")):
        parts.append(f"{short} {format_number(row[name], '.3f')}")
    return ", ".join(parts)


def write_history(folder: Path, history: History) -> None:
    """Writes a row an evaluation to `history.json` and `history.csv`, and draws `loss.png`."""
    rows = [_valid(row) for row in history]
    write_json(folder / HISTORY_FILE, rows)
    write_csv(folder / "history.csv", rows)
    draw_loss(history, folder / "loss.png")


def write_evaluation(
    folder: Path,
    labels: Sequence[str],
    scores: Metrics,
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    confusion: bool,
) -> None:
    """Writes `results.json` and `per_class.csv`, and draws `per_class_ap.png`.

    Args:
        folder: where to; it exists.
        labels: names of the classes.
        scores: of the evaluation as a whole.
        logits: (clips, classes), what `scores` was calculated from.
        targets: (clips, classes).
        confusion: whether to draw `confusion.png` too, which takes a clip for one of one class.
    """
    by_class = per_class_metrics(logits, targets)
    rows = class_rows(labels, by_class)
    write_json(folder / "results.json", _valid(scores._asdict()) | {"classes": rows})
    write_csv(folder / "per_class.csv", rows)
    draw_class_precisions(by_class.average_precision, labels, folder / "per_class_ap.png")
    if confusion:
        draw_confusion(confusion_matrix(logits, targets), labels, folder / "confusion.png")


def class_rows(labels: Sequence[str], by_class: ClassMetrics) -> list[dict[str, Any]]:
    """A row a class: `label`, `clips`, and `AP` and `AUC`, None where they are not defined."""
    return [
        _valid({"label": label, "clips": int(clips), "AP": float(precision), "AUC": float(auc)})
        for label, clips, precision, auc in zip(labels, *by_class, strict=True)
    ]


def draw_loss(history: History, file: Path) -> None:
    """Training and held-out loss by epoch, and the accuracy beside, as a PNG."""
    figure, (left, right) = subplots(1, 2, (10, 4))
    epochs = [row["epoch"] for row in history]

    def values(name: str) -> np.ndarray:
        return np.array([row[name] for row in history], float)  # None becomes NaN: a gap

    left.plot(epochs, values("training_loss"), ".-", label="training")
    left.plot(epochs, values("loss"), ".-", label="held out")
    left.set(xlabel="epoch", ylabel="loss")
    left.set_ylim(0, 1.05 * left.dataLim.ymax if np.isfinite(left.dataLim.ymax) else None)
    right.plot(epochs, values("accuracy"), ".-", label="accuracy")
    right.plot(epochs, values("mean_average_precision"), ".-", label="mAP")
    right.set(xlabel="epoch", ylim=(0, 1.05), title="held-out clips")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        axes.grid(alpha=0.3)
    save_figure(figure, file)


def draw_confusion(matrix: np.ndarray, labels: Sequence[str], file: Path) -> None:
    """A confusion matrix, true classes down, predicted across, as a PNG.

    More than `MOST_NAMED` classes are drawn without their names and counts.
    """
    names = [_short(label) for label in labels]
    # 0.1 inches a letter leave the matrix its room beside the names.
    size = min(3 + 0.1 * max(map(len, names)) + 0.4 * len(names), MOST_INCHES)
    figure, axes = subplots(1, 1, (size, size))
    axes.imshow(
        matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1
    )
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= MOST_NAMED:
        ticks = range(len(labels))
        # parse_math=False: a '$' in a name is a '$' and begins no formula.
        axes.set_xticks(ticks, names, rotation=90, parse_math=False)
        axes.set_yticks(ticks, names, parse_math=False)
        for true, predicted in zip(*np.nonzero(matrix), strict=True):
            dark = matrix[true, predicted] > matrix[true].sum() / 2
            axes.text(
                predicted, true, matrix[true, predicted],
                ha="center", va="center", color="white" if dark else "black", fontsize=8,
            )  # fmt: skip
    save_figure(figure, file)


def draw_class_precisions(precisions: np.ndarray, labels: Sequence[str], file: Path) -> None:
    """The average precision of each class, the best on top, as a PNG.

    Of more than `MOST_NAMED` classes the best and the worst are named, beside a curve of all.
    Classes without clips, whose precision is NaN, are counted and left out.
    """
    known = np.flatnonzero(~np.isnan(precisions))
    order = known[np.argsort(-precisions[known], kind="stable")]
    title = f"{len(order)} classes"
    if len(order) < len(precisions):
        title += f"; {len(precisions) - len(order)} without clips left out"
    if len(order) <= MOST_NAMED:
        figure, axes = subplots(1, 1, (8, 2 + 0.25 * len(order)))
        _draw_bars(axes, precisions, labels, order, title)
    else:
        figure, (curve, best, worst) = subplots(1, 3, (MOST_INCHES, 2 + 0.25 * EXTREMES))
        curve.plot(np.arange(1, len(order) + 1), precisions[order])
        mean = precisions[order].mean()
        curve.axhline(mean, color="gray", linestyle="--", label=f"mean {mean:.3f}")
        curve.set(xlabel="rank", ylabel="average precision", ylim=(0, 1.05), title=title)
        curve.legend()
        curve.grid(alpha=0.3)
        _draw_bars(best, precisions, labels, order[:EXTREMES], f"the best {EXTREMES}")
        _draw_bars(worst, precisions, labels, order[-EXTREMES:], f"the worst {EXTREMES}")
    save_figure(figure, file)


def _draw_bars(
    axes: Any, precisions: np.ndarray, labels: Sequence[str], order: np.ndarray, title: str
) -> None:
    bars = axes.barh(range(len(order)), precisions[order])
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks(range(len(order)), [_short(labels[i]) for i in order], parse_math=False)
    # Room on the right for the figure beside a whole bar.
    axes.set(xlabel="average precision", xlim=(0, 1.12), title=title)
    axes.set_ylim(max(len(order), 1) - 0.5, -0.5)  # the first on top
    axes.grid(axis="x", alpha=0.3)


def subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Any:
    """A figure of a size in inches, and its axes."""
    # Not pyplot: it would choose a window system, and a pod has none.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def save_figure(figure: Any, file: Path) -> None:
    """Writes a figure as a PNG."""
    with atomic_write(file, replace=True) as place, warnings.catch_warnings():
        # Letters that no font has are drawn as boxes; matplotlibrc's font.family adds fonts.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure.savefig(place, dpi=120, format="png")


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows to a CSV file: all fields of all of them; None, and what one lacks, is empty."""
    text = io.StringIO()
    fields = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(file, replace=True) as place:
        place.write_text(text.getvalue(), encoding="utf-8")


def _valid(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with None for the floats that JSON lacks."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def format_number(value: float | None, form: str) -> str:
    """A number in a format, or a dash."""
    return "–" if value is None else format(value, form)


def _short(label: str) -> str:
    return label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 1]}…"
