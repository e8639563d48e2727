import numpy as np
import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.data.clips import Clips
from ast_jax.data.pipeline import evaluation_batches, train_batches

EXTRACTOR = ASTFeatureExtractor(max_length=32, num_mel_bins=16, mean=-6.0, std=5.0)


@pytest.fixture
def clips():
    rng = np.random.default_rng(0)
    waveforms = [rng.uniform(-1, 1, rng.integers(600, 8000)).astype(np.float32) for _ in range(10)]
    return Clips(waveforms, np.eye(10, dtype=np.float32), [str(i) for i in range(10)])


def test_training_batches_are_each_clips_features_and_its_targets(clips):
    batches = list(train_batches(clips, EXTRACTOR, seed=3, first_step=0, last_step=4, batch_size=5))
    assert len(batches) == 4
    for batch in batches:
        assert batch["input_values"].shape == (5, 32, 16)
        assert batch["input_values"].dtype == np.float32
        for row, target in zip(batch["input_values"], batch["targets"], strict=True):
            expected = EXTRACTOR(clips.waveforms[target.argmax()], 16000)[0]
            np.testing.assert_array_equal(row, expected)
    epochs = [batches[0]["targets"] + 0, batches[2]["targets"] + 0]
    seen = np.concatenate([b["targets"].argmax(1) for b in batches[:2]])
    assert sorted(seen) == list(range(10))
    assert (epochs[0] != epochs[1]).any()


def test_a_run_that_resumes_gets_the_batches_it_would_have_had(clips):
    settings = {"seed": 3, "last_step": 6, "batch_size": 4}
    whole = list(train_batches(clips, EXTRACTOR, first_step=0, **settings))
    rest = list(train_batches(clips, EXTRACTOR, first_step=3, **settings))
    for a, b in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(a["input_values"], b["input_values"])
        np.testing.assert_array_equal(a["targets"], b["targets"])


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 16])
def test_evaluation_counts_every_clip_once_whatever_the_batch(clips, batch_size):
    batches = list(evaluation_batches(clips, EXTRACTOR, batch_size))
    assert {len(batch["input_values"]) for batch in batches} == {batch_size}
    mask = np.concatenate([batch["mask"] for batch in batches]) > 0
    targets = np.concatenate([batch["targets"] for batch in batches])[mask]
    np.testing.assert_array_equal(targets, clips.targets)
    inputs = np.concatenate([batch["input_values"] for batch in batches])[mask]
    for row, waveform in zip(inputs, clips.waveforms, strict=True):
        np.testing.assert_array_equal(row, EXTRACTOR(waveform, 16000)[0])


def test_mixup_mixes_the_share_of_clips_it_is_told_to_and_their_targets(clips):
    settings = {"first_step": 0, "last_step": 40, "batch_size": 5}
    batches = train_batches(clips, EXTRACTOR, seed=1, mixup=0.5, **settings)
    targets = np.concatenate([batch["targets"] for batch in batches])
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    mixed = (targets > 0).sum(axis=1) == 2
    assert 0.3 < mixed.mean() < 0.6  # one partner in ten is the clip itself
    assert (targets[mixed].max(axis=1) < 0.95).all()  # Beta(10, 10) keeps away from the ends


def test_mixup_resumes_as_if_never_stopped(clips):
    settings = {"seed": 3, "last_step": 6, "batch_size": 4, "mixup": 0.7}
    whole = list(train_batches(clips, EXTRACTOR, first_step=0, **settings))
    rest = list(train_batches(clips, EXTRACTOR, first_step=3, **settings))
    for a, b in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(a["input_values"], b["input_values"])
        np.testing.assert_array_equal(a["targets"], b["targets"])
