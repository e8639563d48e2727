import json
import shutil

import jax
import numpy as np
import pytest
from matplotlib import image

import ast_jax
from ast_jax.checkpoint import load_checkpoint
from ast_jax.config import (
    AugmentConfig,
    DataConfig,
    FrontendConfig,
    OptimizerConfig,
    TrainConfig,
)
from ast_jax.data.synthetic import SOUNDS, make_synthetic
from ast_jax.errors import InputError
from ast_jax.inference.load import step_folders
from ast_jax.models.config import ASTConfig
from ast_jax.training.loop import fit, make_extractor
from ast_jax.training.progress import EpochBar


def small(workdir, **changes):
    """A run of seconds: three epochs of two batches."""
    config = TrainConfig(
        workdir=str(workdir),
        model=ASTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            frequency_stride=16,
            time_stride=16,
            max_length=64,
            num_mel_bins=32,
        ),
        data=DataConfig(kind="synthetic", train_clips=2, evaluation_clips=1),
        augment=AugmentConfig(frequency_mask=8, time_mask=16),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=2),
        batch_size=8,
        num_epochs=3,
    )
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, fit(small(workdir))


def params_of(workdir):
    return load_checkpoint(step_folders(workdir)[-1]).params


def test_a_run_leaves_a_history_pictures_and_a_checkpoint_that_loads_as_it_is(finished):
    workdir, scores = finished
    history = json.loads((workdir / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["accuracy"] == scores.accuracy
    assert 0 <= scores.accuracy <= 1
    for name in ("loss.png", "confusion.png"):
        picture = image.imread(workdir / name)
        assert min(picture.shape[:2]) > 300
        assert picture[..., :3].std() > 0.02, f"{name} is blank"
    classifier = ast_jax.load(workdir)
    assert classifier.labels == list(SOUNDS)
    best = classifier(workdir / "unseen" / "bell.wav", top_k=3)
    assert [label["label"] in SOUNDS for label in best] == [True] * 3


def test_a_run_cut_off_goes_on_to_the_same_parameters_bit_for_bit(finished, tmp_path, monkeypatch):
    steps = []
    step = EpochBar.step

    def stop_at_the_fifth(self, loss, clips):
        steps.append(loss)
        if len(steps) == 5:
            raise KeyboardInterrupt
        step(self, loss, clips)

    with monkeypatch.context() as patch:
        patch.setattr(EpochBar, "step", stop_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            fit(small(tmp_path / "run"))
    assert not (tmp_path / "run" / "history.json").exists()
    scores = fit(small(tmp_path / "run"))
    assert scores == finished[1]
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "run"), params_of(finished[0]))


def test_a_finished_run_is_reported_again_and_not_trained_again(finished):
    before = params_of(finished[0])
    assert fit(small(finished[0])) == finished[1]
    jax.tree.map(np.testing.assert_array_equal, params_of(finished[0]), before)


def test_pmap_trains_as_shard_map_does(finished, tmp_path):
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
    monkeypatch.setattr("ast_jax.training.loop.load_data", lambda config: renamed)
    config = small(tmp_path / "run", init_from=str(finished[0]), num_epochs=1)
    config.model.max_length = 96
    config.optimizer = OptimizerConfig(learning_rate=1e-9)
    fit(config)
    before, after = params_of(finished[0]), params_of(tmp_path / "run")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        before["ast"]["encoder"],
        after["ast"]["encoder"],
    )
    assert after["ast"]["embeddings"]["position_embeddings"].shape == (1, 2 + 2 * 6, 32)
    old, new = (x["classifier"]["dense"]["kernel"] for x in (before, after))
    assert np.abs(old - new).max() > 0.01
    assert load_checkpoint(step_folders(tmp_path / "run")[-1]).config.max_length == 96


def test_a_run_of_another_configuration_is_not_overwritten(finished):
    config = small(finished[0])
    config.optimizer.learning_rate = 0.5
    with pytest.raises(InputError, match=r"optimizer\.learning_rate \(0\.001, not 0\.5\)"):
        fit(config)


def test_a_folder_that_is_no_run_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="exists and is no run of ours"):
        fit(small(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("batch_size", [8, 16])  # of 20 clips: two steps an epoch, or one
def test_a_diverging_run_stops_in_one_sentence_and_leaves_no_folder(tmp_path, batch_size):
    config = small(tmp_path / "run", batch_size=batch_size)
    config.optimizer = OptimizerConfig(learning_rate=1e30)
    with pytest.raises(InputError, match=r"^the (loss|model's output) is .*diverged; lower"):
        fit(config)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_other_recordings(finished, monkeypatch):
    data = make_synthetic(2, 1, seed=0)
    more = data._replace(train=data.train._replace(names=[*data.train.names[:-1], "another"]))
    monkeypatch.setattr("ast_jax.training.loop.load_data", lambda config: more)
    with pytest.raises(InputError, match=r"began with other recordings \(train.digest"):
        fit(small(finished[0]))


def test_a_damaged_checkpoint_of_a_run_is_named(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    for file in (step_folders(run)[-1] / "opt_state").rglob("*"):
        if file.is_file() and file.stat().st_size > 5000:
            file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"checkpoints/6: damaged or incomplete"):
        fit(small(run))


def test_either_of_mean_and_std_can_be_given_and_the_other_is_measured():
    config = small("unused")
    data = make_synthetic(2, 1, seed=0)
    measured = make_extractor(config, data)
    config.frontend.mean = -3.0
    given = make_extractor(config, data)
    assert given.mean == -3.0
    assert given.std == measured.std
    assert measured.mean != -3.0


def test_a_checkpoint_of_another_size_is_not_started_from(finished, tmp_path):
    config = small(tmp_path / "run", init_from=str(finished[0]))
    config.model.num_hidden_layers = 3
    with pytest.raises(InputError, match=r"num_hidden_layers 2 and the configuration 3; set --"):
        fit(config)
    assert not (tmp_path / "run").exists()


def test_the_runs_folder_gives_the_feature_extractor_by_itself(finished):
    extractor = ast_jax.ASTFeatureExtractor.from_pretrained(finished[0])
    assert extractor == ast_jax.load(finished[0]).feature_extractor


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("workdir", "", "workdir is not set"),
        ("loss", "mse", "loss is 'mse'"),
        ("parallel", "tpu", "parallel is 'tpu'"),
        ("batch_size", 0, "batch_size is 0"),
        ("batch_size", 64, "batch_size is 64 and there are 20 training clips"),
        ("batch_size", 7, "batch_size 7 does not split over 8 devices"),
        ("data", DataConfig(kind="esc51"), "data.kind is 'esc51'"),
        ("data", DataConfig(kind="esc50"), "data.dir is not set"),
        ("augment", AugmentConfig(time_mask=65), "augment.time_mask is 65"),
        ("optimizer", OptimizerConfig(schedule="step"), "optimizer.schedule is 'step'"),
        ("optimizer", OptimizerConfig(warmup_steps=6), "warmup_steps is 6 and the run has 6 steps"),
        ("optimizer", OptimizerConfig(b1=1.0), "optimizer.b1 is 1.0"),
        ("seed", -1, "seed is -1"),
        ("frontend", FrontendConfig(std=0.0), "frontend.std is 0.0"),
        ("frontend", FrontendConfig(sampling_rate=8000), "frontend.sampling_rate is 8000"),
        ("workdir", "gs://bucket/run", "is remote"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(tmp_path, field, value, said):
    config = small(tmp_path / "run")
    setattr(config, field, value)
    with pytest.raises(InputError, match=said):
        fit(config)
    assert not (tmp_path / "run").exists()
