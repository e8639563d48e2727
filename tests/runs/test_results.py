"""Tests the files of an evaluation in a run's folder."""

import csv
import json
import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score

from ast_jax.data.clips import Clips
from ast_jax.evaluation.metrics import compute_metrics, per_class_metrics
from ast_jax.runs.history import KeptEpochs
from ast_jax.runs.results import write_run_results

FILES = {"results.json", "per_class.csv", "predictions.csv", "worst.csv", "per_class_ap.png"}
ODD_LABELS = ["cash_$5_$10", 'say "hi", twice', "звук", "κύμα", "猫の声"]


def read_csv(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def write(folder, logits, targets, problem_type="single_label_classification", loss=0.5):
    """Writes the results of clips called 0.wav, 1.wav, …; returns their metrics."""
    clips = Clips([], targets, [f"{i}.wav" for i in range(len(targets))])
    metrics = compute_metrics(logits, targets, loss=loss)
    kept = KeptEpochs(7, 7, "last")
    write_run_results(folder, ODD_LABELS, metrics, logits, clips, problem_type, kept)
    return metrics


def files_in(folder):
    return {file.name for file in folder.iterdir()}


def test_an_evaluation_writes_results_per_class_rows_and_pictures(evaluation, tmp_path):
    logits, targets = evaluation
    metrics = write(tmp_path, logits, targets)
    assert files_in(tmp_path) == {*FILES, "confusion.png"}

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    classes = results.pop("classes")
    assert results == {"epoch": 7} | metrics._asdict()
    expected = per_class_metrics(softmax(logits, axis=1), targets)
    rows = read_csv(tmp_path / "per_class.csv")
    for i, (row, written) in enumerate(zip(classes, rows, strict=True)):
        assert row["label"] == written["label"] == ODD_LABELS[i]
        assert row["clips"] == int(written["clips"]) == expected.clips[i]
        if i < 4:
            assert row["AP"] == float(written["AP"]) == expected.average_precision[i]
            assert row["AUC"] == float(written["AUC"]) == expected.auc[i]
            recall = (logits.argmax(axis=1) == i)[targets[:, i] > 0].mean()
            assert row["recall"] == float(written["recall"]) == recall
    assert classes[4]["AP"] is None
    assert rows[4]["AP"] == rows[4]["AUC"] == ""


def test_predictions_have_the_class_its_probability_and_the_loss_of_each_clip(evaluation, tmp_path):
    logits, targets = evaluation
    write(tmp_path, logits, targets)
    rows = read_csv(tmp_path / "predictions.csv")
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for i, row in enumerate(rows):
        assert row["clip"] == f"{i}.wav"
        assert row["true"] == ODD_LABELS[targets[i].argmax()]
        assert row["predicted"] == ODD_LABELS[logits[i].argmax()]
        assert float(row["score"]) == pytest.approx(scores[i].max(), rel=1e-5)
        assert float(row["loss"]) == pytest.approx(-np.log(scores[i][targets[i] > 0][0]), rel=1e-4)
    by_loss = sorted(rows, key=lambda row: -float(row["loss"]))
    assert read_csv(tmp_path / "worst.csv") == by_loss[:20]


def test_several_true_classes_are_joined_and_the_most_probable_is_predicted(evaluation, tmp_path):
    logits, targets = evaluation
    targets[0], targets[1] = [1, 0, 1, 0, 0], 0
    write(tmp_path, logits, targets, "multi_label_classification")
    rows = read_csv(tmp_path / "predictions.csv")
    assert (rows[0]["true"], rows[1]["true"]) == ("cash_$5_$10;звук", "")
    assert rows[0]["predicted"] == ODD_LABELS[logits[0].argmax()]
    assert float(rows[0]["score"]) == pytest.approx(1 / (1 + np.exp(-logits[0].max())), rel=1e-5)
    for row, column, target in zip(
        read_csv(tmp_path / "per_class.csv"), logits.T >= 0, targets.T, strict=True
    ):
        expected = f1_score(target, column, zero_division=np.nan)
        assert float(row["F1"] or "nan") == pytest.approx(expected, nan_ok=True)


def test_clips_of_several_classes_have_no_confusion_matrix(evaluation, tmp_path):
    logits, targets = evaluation
    targets[0] = [1, 1, 0, 0, 0]
    write(tmp_path, logits, targets, "multi_label_classification")
    assert files_in(tmp_path) == FILES


def test_results_are_valid_json_for_any_loss(evaluation, tmp_path):
    write(tmp_path, *evaluation, loss=math.inf)
    assert "Infinity" not in (tmp_path / "results.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["loss"] is None
