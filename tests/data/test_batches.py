import pickle
import sys
import threading

import numpy as np
import pytest
from scipy.sparse import csr_array

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.pcm import to_float, to_int16
from ast_jax.data.batches import EvaluationBatches, InputBuilder, TrainBatches
from ast_jax.data.clips import Clips
from ast_jax.data.mixup import mixup, sample_mixup
from ast_jax.data.sampler import balancing_weights, epoch_order

EXTRACTOR = ASTFeatureExtractor(max_length=32, num_mel_bins=16, mean=-6.0, std=5.0)
INPUTS = InputBuilder(EXTRACTOR)


def filled(inputs, waveforms):
    batch = inputs.empty(len(waveforms))
    for row, waveform in enumerate(waveforms):
        inputs.fill(batch, row, waveform)
    return batch


SAMPLES = 400 + 31 * 160  # in 32 frames


def make_clips(count=10):
    rng = np.random.default_rng(0)
    waveforms = [
        rng.integers(-32768, 32768, rng.integers(600, 8000)).astype(np.int16) for _ in range(count)
    ]
    return Clips(waveforms, np.eye(count, dtype=np.float32), [str(i) for i in range(count)])


CLIPS = make_clips()


def assert_equal(first, second):
    assert list(first) == list(second)
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name])


def join(batches):
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def test_inputs_are_the_features_of_int16_or_float_waveforms():
    ours = filled(INPUTS, CLIPS.waveforms)
    assert list(ours) == ["input_values"]
    expected = [EXTRACTOR(to_float(waveform), 16000)[0] for waveform in CLIPS.waveforms]
    np.testing.assert_array_equal(ours["input_values"], expected)
    assert_equal(filled(INPUTS, [to_float(waveform) for waveform in CLIPS.waveforms]), ours)


def test_inputs_for_the_device_are_int16_samples_and_lengths():
    batch = filled(InputBuilder(EXTRACTOR, on_device=True), CLIPS.waveforms)
    assert batch["waveforms"].shape == (10, SAMPLES)
    assert batch["waveforms"].dtype == np.int16
    assert batch["lengths"].dtype == np.int32
    assert any(len(waveform) > SAMPLES for waveform in CLIPS.waveforms)
    for row, length, waveform in zip(*batch.values(), CLIPS.waveforms, strict=True):
        assert length == min(len(waveform), SAMPLES)
        np.testing.assert_array_equal(row[:length], waveform[:length])
        assert not row[length:].any()


