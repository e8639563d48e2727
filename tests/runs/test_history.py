"""Tests table, files and plot of a run's history."""

import csv
import json
import os

import matplotlib.image
import numpy as np
import pytest

from ast_jax.config import TrainConfig
from ast_jax.errors import InputError
from ast_jax.evaluation.metrics import compute_metrics
from ast_jax.runs.history import (
    best_epoch,
    epoch_header,
    epoch_line,
    kept_epochs,
    read_history,
    write_history,
)
from ast_jax.runs.plots import draw_loss


def read(file):
    return matplotlib.image.imread(file)


def read_csv(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def files_in(folder):
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("num_epochs", [4, 100, 999])
def test_the_lines_of_evaluations_are_aligned_and_fit_80_columns(history, num_epochs):
    header = epoch_header(num_epochs)
    lines = [epoch_line(row, num_epochs, (12345.6, 0.07)) for row in history]
    assert {len(line) for line in (header, *lines)} == {len(header)}
    assert len(header) <= 80
    first = history[0]
    assert lines[0].split() == [
        f"2/{num_epochs}",
        "0.7500",
        "0.5000",
        f"{first['accuracy']:.1%}",
        f"{first['mean_average_precision']:.3f}",
        f"{first['mean_auc']:.3f}",
        "12346",
        "7%",
    ]


def test_an_undefined_metric_is_a_dash_in_the_line_and_a_gap_in_the_curve(history, tmp_path):
    nothing = compute_metrics(np.zeros((3, 2)), np.zeros((3, 2)), loss=0.5)
    history.append({"epoch": 6, "training_loss": None, **nothing._asdict()})
    assert epoch_line(history[-1], 6).count("–") == 5
    draw_loss(history, tmp_path / "loss.png")
    assert read(tmp_path / "loss.png").std() > 0.02


@pytest.mark.parametrize(
    ("fields", "text", "written"),
    [
        ({}, "epoch 6 (last)", {"epoch": 6}),
        ({"final_params": "best"}, "epoch 2 (best mAP)", {"epoch": 2}),
        (
            {"final_params": "best", "metric": "accuracy"},
            "epoch 4 (best accuracy)",
            {"epoch": 4},
        ),
        (
            {"final_params": "average", "average_from": 3},
            "mean of epochs 3 to 6",
            {"averaged_epochs": [3, 6]},
        ),
        (
            {"final_params": "average", "average_from": 1, "average_to": 4},
            "mean of epochs 1 to 4",
            {"averaged_epochs": [1, 4]},
        ),
    ],
)
def test_the_kept_epochs_are_named(fields, text, written):
    history = [
        {"epoch": 2, "mean_average_precision": 0.9, "accuracy": 0.1},
        {"epoch": 4, "mean_average_precision": 0.5, "accuracy": 0.8},
        {"epoch": 6, "mean_average_precision": 0.9, "accuracy": 0.8},
    ]
    kept = kept_epochs(TrainConfig(**fields), history)
    assert (str(kept), kept.to_dict()) == (text, written)


def test_nothing_is_kept_before_an_evaluation_or_the_start_of_the_average():
    assert kept_epochs(TrainConfig(), []) is None
    config = TrainConfig(final_params="average", average_from=5)
    assert kept_epochs(config, [{"epoch": 4}]) is None


def test_history_json_and_csv_have_the_same_values(history, tmp_path):
    write_history(tmp_path, history)
    assert files_in(tmp_path) == {"history.json", "history.csv", "loss.png"}
    assert json.loads((tmp_path / "history.json").read_text()) == history
    for row, written in zip(history, read_csv(tmp_path / "history.csv"), strict=True):
        assert list(written) == list(row)
        for name, value in row.items():
            assert (float(written[name]) if written[name] else None) == value


def test_a_history_with_different_rows_has_all_columns(history, tmp_path):
    history[0]["seconds"] = 1.5
    write_history(tmp_path, history)
    assert [row["seconds"] for row in read_csv(tmp_path / "history.csv")] == ["1.5", ""]


def test_a_failed_write_keeps_the_previous_file(history, tmp_path, monkeypatch):
    write_history(tmp_path, history[:1])
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    for write in (write_history, lambda folder, rows: draw_loss(rows, folder / "loss.png")):
        with pytest.raises(InputError, match="disk full"):
            write(tmp_path, history)
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == before


def test_rows_after_the_resumed_step_are_dropped(history, tmp_path):
    write_history(tmp_path, history)  # epochs 2 and 4
    assert read_history(tmp_path, step=39, steps_per_epoch=10) == history[:1]
    assert read_history(tmp_path, step=40, steps_per_epoch=10) == history
    assert read_history(tmp_path / "new", step=0, steps_per_epoch=10) == []


def test_the_first_of_equally_good_epochs_is_the_best(history):
    assert best_epoch([], "accuracy") is None
    rows = [{"epoch": i, "accuracy": a} for i, a in enumerate([None, 0.5, 0.9, 0.9])]
    assert best_epoch(rows, "accuracy") == 2
    assert best_epoch(rows[:1], "accuracy") is None


ROW = {
    "epoch": 1,
    "training_loss": 0.5,
    "loss": 0.5,
    "accuracy": 1.0,
    "mean_average_precision": None,
}


@pytest.mark.parametrize(
    "rows",
    [
        3,
        {"a": 1},
        [3],
        [{"a": 1}],
        [{"epoch": 1}],
        [ROW | {"epoch": None}],
        [ROW | {"epoch": "1"}],
        [ROW | {"epoch": -1}],
        [ROW | {"loss": "low"}],
        [ROW | {"accuracy": [1]}],
        [ROW | {"accuracy": 10**400}],
        [ROW | {"loss": float("nan")}],
    ],
)
def test_a_history_with_other_rows_is_named(tmp_path, rows):
    (tmp_path / "history.json").write_text(json.dumps([ROW]))
    assert read_history(tmp_path, 9, 1) == [ROW]
    (tmp_path / "history.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"history\.json: is not a list of evaluations; delete"):
        read_history(tmp_path, 9, 1)
