"""Tests the files of an evaluation in a run's folder."""

import csv
import json
import math

from ast_jax.evaluation.metrics import compute_metrics, per_class_metrics
from ast_jax.runs.results import write_run_results

ODD_LABELS = ["cash_$5_$10", 'say "hi", twice', "звук", "κύμα", "猫の声"]


def read_csv(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def files_in(folder):
    return {file.name for file in folder.iterdir()}


def test_an_evaluation_writes_results_per_class_rows_and_pictures(evaluation, tmp_path):
    logits, targets = evaluation
    metrics = compute_metrics(logits, targets, loss=0.5)
    write_run_results(tmp_path, ODD_LABELS, metrics, logits, targets)
    names = {"results.json", "per_class.csv", "per_class_ap.png", "confusion.png"}
    assert files_in(tmp_path) == names

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    classes = results.pop("classes")
    assert results == metrics._asdict()
    expected = per_class_metrics(logits, targets)
    rows = read_csv(tmp_path / "per_class.csv")
    for i, (row, written) in enumerate(zip(classes, rows, strict=True)):
        assert row["label"] == written["label"] == ODD_LABELS[i]
        assert row["clips"] == int(written["clips"]) == expected.clips[i]
        if i < 4:
            assert row["AP"] == float(written["AP"]) == expected.average_precision[i]
            assert row["AUC"] == float(written["AUC"]) == expected.auc[i]
    assert classes[4]["AP"] is None
    assert rows[4]["AP"] == rows[4]["AUC"] == ""


def test_clips_of_several_classes_have_no_confusion_matrix(evaluation, tmp_path):
    logits, targets = evaluation
    targets[0] = [1, 1, 0, 0, 0]
    metrics = compute_metrics(logits, targets, loss=0.5)
    write_run_results(tmp_path, ODD_LABELS, metrics, logits, targets)
    assert files_in(tmp_path) == {"results.json", "per_class.csv", "per_class_ap.png"}


def test_results_are_valid_json_for_any_loss(evaluation, tmp_path):
    metrics = compute_metrics(*evaluation, loss=math.inf)
    write_run_results(tmp_path, ODD_LABELS, metrics, *evaluation)
    assert "Infinity" not in (tmp_path / "results.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["loss"] is None
