import csv
import json
import re
import shutil
import statistics

import jax
import numpy as np
import pytest
import soundfile
from matplotlib import image

from ast_jax.checkpoint.format import load_checkpoint
from ast_jax.cli.main import main
from ast_jax.config import (
    ESC50Data,
    FolderData,
    FrontendConfig,
    OptimizerConfig,
    PreparedData,
    SyntheticData,
)
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.prepared import PreparedSet
from ast_jax.errors import InputError
from ast_jax.runs.plots import draw_folds
from ast_jax.training import cross_validation, loop
from ast_jax.training.cross_validation import (
    check_folds,
    cross_validate,
    fold_config,
    gather,
)
from ast_jax.training.loop import fit
from ast_jax.training.setup import build_step_functions
from tests import small_run

STEPS = 36
RUNS = [f"fold{fold}" for fold in range(1, 6)]

pytestmark = pytest.mark.usefixtures("no_plots", "share_functions")


@pytest.fixture(scope="module")
def esc(tmp_path_factory):
    """Returns a small ESC-50: noise in three classes whose levels overlap slightly."""
    folder = tmp_path_factory.mktemp("esc")
    (folder / "audio").mkdir()
    (folder / "meta").mkdir()
    rng = np.random.default_rng(0)
    rows = ["filename,fold,target,category"]
    for fold in range(1, 6):
        for target, category in enumerate(["loud", "middling", "soft"]):
            for take in "ABCDEFGH":
                level = 10 ** -(target + rng.uniform(0, 1.5))
                name = f"{fold}-1-{take}-{target}.wav"
                soundfile.write(folder / "audio" / name, level * rng.uniform(-1, 1, 8000), 16000)
                rows.append(f"{name},{fold},{target},{category}")
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows))
    return folder


def small(workdir, folder):
    """Returns the configuration of five short runs: three epochs of twelve batches each."""
    return small_run.small(
        workdir,
        # Equal for all folds, so that they share one compilation.
        frontend=FrontendConfig(mean=-6.0, std=4.0),
        data=ESC50Data(dir=str(folder), fold=0),
        optimizer=OptimizerConfig(learning_rate=3e-3, b1=0.9),
        metric="accuracy",
    )


@pytest.fixture(scope="module")
def finished(esc, tmp_path_factory, no_plots, share_functions):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, cross_validate(small(workdir, esc))


def read(file):
    return json.loads(file.read_text())


def histories(workdir):
    return [read(workdir / name / "history.json") for name in RUNS]


def test_each_fold_is_held_out_once_and_the_accuracies_are_averaged_by_epoch(finished):
    workdir, found = finished
    runs = [read(workdir / name / "run.json") for name in RUNS]
    assert [run["config"]["data"]["fold"] for run in runs] == [1, 2, 3, 4, 5]
    assert len({run["data"]["evaluation"]["digest"] for run in runs}) == 5
    assert found.epochs == [1, 2, 3]
    by_epoch = [
        [history[i]["accuracy"] for history in histories(workdir)] for i in range(len(found.epochs))
    ]
    assert len({value for values in by_epoch for value in values}) > 2, "all score the same"
    means = [sum(values) / 5 for values in by_epoch]
    np.testing.assert_allclose(found.mean, means, rtol=1e-12)
    np.testing.assert_allclose(found.std, [statistics.stdev(v) for v in by_epoch], atol=1e-12)
    assert found.best == means.index(max(means))


def test_results_of_the_folds_are_written_as_json_csv_and_picture(finished):
    workdir, found = finished
    content = read(workdir / "folds.json")
    assert [row["epoch"] for row in content["epochs"]] == [1, 2, 3]
    assert content["best"] == content["epochs"][found.best]
    assert content["last"] == content["epochs"][-1]
    for row, history in zip(content["epochs"], zip(*histories(workdir), strict=True), strict=True):
        assert [row[name] for name in RUNS] == [of["accuracy"] for of in history]
    with (workdir / "folds.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == content["epochs"]
    picture = image.imread(workdir / "folds.png")
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].std() > 0.02


def test_the_best_epoch_is_the_first_with_the_best_mean():
    accuracy = [[0.9, 0.5, 0.7], [0.1, 0.6, 0.5], [0.2, 0.6, 0.5], [0.2, 0.4, 0.5], [0.2, 0.4, 0.3]]
    found = gather(
        [
            [{"epoch": 5 * i + 5, "accuracy": value} for i, value in enumerate(fold_config)]
            for fold_config in accuracy
        ]
    )
    assert found.epochs == [5, 10, 15]
    assert found.best == 1  # .32, .5, .5
    assert found.mean[1] == pytest.approx(0.5)
    assert found.std[1] == pytest.approx(0.1)


def copy(finished, workdir, names=RUNS):
    for name in names:
        shutil.copytree(finished[0] / name, workdir / name)
    return workdir


def test_an_interrupted_cross_validation_resumes_exactly(finished, esc, tmp_path, monkeypatch):
    workdir = copy(finished, tmp_path / "run", ["fold1", "fold3", "fold4", "fold5"])
    steps = []

    def stop_in_the_fold_that_is_left(*arguments):
        steps.append(arguments)
        return len(steps) == 5

    with monkeypatch.context() as patch:
        patch.setattr(loop, "is_stop_requested", stop_in_the_fold_that_is_left)
        with pytest.raises(KeyboardInterrupt):
            cross_validate(small(workdir, esc))
        assert not (workdir / "folds.json").exists()
        patch.setattr(loop, "build_step_functions", build_step_functions)  # traced again
        found = cross_validate(small(workdir, esc))
    # The other folds do not run again, and the second resumes at its sixth step.
    assert len(steps) == STEPS
    np.testing.assert_array_equal(found.accuracy, finished[1].accuracy)
    for file in ("folds.json", "folds.csv"):
        assert (workdir / file).read_text() == (finished[0] / file).read_text()
    jax.tree.map(
        np.testing.assert_array_equal,
        load_checkpoint(workdir / "fold2" / "model").params,
        load_checkpoint(finished[0] / "fold2" / "model").params,
    )


