"""The printed and written results of an evaluation match the evaluation."""

import csv
import errno
import json

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score

from ast_jax.data.clips import Clips
from ast_jax.errors import InputError
from ast_jax.evaluation.checkpoints import Results, ensemble
from ast_jax.evaluation.evaluation_set import EvaluationSet
from ast_jax.evaluation.report import results_json, results_table, write_results

LABELS = ["bark", "meow", "owl"]
MULTI = "multi_label_classification"


@pytest.fixture
def results():
    """Returns results of two checkpoints on clips without the last class."""
    rng = np.random.default_rng(0)
    targets = (rng.random((11, 3)) < 0.4).astype(np.float32)
    targets[:, 2] = 0
    targets[0] = [1, 1, 0]
    names = [f"clip {i}" for i in range(11)]
    clips = Clips([np.zeros(400, np.float32)] * 11, targets, names)
    each = rng.random((2, 11, 3), dtype=np.float32)
    found = {f"runs/{i}": ensemble([each[i]], targets, MULTI) for i in (0, 1)}
    data = EvaluationSet("prepared/x", "test", LABELS, 16000, clips)
    return Results(data, found, ensemble(list(each), targets, MULTI), [])


def test_the_files_have_scores_classes_and_predictions(results, tmp_path):
    write_results(tmp_path / "new" / "out", results)
    folder = tmp_path / "new" / "out"
    assert [path.name for path in folder.parent.iterdir()] == ["out"]

    written = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert written == results_json(results)
    assert [one["checkpoint"] for one in written["checkpoints"]] == ["runs/0", "runs/1"]
    assert written["ensemble"]["accuracy"] == results.ensemble.metrics.accuracy
    assert (written["split"], written["clips"], written["classes"]) == ("test", 11, 3)

    with (folder / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    targets = results.data.clips.targets
    assert [row["label"] for row in rows] == LABELS
    assert [int(row["clips"]) for row in rows] == targets.sum(axis=0).tolist()
    evaluations = results.evaluations | {"ensemble": results.ensemble}
    for name, evaluation in evaluations.items():
        for i in (0, 1):
            expected = average_precision_score(targets[:, i], evaluation.probabilities[:, i])
            assert float(rows[i][f"AP {name}"]) == pytest.approx(expected)
        assert rows[2][f"AP {name}"] == ""

    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    best = results.ensemble.probabilities.argmax(axis=1)
    assert [row["clip"] for row in rows] == results.data.clips.names
    assert [row["predicted"] for row in rows] == [LABELS[i] for i in best]
    assert rows[0]["true"] == "bark;meow"
    scores = results.ensemble.probabilities.max(axis=1)
    np.testing.assert_allclose([float(row["score"]) for row in rows], scores, atol=1e-6)

    with np.load(folder / "predictions.npz") as arrays:
        assert arrays["ids"].tolist() == results.data.clips.names
        assert arrays["labels"].tolist() == LABELS
        assert arrays["checkpoints"].tolist() == ["runs/0", "runs/1"]
        np.testing.assert_array_equal(arrays["targets"], targets)
        assert arrays["probabilities"].dtype == np.float32
        again = ensemble(list(arrays["probabilities"]), arrays["targets"], MULTI)
    assert again.metrics.loss == pytest.approx(results.ensemble.metrics.loss)
    assert again.metrics._replace(loss=0) == results.ensemble.metrics._replace(loss=0)


def test_results_are_written_completely_or_not_at_all(results, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there: exists already"):
        write_results(tmp_path / "there", results)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device"):
        write_results(tmp_path / "out", results)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_table_has_a_row_per_checkpoint_and_dashes_for_undefined_metrics(results):
    scores = results.ensemble.metrics
    nothing = scores._replace(mean_average_precision=None, mean_auc=None, d_prime=None)
    perfect = scores._replace(mean_auc=1.0, d_prime=None)
    evaluations = {
        "[red]/a": results.ensemble._replace(metrics=nothing),
        "runs/b": results.ensemble._replace(metrics=perfect),
    }
    console = Console(width=100)
    with console.capture() as captured:
        console.print(results_table(results._replace(evaluations=evaluations)))
    title, *lines = captured.get().splitlines()
    assert title.strip() == "prepared/x, test: 11 clips"
    cells = [line.replace("│", " ").split() for line in lines if "│" in line]
    accuracy, loss = f"{scores.accuracy:.2%}", f"{scores.loss:.4f}"
    map_, auc, distance = scores.mean_average_precision, scores.mean_auc, scores.d_prime
    assert cells == [
        ["[red]/a", "–", "–", "–", accuracy, loss],
        ["runs/b", f"{map_:.4f}", "1.0000", "∞", accuracy, loss],
        ["ensemble", f"{map_:.4f}", f"{auc:.4f}", f"{distance:.3f}", accuracy, loss],
    ]
