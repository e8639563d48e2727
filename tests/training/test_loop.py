import itertools
import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile
from matplotlib import image
from sklearn.metrics import average_precision_score

import ast_jax
from ast_jax.checkpoint.format import load_checkpoint
from ast_jax.checkpoint.load import step_folders
from ast_jax.config import (
    AugmentConfig,
    ESC50Data,
    FolderData,
    FrontendConfig,
    OptimizerConfig,
    SyntheticData,
)
from ast_jax.data.synthetic import SOUNDS, make_synthetic
from ast_jax.errors import InputError
from ast_jax.io import read_json
from ast_jax.runs.progress import EpochBar
from ast_jax.runs.workdir import acquire_workdir, check_data, open_workdir
from ast_jax.training import held_out, loop
from ast_jax.training.checkpointing import RunCheckpoints, RunningLoss
from ast_jax.training.initial import make_extractor
from ast_jax.training.loop import fit, set_up
from ast_jax.training.preemption import PreemptionHandler
from ast_jax.training.setup import build_step_functions, make_train_batches
from ast_jax.training.step import StepMetrics, TrainState
from tests.small_run import history_of, small


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, fit(small(workdir)).scores


@pytest.fixture(scope="module", autouse=True)
def quick_runs(finished, no_plots, share_functions):
    """Disables plots, after `finished` has drawn its own, and shares jitted functions."""


def params_of(workdir):
    return load_checkpoint(Path(workdir) / "model").params


def stop_after(count, monkeypatch):
    """Requests a stop after `count` steps."""
    steps = iter(range(1, count + 1))
    monkeypatch.setattr(loop, "is_stop_requested", lambda *arguments: next(steps) == count)


