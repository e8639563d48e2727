"""What an evaluation of checkpoints found, as a table, as JSON and as files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from ast_jax.evaluation.evaluate import Evaluation, Results
from ast_jax.io import atomic_write
from ast_jax.runs.plots import class_rows, format_number


def results_table(results: Results) -> Table:
    """A line for each checkpoint, and one for the ensemble."""
    data = results.data
    about = f"{data.folder}, {data.split}: {len(data.clips.waveforms)} clips"
    table = Table(title=Text(about))
    table.add_column("checkpoint", overflow="fold")
    for column in ("mAP", "mAUC", "d'", "accuracy", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, evaluation in _lines(results):
        scores = evaluation.scores
        table.add_row(
            Text(name),
            format_number(scores.mean_average_precision, ".4f"),
            format_number(scores.mean_auc, ".4f"),
            "∞" if scores.mean_auc == 1 else format_number(scores.d_prime, ".3f"),
            format_number(scores.accuracy, ".2%"),
            format_number(scores.loss, ".4f"),
        )
    return table


def results_json(results: Results) -> dict[str, Any]:
    """The set, and every checkpoint's and the ensemble's scores, as JSON takes them."""
    data, together = results.data, results.ensemble
    return {
        "data": data.folder,
        "split": data.split,
        "clips": len(data.clips.waveforms),
        "classes": len(data.labels),
        "checkpoints": [
            {"checkpoint": path, **evaluation.scores._asdict()}
            for path, evaluation in results.evaluations.items()
        ],
        "ensemble": together.scores._asdict() if together else None,
    }


def write_results(folder: str | Path, results: Results) -> None:
    """Writes a folder of three files, whole or not at all.

    `results.json` is `results_json`'s. `per_class.csv` has a line a class: how many clips have
    it, and the average precision of each checkpoint and of the ensemble, empty where no clip
    has it. `predictions.npz` holds `ids` and `targets` (clips, classes) of the clips, `labels`,
    `checkpoints` and `probabilities`, float32 (checkpoints, clips, classes).

    Raises:
        InputError: `folder` exists already or cannot be written.
    """
    data = results.data
    precisions = {
        f"AP {name}": [row["AP"] for row in class_rows(data.labels, evaluation.by_class)]
        for name, evaluation in _lines(results)
    }
    targets = data.clips.all_targets()
    counts = (targets > 0).sum(axis=0)
    evaluations = results.evaluations
    with atomic_write(Path(folder).absolute()) as place:
        place.mkdir()
        text = json.dumps(results_json(results), indent=2, allow_nan=False)
        (place / "results.json").write_text(text + "\n", encoding="utf-8")
        # A path may hold what is no UTF-8.
        with (place / "per_class.csv").open(
            "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["label", "clips", *precisions])
            writer.writerows(zip(data.labels, counts, *precisions.values(), strict=True))
        np.savez(
            place / "predictions.npz",
            ids=np.array(data.clips.names),
            labels=np.array(data.labels),
            targets=targets.astype(np.uint8),
            checkpoints=np.array(list(evaluations)),
            probabilities=np.stack([one.probabilities for one in evaluations.values()]),
        )


def _lines(results: Results) -> list[tuple[str, Evaluation]]:
    """Every checkpoint's evaluation by its path, and the ensemble's."""
    lines = list(results.evaluations.items())
    return lines + ([("ensemble", results.ensemble)] if results.ensemble else [])