def test_inputs_for_the_device_have_all_samples_that_features_need():
    batch = filled(InputBuilder(EXTRACTOR, on_device=True), CLIPS.waveforms)
    cut = [row[:length] for row, length in zip(*batch.values(), strict=True)]
    ours, theirs = (
        filled(INPUTS, waveforms)["input_values"] for waveforms in (cut, CLIPS.waveforms)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_floats_for_the_device_are_rounded_to_int16():
    waveform = np.random.default_rng(0).uniform(-1.1, 1.1, 900).astype(np.float32)
    batch = filled(InputBuilder(EXTRACTOR, on_device=True), [waveform])
    np.testing.assert_array_equal(batch["waveforms"][0, :900], to_int16(waveform))


def test_training_batches_have_features_and_targets():
    make = TrainBatches(CLIPS, INPUTS, seed=3, batch_size=5)
    batches = [make(step) for step in range(4)]
    for batch in batches:
        assert list(batch) == ["input_values", "targets"]
        assert batch["input_values"].shape == (5, 32, 16)
        assert {array.dtype for array in batch.values()} == {np.dtype(np.float32)}
        for row, target in zip(*batch.values(), strict=True):
            waveform = CLIPS.waveforms[target.argmax()]
            np.testing.assert_array_equal(row, EXTRACTOR(to_float(waveform), 16000)[0])
    first, second = join(batches[:2])["targets"], join(batches[2:])["targets"]
    assert sorted(first.argmax(1)) == sorted(second.argmax(1)) == list(range(10))
    assert (first != second).any()
    np.testing.assert_array_equal(first.argmax(1), epoch_order(3, 0, 10))


SETTINGS = {
    "plain": {},
    "mixup": {"mixup": 0.7},
    "balanced": {"balanced": True},
    "both": {"mixup": 0.5, "balanced": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_starting_at_step_k_gives_the_same_batches(settings):
    whole = TrainBatches(CLIPS, INPUTS, seed=3, batch_size=4, **settings)
    batches = [whole(step) for step in range(7)]
    for k in (0, 3, 6):
        rest = TrainBatches(CLIPS, INPUTS, seed=3, batch_size=4, **settings)
        for step in range(k, 7):
            assert_equal(rest(step), batches[step])


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_seeds_differ(settings):
    first, second = (TrainBatches(CLIPS, INPUTS, seed, 10, **settings)(0) for seed in (0, 1))
    assert (first["targets"] != second["targets"]).any()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("processes", [1, 2, 8])
def test_the_processes_together_read_one_epoch(processes, settings):
    clips = make_clips(20)
    alone = TrainBatches(clips, INPUTS, seed=1, batch_size=8, **settings)
    each = [
        TrainBatches(clips, INPUTS, 1, 8, process=p, processes=processes, **settings)
        for p in range(processes)
    ]
    for step in range(5):
        parts = [make(step) for make in each]
        assert {len(part["targets"]) for part in parts} == {8 // processes}
        assert_equal(join(parts), alone(step))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_sparse_targets_give_the_same_batches(settings):
    sparse = CLIPS._replace(targets=csr_array(CLIPS.targets))
    ours, theirs = (TrainBatches(c, INPUTS, 1, 5, **settings) for c in (sparse, CLIPS))
    assert_equal(ours(3), theirs(3))


def test_balanced_batches_follow_the_weights():
    targets = np.eye(2, dtype=np.float32)[[0] * 9 + [1]]
    clips = CLIPS._replace(targets=targets)
    make = TrainBatches(clips, INPUTS, seed=5, batch_size=10, balanced=True)
    order = epoch_order(5, 2, 10, balancing_weights(targets))
    np.testing.assert_array_equal(make(2)["targets"], targets[order])


def test_mixup_mixes_clips_and_targets_at_the_given_rate():
    make = TrainBatches(CLIPS, INPUTS, seed=1, batch_size=5, mixup=0.5)
    targets = join([make(step) for step in range(40)])["targets"]
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    mixed = (targets > 0).sum(axis=1) == 2
    assert 0.3 < mixed.mean() < 0.6  # one partner in ten is the clip itself
    assert (targets[mixed].max(axis=1) < 0.95).all()  # Beta(10, 10) is rarely close to 0 or 1


@pytest.mark.parametrize("on_device", [False, True])
def test_a_mixed_clip_is_the_weighted_sum_of_waveforms_and_targets(on_device):
    inputs = InputBuilder(EXTRACTOR, on_device)
    batch = TrainBatches(CLIPS, inputs, seed=2, batch_size=5, mixup=1.0)(3)
    waveforms, targets = [], []
    for place, index in enumerate(epoch_order(2, 1, 10)[5:]):
        partner, lam = sample_mixup(2, 3 * 5 + place, 1.0, 10)
        waveforms.append(mixup(CLIPS.waveforms[index], CLIPS.waveforms[partner], lam))
        targets.append(lam * CLIPS.targets[index] + (1 - lam) * CLIPS.targets[partner])
    assert_equal(batch, filled(inputs, waveforms) | {"targets": np.float32(targets)})


@pytest.fixture
def busy_threads():
    """Makes Python switch threads as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_in_different_epochs_get_the_right_orders(busy_threads):
    make = TrainBatches(CLIPS, INPUTS, seed=0, batch_size=10)
    orders = [epoch_order(0, epoch, 10).tolist() for epoch in range(6)]
    wrong, start = [], threading.Barrier(16)

    def read(number):
        rng = np.random.default_rng(number)
        start.wait()
        for epoch in rng.integers(0, 6, 1000).tolist():
            try:
                if make._order(epoch).tolist() != orders[epoch]:
                    wrong.append(epoch)
            except KeyError as error:
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(make._orders) <= 3  # an order of millions of clips takes many megabytes


def test_an_epochs_order_is_computed_once():
    make = TrainBatches(CLIPS, INPUTS, seed=0, batch_size=5)
    assert make._order(1) is make._order(1)


def test_batches_can_be_pickled():
    make = TrainBatches(CLIPS, INPUTS, seed=0, batch_size=5, mixup=0.5, balanced=True)
    make(0)
    assert_equal(pickle.loads(pickle.dumps(make))(3), make(3))
    evaluation = EvaluationBatches(CLIPS, INPUTS, 4)
    assert_equal(pickle.loads(pickle.dumps(evaluation))(2), evaluation(2))


@pytest.mark.parametrize("processes", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 10, 16])
def test_evaluation_counts_every_clip_once_for_any_number_of_processes(count, processes):
    clips = make_clips(count)
    each = [EvaluationBatches(clips, INPUTS, 8, p, processes) for p in range(processes)]
    assert {len(make) for make in each} == {-(-count // 8)}
    batch = join([join([make(number) for make in each]) for number in range(len(each[0]))])
    assert len(batch["mask"]) == 8 * len(each[0])
    assert set(batch["mask"].tolist()) <= {0.0, 1.0}
    assert {array.dtype for array in batch.values()} == {np.dtype(np.float32)}
    counted = batch["mask"] > 0
    np.testing.assert_array_equal(batch["targets"][counted], clips.targets)
    expected = filled(INPUTS, clips.waveforms)["input_values"]
    np.testing.assert_array_equal(batch["input_values"][counted], expected)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 16])
def test_evaluation_counts_every_clip_once_for_any_batch_size(batch_size):
    make = EvaluationBatches(CLIPS, INPUTS, batch_size)
    batches = [make(number) for number in range(len(make))]
    assert {len(batch["input_values"]) for batch in batches} == {batch_size}
    batch = join(batches)
    assert batch["mask"].sum() == 10
    np.testing.assert_array_equal(batch["targets"][batch["mask"] > 0], CLIPS.targets)


def test_a_batch_that_does_not_split_over_the_processes_is_refused():
    for make in (
        TrainBatches(CLIPS, INPUTS, 0, 5, process=1, processes=2),
        EvaluationBatches(CLIPS, INPUTS, 5, process=1, processes=2),
    ):
        with pytest.raises(ValueError, match="a batch of 5 does not split over 2 processes"):
            make(0)