def test_a_run_writes_history_pictures_and_a_loadable_checkpoint(finished):
    workdir, scores = finished
    history = json.loads((workdir / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["accuracy"] == scores.accuracy
    rates = [row["learning_rate"] for row in history]
    assert rates == pytest.approx([5e-4, 8.536e-4, 1.464e-4], rel=1e-3)  # of the last steps
    assert read_json(workdir / "results.json")["epoch"] == 3
    assert 0 <= scores.accuracy <= 1
    for name in ("loss.png", "confusion.png"):
        picture = image.imread(workdir / name)
        assert min(picture.shape[:2]) > 300
        assert picture[..., :3].std() > 0.02, f"{name} is blank"
    classifier = ast_jax.load(workdir)
    assert classifier.labels == list(SOUNDS)
    best = classifier(workdir / "unseen" / "bell.wav", top_k=3)
    assert [label["label"] in SOUNDS for label in best] == [True] * 3


@pytest.mark.parametrize("steps", [1, 4])  # within an epoch of two steps, and at its end
def test_a_stopped_run_resumes_exactly(finished, tmp_path, monkeypatch, steps):
    with monkeypatch.context() as patch:
        stop_after(steps, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(small(tmp_path / "run"))
    assert step_folders(tmp_path / "run")[-1].name == str(steps)
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.setattr(loop, "build_step_functions", build_step_functions)  # traced again
    scores = fit(small(tmp_path / "run")).scores
    assert scores == finished[1]
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "run"), params_of(finished[0]))
    assert history_of(tmp_path / "run") == history_of(finished[0])
    for file in ("results.json", "predictions.csv", "worst.csv"):
        assert (tmp_path / "run" / file).read_text() == (finished[0] / file).read_text()
    sessions = json.loads((tmp_path / "run" / "sessions.json").read_text())
    assert len(sessions) == 2
    assert sessions[0]["seed"] == 0
    assert sessions[0]["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_after_the_current_step(tmp_path, monkeypatch, number):
    step, steps = EpochBar.step, []

    def signal_at_the_third(self, *args):
        steps.append(args)
        if len(steps) == 3:
            os.kill(os.getpid(), number)
        step(self, *args)

    monkeypatch.setattr(EpochBar, "step", signal_at_the_third)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        fit(small(tmp_path / "run"))
    # The metrics of the third step are read after the fourth is dispatched.
    assert step_folders(tmp_path / "run")[-1].name == "4"
    assert signal.getsignal(number) == before


def test_metrics_are_read_after_the_next_step_is_dispatched(tmp_path, monkeypatch):
    events = []

    class Metric:
        """A value that is still being computed; logs when it is read."""

        def __init__(self, step):
            self.step = step

        def __float__(self):
            events.append(f"waited for {self.step}")
            return 0.0

    def with_logged_metrics(*arguments):
        functions, state = build_step_functions(*arguments)
        steps = itertools.count()

        def train_step(state, batch):
            step = next(steps)
            events.append(f"began {step}")
            return state, StepMetrics(*[Metric(step)] * len(StepMetrics._fields))

        return functions._replace(train_step=train_step), state

    monkeypatch.setattr(loop, "build_step_functions", with_logged_metrics)
    data = SyntheticData(train_clips=3, evaluation_clips=1)  # three steps
    fit(small(tmp_path / "run", data=data, num_epochs=1))
    expected = ["began 0", "began 1", "waited for 0", "began 2", "waited for 1"]
    expected += ["waited for 2"]  # the last of an epoch, at the end of the epoch
    assert list(dict.fromkeys(events)) == expected


def test_steps_transfer_nothing_and_are_profiled(tmp_path):
    run, state = set_up(small(tmp_path / "run", profile_steps=2))

    def guarded(state, batch):
        with jax.transfer_guard("disallow"):
            return run.functions.train_step(state, batch)

    loop.train(run._replace(functions=run.functions._replace(train_step=guarded)), state)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_all_optional_state_resumes_exactly(tmp_path, monkeypatch):
    def everything(workdir):
        config = small(
            workdir,
            checkpoint_every_steps=1,
            average_from=2,
            final_params="average",
            cumulative=True,
        )
        config.augment.mixup = 0.5
        config.optimizer.ema_decay = 0.5
        config.optimizer.grad_clip_norm = 1.0
        config.label_smoothing = 0.1
        config.shard_optimizer = True
        return config

    fit(everything(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(everything(tmp_path / "interrupted"))
    monkeypatch.setattr(loop, "build_step_functions", build_step_functions)  # traced again
    fit(everything(tmp_path / "interrupted"))
    expected = params_of(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "interrupted"), expected)
    whole, interrupted = (history_of(tmp_path / name) for name in ("whole", "interrupted"))
    assert whole == interrupted
    assert whole[-1]["cumulative_accuracy"] is not None


@pytest.mark.slow
def test_the_average_is_over_the_parameters_after_the_given_epochs(tmp_path):
    def params_after(epochs, **changes):
        config = small(tmp_path / f"{epochs} {len(changes)}", num_epochs=epochs, **changes)
        config.optimizer = OptimizerConfig(learning_rate=1e-3)
        fit(config)
        return params_of(config.workdir)

    average = params_after(3, average_from=2, final_params="average")
    expected = jax.tree.map(lambda a, b: (a + b) / 2, params_after(2), params_after(3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), average, expected)


def test_the_cumulative_ensemble_scores_the_mean_prediction(tmp_path):
    fit(small(tmp_path / "run", cumulative=True))
    folder = tmp_path / "run" / "predictions"
    mean = np.mean([np.load(folder / f"epoch-{n}.npy") for n in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(mean.sum(axis=1), 1, atol=1e-6)
    targets = make_synthetic(2, 1, seed=0).evaluation.targets
    expected = average_precision_score(targets, mean, average="macro")
    row = read_json(tmp_path / "run" / "history.json")[-1]
    assert row["cumulative_mean_average_precision"] == pytest.approx(expected)
    assert row["cumulative_accuracy"] == (mean.argmax(1) == targets.argmax(1)).mean()


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path, monkeypatch):
    accuracies = iter([0.9, 0.9, 0.1])
    score = held_out.score

    def fake_score(*args):
        return score(*args)._replace(accuracy=next(accuracies, 0.1))

    monkeypatch.setattr(held_out, "score", fake_score)
    settings = {"max_to_keep": 2, "metric": "accuracy", "final_params": "best"}
    fit(small(tmp_path / "run", checkpoint_every_steps=1, **settings))
    assert [folder.name for folder in step_folders(tmp_path / "run")] == ["2", "5", "6"]
    best = load_checkpoint(step_folders(tmp_path / "run")[0]).params
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "run"), best)


def test_a_nonfinite_loss_names_step_clips_and_checkpoint(tmp_path, monkeypatch):
    poison(monkeypatch, steps=[3])
    with pytest.raises(InputError) as caught:
        fit(small(tmp_path / "run"))
    message = str(caught.value)
    assert message.startswith("step 3: the loss is not finite, on the clips ")
    assert sum(message.count(label) for label in SOUNDS) == 8
    assert f"(the last good checkpoint is {tmp_path}/run/checkpoints/2; another rate" in message
    # Once the cause is fixed, the same command resumes.
    monkeypatch.undo()
    fit(small(tmp_path / "run"))


def test_nonfinite_steps_can_be_skipped(finished, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, steps=[1, 4])
    fit(small(tmp_path / "run", skip_nonfinite=2))
    output = capsys.readouterr().out
    assert "step 1: the loss is not finite" in output
    assert "step 4: the loss is not finite" in output
    for array in jax.tree.leaves(params_of(tmp_path / "run")):
        assert np.isfinite(array).all()
    with pytest.raises(InputError, match=r"^step 4: the loss is not finite"):
        fit(small(tmp_path / "other", skip_nonfinite=1))


def poison(monkeypatch, steps):
    """Sets one clip to NaN in the batches of the given steps."""

    def broken(config, clips, extractor):
        return Poisoned(make_train_batches(config, clips, extractor), steps)

    monkeypatch.setattr("ast_jax.training.loop.make_train_batches", broken)


class Poisoned:
    def __init__(self, batches, steps):
        self.batches, self.steps, self.indices = batches, steps, batches.indices

    def __call__(self, number, into=None):
        batch = self.batches(number, into)
        if number in self.steps:
            batch["input_values"][0] = np.nan
        return batch


def test_a_finished_run_returns_its_result_without_training(finished):
    before = params_of(finished[0])
    assert fit(small(finished[0])).scores == finished[1]
    jax.tree.map(np.testing.assert_array_equal, params_of(finished[0]), before)


def test_more_epochs_give_the_result_of_a_run_that_always_had_them(tmp_path, monkeypatch):
    def constant(name, num_epochs):
        config = small(tmp_path / name, num_epochs=num_epochs, average_from=2)
        config.optimizer, config.final_params = OptimizerConfig(warmup_steps=1), "average"
        config.evaluate_every, config.cumulative = 3, True
        return config

    fit(constant("run", 2))
    assert [row["epoch"] for row in history_of(tmp_path / "run")] == [2]
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(constant("run", 4))
    assert not (tmp_path / "run" / "model").exists()  # it was of two epochs
    scores = fit(constant("run", 4)).scores
    assert scores == fit(constant("whole", 4)).scores
    assert history_of(tmp_path / "run") == history_of(tmp_path / "whole")
    params = params_of(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, params, params_of(tmp_path / "whole"))
    results = read_json(tmp_path / "run" / "results.json")
    assert results["averaged_epochs"] == [2, 4]
    assert read_json(tmp_path / "run" / "run.json")["config"]["num_epochs"] == 4
    sessions = read_json(tmp_path / "run" / "sessions.json")
    assert {session["num_epochs"] for session in sessions} == {2, 4}
    with pytest.raises(InputError, match=r"another num_epochs \(4, not 2\)"):
        fit(constant("run", 2))


def test_more_epochs_of_a_cosine_are_noted(finished, tmp_path, capsys):
    run = shutil.copytree(finished[0], tmp_path / "run")
    assert history_of(run)[-1]["learning_rate"] < 1e-3 / 4
    fit(small(run, num_epochs=5))
    output = capsys.readouterr().out.replace("\n", " ")
    assert "note: num_epochs grew from 3 to 5: the learning rate goes on as in a cosine" in output
    rows = history_of(run)
    assert rows[:3] == history_of(finished[0])
    assert rows[3]["learning_rate"] > rows[2]["learning_rate"]


def test_the_hold_out_of_a_run_of_an_earlier_version_is_noted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for i in range(8):
            noise = rng.uniform(-1, 1, 8000)
            soundfile.write(tmp_path / "sounds" / label / f"{i}.wav", noise, 16000)
    folder = FolderData(dir=str(tmp_path / "sounds"))
    config = small(tmp_path / "run", data=replace(folder, stratify=False, recursive=False))
    run, _ = set_up(config)
    extractor = run.initial.feature_extractor
    with acquire_workdir(run.workdir, None, run.config, run.data, run.train_hashes, extractor, {}):
        pass
    saved = read_json(run.workdir / "run.json")
    for name in ("stratify", "recursive", "group"):
        del saved["config"]["data"][name]
    (run.workdir / "run.json").write_text(json.dumps(saved))
    note = "note: the run is of an earlier version and keeps its held-out files: data.stratify and"
    set_up(config)
    assert note not in capsys.readouterr().out
    set_up(small(run.workdir, data=folder))
    assert note in capsys.readouterr().out


@pytest.mark.slow
def test_pmap_matches_shard_map(finished, tmp_path):
    fit(small(tmp_path / "run", parallel="pmap"))
    expected = params_of(finished[0])
    for a, b in zip(
        jax.tree.leaves(params_of(tmp_path / "run")), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_training_starts_from_a_checkpoint_with_a_new_head_and_size(
    finished, tmp_path, monkeypatch
):
    data = make_synthetic(2, 1, seed=0)
    renamed = data._replace(labels=[f"my {label}" for label in data.labels])
    config = small(tmp_path / "run", init_from=str(finished[0]), num_epochs=1)
    config.model.max_length = 96
    config.optimizer = OptimizerConfig(learning_rate=1e-9)
    fit(config, data=renamed)
    before, after = params_of(finished[0]), params_of(tmp_path / "run")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        before["ast"]["encoder"],
        after["ast"]["encoder"],
    )
    assert after["ast"]["embeddings"]["position_embeddings"].shape == (1, 2 + 2 * 6, 32)
    old, new = (x["classifier"]["dense"]["kernel"] for x in (before, after))
    assert np.abs(old - new).max() > 0.01
    assert load_checkpoint(tmp_path / "run" / "model").config.max_length == 96


def test_a_run_of_another_configuration_is_not_overwritten(finished):
    config = small(finished[0])
    config.optimizer.learning_rate = 0.5
    with pytest.raises(InputError, match=r"optimizer\.learning_rate \(0\.001, not 0\.5\)"):
        fit(config)


def test_a_folder_that_is_not_a_run_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a run of ast_jax"):
        fit(small(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# 20 clips give two steps per epoch, or one.
@pytest.mark.parametrize("batch_size", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_a_diverging_run_raises_an_input_error(tmp_path, batch_size):
    config = small(tmp_path / "run", batch_size=batch_size)
    with pytest.raises(InputError, match=r"is not finite.*lower optimizer.learning_rate"):
        fit(config, optimizer=optax.sgd(1e38))
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_does_not_resume_with_other_recordings(finished, monkeypatch):
    data = make_synthetic(2, 1, seed=0)
    more = data._replace(train=data.train._replace(names=[*data.train.names[:-1], "another"]))
    with pytest.raises(InputError, match=r"started with other recordings \(train.digest"):
        fit(small(finished[0]), data=more)
    # Prepared again from other files with the same names and lengths.
    again = data._replace(digest="another")
    with pytest.raises(InputError, match=r"started with other recordings \(source"):
        fit(small(finished[0]), data=again)
    run = read_json(finished[0] / "run.json")
    del run["data"]["source"]
    check_data(finished[0], run, again)


def truncate(checkpoint):
    for file in (checkpoint / "opt_state").rglob("*"):
        if file.is_file() and file.stat().st_size > 5000:
            file.write_bytes(file.read_bytes()[:1000])


def test_a_run_without_a_sound_checkpoint_is_named(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    before = step_folders(run)
    for folder in before:
        truncate(folder)
    message = r"checkpoints/6: damaged or incomplete.*; restore it from a copy, or remove all to st"
    with pytest.raises(InputError, match=message):
        fit(small(run))
    assert step_folders(run) == before


def flip_bit(checkpoint, part="opt_state"):
    """Flips a bit in the largest data file of a part, which changes a number."""
    file = max((checkpoint / part).rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_is_seen_and_the_run_resumes_exactly_from_the_save_before(
    finished, tmp_path, monkeypatch, capsys
):
    config = small(tmp_path / "run", checkpoint_every_steps=1, max_to_keep=3)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    folder = tmp_path / "run" / "checkpoints"
    flip_bit(folder / "5")
    (folder / "4" / "progress" / "metadata").write_text('{"loss_sum": 1}')
    capsys.readouterr()
    fit(config)
    told = capsys.readouterr().out
    for step, part in ((5, r"opt_state/\S+"), (4, "progress")):
        reason = f"{part} is not what was saved: its checksum differs"
        assert re.search(
            rf"note: {folder / str(step)}: damaged or incomplete \({reason}\); renamed "
            rf"to damaged\.{step}, and step 3 is used instead\n",
            told,
        )
    assert "resuming after step 3 of 6" in told
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "run"), params_of(finished[0]))
    assert history_of(tmp_path / "run") == history_of(finished[0])
    assert {"damaged.4", "damaged.5", "6"} <= set(os.listdir(folder))


def test_a_run_with_another_extractor_than_its_checkpoint_is_refused(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    content = read_json(run / "run.json")
    content["feature_extractor"]["mean"] += 1
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"run\.json: its feature_extractor is not that of .*/6;"):
        fit(small(run))


def test_the_last_good_checkpoint_in_a_message_is_one_that_was_checked(tmp_path, monkeypatch):
    with RunCheckpoints(tmp_path, {}, 9, lambda: None, print) as checkpoints:
        params = {"kernel": np.arange(30000, dtype=np.float32)}
        state = TrainState(params, {"mu": params}, None, None, jnp.int32(0))
        assert checkpoints.restore(state) is None
        for step in (1, 2, 3):
            checkpoints.save(step, state, RunningLoss())
        checkpoints.wait()
        flip_bit(tmp_path / "3", "params")
        assert checkpoints.newest() == str(tmp_path / "2")


def test_a_damaged_best_checkpoint_is_named_with_an_alternative(tmp_path, monkeypatch):
    monkeypatch.setattr("ast_jax.training.loop.best_step", lambda run, history: 2)
    config = small(tmp_path / "run", final_params="best")
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    truncate(tmp_path / "run" / "checkpoints" / "2")
    with pytest.raises(
        InputError, match=r"checkpoints/2: damaged .* last one, \S*checkpoints/6, i"
    ):
        fit(config)


def test_mean_or_std_can_be_given_alone():
    config = small("unused")
    data = make_synthetic(2, 1, seed=0)
    measured = make_extractor(config, data)
    config.frontend.mean = -3.0
    given = make_extractor(config, data)
    assert given.mean == -3.0
    assert given.std == measured.std
    assert measured.mean != -3.0


def test_an_initial_checkpoint_of_another_size_is_refused(finished, tmp_path):
    config = small(tmp_path / "run", init_from=str(finished[0]))
    config.model.num_hidden_layers = 3
    with pytest.raises(InputError, match=r"num_hidden_layers 2 where .* has 3; set "):
        fit(config)
    assert not (tmp_path / "run").exists()


def test_the_feature_extractor_loads_from_a_run(finished):
    extractor = ast_jax.ASTFeatureExtractor.from_pretrained(finished[0])
    assert extractor == ast_jax.load(finished[0]).feature_extractor


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("workdir", "", "workdir is not set"),
        ("loss", "mse", "loss is 'mse'"),
        ("parallel", "tpu", "parallel is 'tpu'"),
        ("batch_size", 0, "batch_size is 0"),
        ("batch_size", 64, "batch_size is 64 and there are 20 training clips"),
        ("batch_size", 7, "batch_size 7 does not split over 8 devices"),
        ("data", ESC50Data(), "data.dir is not set"),
        ("augment", AugmentConfig(time_mask=65), "augment.time_mask is 65"),
        ("optimizer", OptimizerConfig(schedule="step"), "optimizer.schedule is 'step'"),
        ("optimizer", OptimizerConfig(warmup_steps=6), "warmup_steps is 6 and the run has 6 steps"),
        ("optimizer", OptimizerConfig(b1=1.0), "optimizer.b1 is 1.0"),
        ("seed", -1, "seed is -1"),
        ("frontend", FrontendConfig(std=0.0), "frontend.std is 0.0"),
        ("frontend", FrontendConfig(sampling_rate=8000), "frontend.sampling_rate is 8000"),
        ("workdir", "http://bucket/run", "is a http: URL"),
    ],
)
def test_an_invalid_field_is_named(tmp_path, field, value, message):
    config = small(tmp_path / "run")
    setattr(config, field, value)
    with pytest.raises(InputError, match=message):
        fit(config)
    assert not (tmp_path / "run").exists()


def test_a_signal_prints_a_message_on_a_terminal(monkeypatch):
    reading, writing = os.pipe()
    terminal = SimpleNamespace(isatty=lambda: True, fileno=lambda: writing)
    with PreemptionHandler() as preemption:
        monkeypatch.setattr("sys.stderr", terminal)
        os.kill(os.getpid(), signal.SIGINT)
        while not preemption.requested:
            time.sleep(0.01)
        monkeypatch.undo()
    os.close(writing)
    with os.fdopen(reading) as terminal:
        assert "stopping after the current step" in terminal.read()


def test_a_run_of_a_version_with_fewer_fields_resumes(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    run = read_json(workdir / "run.json")
    del run["config"]["augment"]["patchout_time"], run["config"]["loss"]
    (workdir / "run.json").write_text(json.dumps(run))
    assert open_workdir(small(workdir))[1] is not None
    assert open_workdir(small(workdir, remat="everything"))[1] is not None  # changes only rounding
    for name, changed in (
        ("augment", AugmentConfig(frequency_mask=8, time_mask=16, patchout_time=1)),
        ("loss", "binary_cross_entropy"),
    ):
        with pytest.raises(InputError, match=rf"another {name}.*choose another workdir"):
            open_workdir(small(workdir, **{name: changed}))
