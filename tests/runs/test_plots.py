"""What a run leaves to look at: its table, files and pictures."""

import csv
import io
import json
import math
import os

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from ast_jax.evaluation.metrics import compute_metrics, per_class_metrics
from ast_jax.runs.plots import (
    draw_class_precisions,
    draw_confusion,
    draw_loss,
    print_table,
    write_evaluation,
    write_history,
)

ODD_LABELS = ["cash_$5_$10", 'say "hi", twice', "звук", "κύμα", "猫の声"]


@pytest.fixture
def evaluation():
    """Logits and targets of five classes, of which no clip has the last."""
    rng = np.random.default_rng(0)
    targets = np.eye(5, dtype=np.float32)[rng.integers(0, 4, 40)]
    return rng.standard_normal((40, 5)) + targets, targets


@pytest.fixture
def history(evaluation):
    """Two evaluations: one as usual, one that found every clip."""
    _, targets = evaluation
    rows = [compute_metrics(logits, targets, loss=0.5) for logits in (evaluation[0], targets)]
    return [
        {"epoch": 2 * i + 2, "training_loss": 0.75, **row._asdict()} for i, row in enumerate(rows)
    ]


def read(file):
    return matplotlib.image.imread(file)


def read_csv(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def files_in(folder):
    return {file.name for file in folder.iterdir()}


def confusion(labels, file):
    """The confusion matrix of a classifier that is mostly right, as RGBA in [0, 1]."""
    matrix = 9 * np.eye(len(labels), dtype=int)
    matrix[0, -1] = 3
    draw_confusion(matrix, labels, file)
    return read(file)


def precisions(values, labels, file):
    """The picture of average precisions, as RGBA in [0, 1]."""
    draw_class_precisions(np.array(values, float), labels, file)
    return read(file)


def blue(picture):
    """The share of a picture that bars and lines take."""
    return (picture[..., 2] > picture[..., 0] + 0.1).mean()


def test_the_table_shows_every_metric_and_an_infinite_d_prime(history):
    console = Console(file=io.StringIO(), width=120)
    print_table(console, history)
    shown = console.file.getvalue()
    first, last = history
    assert all(name in shown for name in ("epoch", "training loss", "mAP", "mAUC", "d'"))
    for figure in (
        f"{first['mean_average_precision']:.3f}",
        f"{first['mean_auc']:.3f}",
        f"{first['d_prime']:.2f}",
        f"{first['accuracy']:.1%}",
    ):
        assert figure in shown
    assert last["d_prime"] is None
    assert "∞" in shown


def test_the_table_shows_only_the_last_rows(history):
    console = Console(file=io.StringIO(), width=120)
    print_table(console, history[:1] * 3 + history[1:], rows=1)
    assert "∞" in console.file.getvalue()
    assert f"{history[0]['mean_auc']:.3f}" not in console.file.getvalue()


def test_a_metric_that_no_class_has_is_a_dash_in_the_table_and_a_gap_in_the_curve(
    history, tmp_path
):
    nothing = compute_metrics(np.zeros((3, 2)), np.zeros((3, 2)), loss=0.5)
    history.append({"epoch": 6, "training_loss": 0.5, **nothing._asdict()})
    console = Console(file=io.StringIO(), width=120)
    print_table(console, history, rows=1)
    assert console.file.getvalue().count("–") == 3
    draw_loss(history, tmp_path / "loss.png")
    assert read(tmp_path / "loss.png").std() > 0.02


def test_a_history_is_the_same_as_json_and_as_csv(history, tmp_path):
    write_history(tmp_path, history)
    assert files_in(tmp_path) == {"history.json", "history.csv", "loss.png"}
    assert json.loads((tmp_path / "history.json").read_text()) == history
    for row, written in zip(history, read_csv(tmp_path / "history.csv"), strict=True):
        assert list(written) == list(row)
        for name, value in row.items():
            assert (float(written[name]) if written[name] else None) == value


def test_a_history_whose_rows_differ_has_all_columns(history, tmp_path):
    history[0]["seconds"] = 1.5
    write_history(tmp_path, history)
    assert [row["seconds"] for row in read_csv(tmp_path / "history.csv")] == ["1.5", ""]


def test_an_evaluation_leaves_results_a_row_a_class_and_pictures(evaluation, tmp_path):
    logits, targets = evaluation
    scores = compute_metrics(logits, targets, loss=0.5)
    write_evaluation(tmp_path, ODD_LABELS, scores, logits, targets, confusion=True)
    names = {"results.json", "per_class.csv", "per_class_ap.png", "confusion.png"}
    assert files_in(tmp_path) == names

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    classes = results.pop("classes")
    assert results == scores._asdict()
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
    scores = compute_metrics(*evaluation, loss=0.5)
    write_evaluation(tmp_path, ODD_LABELS, scores, *evaluation, confusion=False)
    assert files_in(tmp_path) == {"results.json", "per_class.csv", "per_class_ap.png"}


def test_results_are_valid_json_whatever_the_loss(evaluation, tmp_path):
    scores = compute_metrics(*evaluation, loss=math.inf)
    write_evaluation(tmp_path, ODD_LABELS, scores, *evaluation, confusion=False)
    assert "Infinity" not in (tmp_path / "results.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["loss"] is None


def test_a_file_that_cannot_be_finished_leaves_the_one_before(history, tmp_path, monkeypatch):
    write_history(tmp_path, history[:1])
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    for write in (write_history, lambda folder, rows: draw_loss(rows, folder / "loss.png")):
        with pytest.raises(OSError, match="disk full"):
            write(tmp_path, history)
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == before


@pytest.mark.parametrize("count", [2, 10, 60, 61, 527, 2000])
def test_a_confusion_matrix_of_any_size_fits_its_picture(tmp_path, count):
    picture = confusion([f"class {i}" for i in range(count)], tmp_path / "x.png")
    assert max(picture.shape) <= 20 * 120
    assert blue(picture) > 0.1 / count


def test_class_names_are_no_formulas(tmp_path):
    file = tmp_path / "x.png"
    # As a formula, the first odd name could not be read.
    plain, odd = ["cash_ 5_ 10", "a^b  x "], ["cash_$5_$10", "a^b $x$"]
    for draw in (confusion, lambda labels, file: precisions([1, 0.5], labels, file)):
        assert draw(odd, file).shape == draw(plain, file).shape
        assert (draw(odd, file) != draw(plain, file)).any()


def test_letters_that_no_font_has_and_names_of_any_length_can_be_drawn(tmp_path):
    labels = ["\U000f0000", "猫の声", "x" * 1000]
    for draw in (confusion, lambda labels, file: precisions([1, 1, 1], labels, file)):
        assert blue(draw(labels, tmp_path / "x.png")) > 0.05


@pytest.mark.parametrize("count", [1, 2, 60, 61, 527])
def test_precisions_of_any_number_of_classes_fit_a_picture(tmp_path, count):
    labels = [f"class {i}" for i in range(count)]
    picture = precisions(np.linspace(0.5, 1, count), labels, tmp_path / "x.png")
    assert max(picture.shape) <= 20 * 120
    assert blue(picture) > 0.1


def test_precisions_are_drawn_by_rank_whatever_the_order_of_the_classes(tmp_path):
    rng = np.random.default_rng(0)
    for count in (3, 61):
        values = rng.permutation(np.linspace(0, 1, count))
        labels = np.array([f"class {i}" for i in range(count)])
        order = rng.permutation(count)
        found = precisions(values, list(labels), tmp_path / "x.png")
        moved = precisions(values[order], list(labels[order]), tmp_path / "x.png")
        np.testing.assert_array_equal(found, moved)


def test_a_class_without_clips_has_no_bar(tmp_path):
    labels = [f"class {i}" for i in range(3)]
    two = precisions([1, 0.5], labels[:2], tmp_path / "x.png")
    empty = precisions([1, 0.5, np.nan], labels, tmp_path / "x.png")
    assert empty.shape == two.shape
    assert blue(empty) == blue(two)
    assert blue(precisions([np.nan] * 3, labels, tmp_path / "x.png")) == 0
