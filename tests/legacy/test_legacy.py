"""Checkpoints, prepared sets and runs that an earlier version wrote still load and resume.

make.py says which version, and what is in the archive.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

import ast_jax
from ast_jax.checkpoint.format import load_checkpoint
from ast_jax.config import (
    AugmentConfig,
    FrontendConfig,
    OptimizerConfig,
    PreparedData,
    SyntheticData,
    TrainConfig,
)
from ast_jax.data.prepared import open_prepared
from ast_jax.data.training_data import load_data
from ast_jax.evaluation.checkpoints import evaluate_checkpoints
from ast_jax.models.config import ASTConfig
from ast_jax.runs.plots import draw_loss
from ast_jax.training.loop import fit

# Recomputed values are not bit-identical: processors, versions of XLA and optimization levels fuse
# and order float32 sums differently. Parameters are of order 1 and differ by 1.5e-8 between jax
# 0.10.2 and 0.12 after the remaining steps; another mask or order of clips gives 1e-5. Logits
# differ by 5e-7, as a norm over 8 values amplifies differences.
TOLERANCE = 1e-6
LOGITS_TOLERANCE = 5e-6

pytestmark = pytest.mark.usefixtures("no_plots", "share_functions")

SIZE = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_length": 48,
    "num_mel_bins": 16,
}


def interrupted() -> TrainConfig:
    """Returns the configuration of the interrupted run, see make.py."""
    return TrainConfig(
        workdir="interrupted",
        model=ASTConfig(**SIZE, frequency_stride=16, time_stride=16),
        data=SyntheticData(train_clips=5, evaluation_clips=1),
        augment=AugmentConfig(frequency_mask=4, time_mask=8, noise=True, roll=4, mixup=0.5),
        optimizer=OptimizerConfig(
            learning_rate=1e-2,
            schedule="cosine",
            warmup_steps=2,
            eps=1e-3,
            grad_clip_norm=0.5,
            ema_decay=0.5,
        ),
        label_smoothing=0.1,
        batch_size=16,
        grad_accum_steps=2,
        num_epochs=4,
        checkpoint_every_steps=2,
        max_to_keep=1,
        average_from=2,
        final_params="average",
        seed=3,
    )


def finished() -> TrainConfig:
    """Returns the configuration of the finished run, see make.py."""
    return TrainConfig(
        workdir="finished",
        init_from="checkpoint",
        model=ASTConfig(**SIZE, frequency_stride=16, time_stride=10),
        frontend=FrontendConfig(on_device=True),
        data=PreparedData(dir="prepared", name="csv", balanced=True),
        augment=AugmentConfig(patchout_time=1),
        optimizer=OptimizerConfig(
            kind="adamw",
            learning_rate=1e-2,
            schedule="multi_step",
            eps=1e-3,
            weight_decay=0.01,
            grad_clip_norm=1.0,
            layer_decay=0.75,
        ),
        loss="binary_cross_entropy",
        batch_size=8,
        num_epochs=3,
        max_to_keep=1,
        metric="accuracy",
        cumulative=True,
        final_params="best",
        shard_optimizer=True,
    )


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Extracts the archive and makes it the working directory, as paths in runs are relative."""
    with tarfile.open(Path(__file__).parent / "legacy.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def expected(folder):
    """Returns the results of the earlier version by name."""
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def params_of(checkpoint):
    """Returns a checkpoint's parameters by name."""
    return traverse_util.flatten_dict(load_checkpoint(checkpoint).params, sep="/")


def assert_close(params, others, atol):
    assert params.keys() == others.keys()
    for name, array in params.items():
        np.testing.assert_allclose(array, others[name], rtol=0, atol=atol, err_msg=name)


def test_a_checkpoint_gives_the_same_logits(expected):
    model = ast_jax.ASTForAudioClassification.from_pretrained("checkpoint")
    logits = np.asarray(model(expected["checkpoint/inputs"]))
    np.testing.assert_allclose(logits, expected["checkpoint/logits"], rtol=0, atol=LOGITS_TOLERANCE)
    classifier = ast_jax.load("checkpoint")
    assert classifier.labels == ["hum", "hiss", "clicks, café"]
    extractor = classifier.feature_extractor
    assert (extractor.sampling_rate, extractor.mean, extractor.std) == (16000, -6.0, 3.0)


def test_a_prepared_set_has_the_same_clips(expected):
    opened = open_prepared("prepared")
    assert opened.labels == ["clicks, café", "hiss", "hum"]
    assert opened.sampling_rate == 16000
    assert {split: len(opened.clips(split).names) for split in opened.splits} == {
        "train": 8,
        "test": 4,
    }
    for split in opened.splits:
        clips = opened.clips(split)
        np.testing.assert_array_equal(clips.waveforms[0], expected[f"prepared/{split}/first"])
        np.testing.assert_array_equal(clips.all_targets(), expected[f"prepared/{split}/targets"])
    assert load_data(finished()).statistics.keys() == {16}


def test_an_interrupted_run_resumes_with_the_same_result(expected):
    before = json.loads(Path("interrupted/history.json").read_text())
    assert ast_jax.load("interrupted").labels[:2] == ["beeps", "bell"]
    fit(interrupted())
    params = {f"interrupted/params/{name}": p for name, p in params_of("interrupted/model").items()}
    wanted = {name: a for name, a in expected.items() if name.startswith("interrupted/params/")}
    assert_close(params, wanted, TOLERANCE)
    history = json.loads(Path("interrupted/history.json").read_text())
    assert len(before) == 2
    assert history[:2] == before
    draw_loss(history, Path("loss.png"))  # which `no_plots` left out
    # Ranked by probabilities since; those versions ranked the clips of softmax models by logits.
    for name in history[0].keys() - {"mean_average_precision", "mean_auc", "d_prime"}:
        values = np.array([row[name] for row in history], float)
        np.testing.assert_allclose(
            values, expected[f"interrupted/history/{name}"], rtol=0, atol=TOLERANCE, err_msg=name
        )


def test_a_finished_run_evaluates_to_the_same_scores_and_is_left_as_it_is():
    scores = json.loads(Path("finished/results.json").read_text())
    before = params_of("finished/model")
    results = evaluate_checkpoints(["finished"], "prepared", batch_size=8)
    for found in (results.evaluations["finished"].metrics, fit(finished()).scores):
        assert found._asdict() == pytest.approx(
            {name: value for name, value in scores.items() if name != "classes"}, abs=TOLERANCE
        )
    assert_close(params_of("finished/model"), before, atol=0)


def test_the_result_of_a_finished_run_is_made_again_from_its_best_checkpoint():
    before = params_of("finished/model")
    shutil.rmtree("finished/model")
    fit(finished())
    assert_close(params_of("finished/model"), before, atol=0)


def test_a_run_with_a_split_optimizer_repeats_its_last_step():
    last = params_of("finished/checkpoints/3")
    shutil.rmtree("finished/checkpoints/3")
    fit(finished())
    assert_close(params_of("finished/checkpoints/3"), last, TOLERANCE)