def test_finished_folds_of_other_recordings_are_refused(finished, esc, tmp_path):
    workdir = copy(finished, tmp_path / "run")
    file = workdir / "fold4" / "run.json"
    run = read(file)
    run["data"]["train"]["digest"] = "another"
    file.write_text(json.dumps(run))
    with pytest.raises(InputError, match=r"fold4: its run started with other recordings"):
        cross_validate(small(workdir, esc))


def test_a_prepared_esc50_has_folds(finished, esc, tmp_path):
    """A fold of the prepared set trains like that of the recordings."""
    prepare("esc50", esc, tmp_path / "prepared")
    config = small(tmp_path / "run", tmp_path / "prepared")
    config.data = PreparedData(dir=config.data.dir, fold=0)
    check_folds(config)
    fit(fold_config(config, 3))
    history = read(tmp_path / "run" / "fold3" / "history.json")
    for mine, theirs in zip(history, histories(finished[0])[2], strict=True):
        assert mine["training_loss"] == pytest.approx(theirs["training_loss"], rel=1e-3)


def test_urbansound8k_has_ten_folds(esc, tmp_path, monkeypatch):
    splits = {f"fold{i}": [] for i in range(1, 11)}
    prepared = PreparedSet(tmp_path, "urbansound8k", ["a"], 16000, "", splits)
    monkeypatch.setattr(cross_validation, "open_prepared", lambda folder, name: prepared)
    config = small(tmp_path / "run", esc)
    config.data = PreparedData(dir=str(tmp_path), fold=0)
    assert check_folds(config) == 10
    del splits["fold10"]
    with pytest.raises(InputError, match="has no clips of fold 10; restore them"):
        check_folds(config)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SyntheticData(), "data.kind is 'synthetic', which has no folds; use `fit`"),
        (FolderData(dir="/nowhere"), "data.kind is 'folder', which has no folds"),
        (ESC50Data(dir="/nowhere", fold=0), "/nowhere/meta/esc50.csv: no such file"),
    ],
)
def test_data_without_folds_is_refused_before_a_folder_is_created(esc, tmp_path, data, message):
    config = small(tmp_path / "run", esc)
    config.data = data
    with pytest.raises(InputError, match=re.escape(message)):
        cross_validate(config)
    assert not (tmp_path / "run").exists()


def test_a_fold_without_clips_and_another_prepared_set_are_refused(esc, tmp_path):
    less = tmp_path / "less"
    (less / "meta").mkdir(parents=True)
    (less / "audio").symlink_to(esc / "audio")
    lines = (esc / "meta" / "esc50.csv").read_text().splitlines()
    (less / "meta" / "esc50.csv").write_text(
        "\n".join(line for line in lines if not line.startswith("4-"))
    )
    with pytest.raises(InputError, match=r"less: has no clips of fold 4; restore them"):
        cross_validate(small(tmp_path / "run", less))
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "path,labels,split\n"
        + "".join(
            f"{esc / 'audio' / f'{fold}-1-A-{target}.wav'},{'xy'[target]},fold{fold}\n"
            for fold in range(1, 6)
            for target in (0, 1)
        )
    )
    prepare("csv", manifest, tmp_path / "prepared")
    config = small(tmp_path / "run", tmp_path / "prepared")
    config.data = PreparedData(dir=config.data.dir, fold=0)
    with pytest.raises(InputError, match=r"data\.fold is 0 and the prepared set is 'csv'; only"):
        cross_validate(config)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused_before_anything_is_trained(
    finished, esc, tmp_path, monkeypatch
):
    monkeypatch.setattr(cross_validation, "fit", lambda config: pytest.fail("training began"))
    single = finished[0] / "fold1"
    with pytest.raises(InputError, match=r"fold1: holds 'checkpoints', which is no fold's run"):
        cross_validate(small(single, esc))
    config = small(finished[0], esc)
    config.optimizer.learning_rate = 1e-4
    with pytest.raises(InputError, match=r"fold1: holds a run with another optimizer\.learning_ra"):
        cross_validate(config)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: is a file; choose another"):
        cross_validate(small(tmp_path / "file", esc))
    (tmp_path / "other" / "fold4").mkdir(parents=True)
    (tmp_path / "other" / "fold4" / "mine.txt").write_text("")
    with pytest.raises(InputError, match=r"fold4: exists and is not a run of ast_jax"):
        cross_validate(small(tmp_path / "other", esc))


def test_a_picture_of_a_single_epoch_is_drawn(tmp_path):
    draw_folds([1], np.full((5, 1), 0.5), tmp_path / "one.png")
    assert image.imread(tmp_path / "one.png")[..., :3].std() > 0.02


def test_the_command_runs_all_folds_for_fold_0(finished, esc, tmp_path, capsys):
    workdir = copy(finished, tmp_path / "run")
    config = fold_config(small("", esc), 1)
    (tmp_path / "config.py").write_text(
        "from ast_jax.config import *\n"
        "from ast_jax.models.config import ASTConfig\n"
        f"def get_config():\n    return {config!r}\n"
    )
    command = ["train", str(tmp_path / "config.py"), f"--workdir={workdir}", "--data.fold=0"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count("already finished") == 5
    found = finished[1]
    for file in ("folds.json", "folds.csv"):
        assert (workdir / file).read_text() == (finished[0] / file).read_text()
    assert f"{found.mean[-1]:.1%} ± {found.std[-1]:.1%}" in printed
