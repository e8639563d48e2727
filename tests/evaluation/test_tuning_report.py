import csv
import io
import json

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from ast_jax.evaluation.report import results_json, write_results
from ast_jax.evaluation.tuning import TuningOptions, tune
from ast_jax.evaluation.tuning_report import threshold_rows, tuning_tables

from .test_tuning import LABELS, MULTI, SINGLE, draw, results

DECISIONS = ("precision", "recall", "F1")


@pytest.fixture(params=[(SINGLE, "temperature"), (MULTI, "platt"), (MULTI, None)])
def tuned(request):
    """Returns results and thresholds chosen on clips without the last class."""
    problem_type, calibration = request.param
    logits, targets = draw(1)
    targets[:, 3] = 0
    if problem_type == SINGLE:
        targets = np.eye(4, dtype=np.float32)[targets.argmax(axis=1)]
    found = results(*draw(0), problem_type=problem_type)
    found = found._replace(tuning=results(logits, targets, "validation", problem_type))
    return found, tune(found, TuningOptions(None, calibration))


def test_the_files_have_what_was_tuned(tuned, tmp_path):
    write_results(tmp_path / "out", *tuned)
    found, chosen = tuned
    text = (tmp_path / "out" / "results.json").read_text()
    written = json.loads(text, parse_constant=pytest.fail)
    assert written == results_json(*tuned)
    assert "thresholds" not in results_json(found)
    written = written["thresholds"]
    assert (written["criterion"], written["tuning_split"]) == ("best F1", "validation")
    assert written["average"] == chosen.average._asdict()
    assert (written["calibration"] is None) == (chosen.calibrated is None)
    with (tmp_path / "out" / "thresholds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == LABELS
    assert [row["threshold"] == "" for row in rows] == [False, False, False, True]
    targets = found.data.clips.targets, found.tuning.data.clips.targets
    for prefix, metrics, those in zip(
        ("", "tuning_"), (chosen.per_class, chosen.chosen), targets, strict=True
    ):
        counts = [int(row[f"{prefix}clips"]) for row in rows]
        np.testing.assert_array_equal(counts, those.sum(axis=0))
        for name, values in zip(DECISIONS, metrics, strict=True):
            read = [float(row[prefix + name] or "nan") for row in rows]
            np.testing.assert_allclose(read, values)
    picture = matplotlib.image.imread(tmp_path / "out" / "reliability.png")
    blue = (picture[..., 2] > picture[..., 0] + 0.1).mean()
    assert blue > 0.05
    assert (picture.shape[1] > 800) == (chosen.calibrated is not None)


def test_the_tables_have_every_class_and_average(tuned):
    screen = io.StringIO()
    for table in tuning_tables(*tuned):
        Console(file=screen, width=100).print(table)
    text = screen.getvalue()
    assert "best F1 on validation: 200 clips" in text
    for row in threshold_rows(*tuned):
        (line,) = (line for line in text.splitlines() if row["label"] in line)
        for name in DECISIONS:
            assert f" {row[name]:.3f} " in line if row[name] is not None else "–" in line
    _, chosen = tuned
    for average in (chosen.average, chosen.default):
        assert f"{average.micro_f1:.3f}" in text
    assert f"{chosen.uncalibrated.expected_calibration_error:.4f}" in text


def test_the_table_says_that_thresholds_are_cross_fitted():
    found = results(*draw(0))
    first, *_ = tuning_tables(found, tune(found, TuningOptions()))
    assert str(first.title) == "best F1 on test: 200 clips, cross-fitted in 5 folds"
