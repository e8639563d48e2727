"""Tuned thresholds as tables, JSON, a CSV file and a reliability diagram."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from ast_jax.evaluation.checkpoints import Results
from ast_jax.evaluation.metrics import AverageMetrics
from ast_jax.evaluation.rows import format_number, to_rows
from ast_jax.evaluation.tuning import FOLDS, Tuned
from ast_jax.figures import save_figure, subplots

DECISIONS = ("precision", "recall", "F1")


def tuning_tables(results: Results, tuned: Tuned) -> list[Table]:
    """Returns a table with a row per class, one of averages, and one of calibration."""
    columns = map(_right, ("clips", "threshold", *DECISIONS))
    classes = Table(Column("class", overflow="fold"), *columns, title=Text(_title(results, tuned)))
    for row in threshold_rows(results, tuned):
        classes.add_row(
            Text(row["label"]),
            str(row["clips"]),
            format_number(row["threshold"], ".4g"),
            *(format_number(row[name], ".3f") for name in DECISIONS),
        )
    single = results.problem_type == "single_label_classification"
    default = "most probable class" if single else "0.5 for all classes"
    averages = Table("average", _right("thresholds"), _right(default))
    for name, *values in zip(AverageMetrics._fields, tuned.average, tuned.default, strict=True):
        name = name.replace("_", " ").replace("f1", "F1")
        averages.add_row(name, *(format_number(value, ".3f") for value in values))
    calibration = Table("probabilities", _right("ECE"), _right("loss"))
    (evaluation,) = results.evaluations.values()
    for name, measured, loss in (
        ("of the model", tuned.uncalibrated, evaluation.metrics.loss),
        (_calibration_name(tuned), tuned.calibrated, tuned.calibrated_loss),
    ):
        if measured:
            error = format_number(measured.expected_calibration_error, ".4f")
            calibration.add_row(name, error, format_number(loss, ".4f"))
    return [classes, averages, calibration]


def _right(header: str) -> Column:
    return Column(header, justify="right", no_wrap=True)


def _title(results: Results, tuned: Tuned) -> str:
    source = results.tuning or results
    where = f"{source.data.split}: {len(source.data.clips.waveforms)} clips"
    if tuned.cross_fitted:
        where += f", cross-fitted in {FOLDS} folds"
    return f"{tuned.thresholds.criterion} on {where}"


def _calibration_name(tuned: Tuned) -> str:
    """Returns the calibration in words, with the temperature; '' for none."""
    calibration = tuned.thresholds.calibration
    if calibration is None:
        return ""
    by_class = np.ndim(calibration.scale) > 0
    return "Platt scaling" if by_class else f"temperature {1 / calibration.scale:.4g}"


def threshold_rows(results: Results, tuned: Tuned) -> list[dict[str, Any]]:
    """Returns a row per class.

    It has `label`, `clips`, `threshold`, `precision`, `recall` and `F1` on the evaluated clips, and
    `tuning_clips`, `tuning_precision` and so on on those that the threshold was chosen on; None for
    what is undefined.
    """
    source = results.tuning or results
    columns: dict[str, Sequence[Any]] = {
        "label": results.data.labels,
        "clips": results.data.clips.class_counts().tolist(),
        "threshold": tuned.thresholds.values.tolist(),
    }
    for name, values in zip(DECISIONS, tuned.per_class, strict=True):
        columns[name] = values.tolist()
    columns["tuning_clips"] = source.data.clips.class_counts().tolist()
    for name, values in zip(DECISIONS, tuned.chosen, strict=True):
        columns[f"tuning_{name}"] = values.tolist()
    return to_rows(columns)


def tuning_json(results: Results, tuned: Tuned) -> dict[str, Any]:
    """Returns the thresholds and all metrics of `tuned`, for JSON.

    `tuning_split` is the split that the thresholds were chosen on, and `cross_fitted` whether it is
    the evaluated one. `average` and `default_average` are metrics of the decisions with and without
    thresholds, and `classes` the rows of `threshold_rows`.
    """
    source = results.tuning or results
    content = {
        "criterion": tuned.thresholds.criterion,
        "tuning_split": source.data.split,
        "tuning_clips": len(source.data.clips.waveforms),
        "cross_fitted": tuned.cross_fitted,
        "average": tuned.average._asdict(),
        "default_average": tuned.default._asdict(),
        "expected_calibration_error": tuned.uncalibrated.expected_calibration_error,
        "calibration": None,
        "classes": threshold_rows(results, tuned),
    }
    if tuned.calibrated:
        content["calibration"] = {
            "method": _calibration_name(tuned),
            "expected_calibration_error": tuned.calibrated.expected_calibration_error,
            "loss": tuned.calibrated_loss,
        }
    return content


def draw_reliability(results: Results, tuned: Tuned, file: Path) -> None:
    """Draws a reliability diagram above the number of probabilities in each bin, as a PNG.

    With calibration there is one more of the calibrated probabilities beside it.
    """
    diagrams = [("the model's probabilities", tuned.uncalibrated)]
    if tuned.calibrated:
        diagrams.append((f"after {_calibration_name(tuned)}", tuned.calibrated))
    figure, grid = subplots(
        2, len(diagrams), (1 + 4 * len(diagrams), 6),
        squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1),
    )  # fmt: skip
    single = results.problem_type == "single_label_classification"
    for (title, measured), (above, below) in zip(diagrams, grid.T, strict=True):
        bins = len(measured.counts)
        left = np.arange(bins) / bins
        options = {"width": 1 / bins, "align": "edge", "edgecolor": "white"}
        above.bar(left, measured.frequency, color="tab:blue", **options)
        above.plot(
            measured.probability, measured.frequency, "ko", markersize=3, label="mean of bin"
        )
        above.plot([0, 1], [0, 1], color="gray", linestyle="--", label="calibrated")
        title += f"\nexpected calibration error {measured.expected_calibration_error:.4f}"
        above.set(title=title, xlim=(0, 1), ylim=(-0.02, 1.02))
        below.bar(left, measured.counts, color="tab:gray", **options)
        below.set(xlabel="probability of the predicted class" if single else "probability")
        if not single:  # most of them are near 0
            below.set_yscale("log")
            below.set_ylim(bottom=0.5)
        for axes in (above, below):
            axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel("share of right predictions" if single else "share that has the class")
    grid[1, 0].set_ylabel("clips" if single else "clips × classes")
    grid[0, 0].legend(loc="upper left")
    save_figure(figure, file)
