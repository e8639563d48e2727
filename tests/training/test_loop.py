import json

import jax
import numpy as np
import pytest
from matplotlib import image

import ast_jax
from ast_jax.checkpoint import load_checkpoint
from ast_jax.config import AugmentConfig, DataConfig, OptimizerConfig, TrainConfig
from ast_jax.data.synthetic import SOUNDS
from ast_jax.errors import InputError
from ast_jax.inference.load import run_steps
from ast_jax.models.config import ASTConfig
from ast_jax.training.loop import fit
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
    return load_checkpoint(run_steps(workdir)[-1]).params


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


def test_training_starts_from_a_checkpoint_with_a_new_head_and_size(finished, tmp_path):
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
    assert load_checkpoint(run_steps(tmp_path / "run")[-1]).config.max_length == 96


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


def test_a_diverging_loss_stops_the_run_in_one_sentence(tmp_path):
    config = small(tmp_path / "run")
    config.optimizer = OptimizerConfig(learning_rate=1e30)
    with pytest.raises(InputError, match=r"the loss is (nan|inf).*learning_rate"):
        fit(config)


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
    ],
)
def test_a_field_that_cannot_be_used_is_named(tmp_path, field, value, said):
    config = small(tmp_path / "run")
    setattr(config, field, value)
    with pytest.raises(InputError, match=said):
        fit(config)
