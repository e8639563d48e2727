import numpy as np
import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.pcm import to_float
from ast_jax.data import batches
from ast_jax.data.batches import InputBuilder, TrainBatches, trim
from ast_jax.data.buckets import make_buckets
from ast_jax.data.clips import Clips
from ast_jax.data.mixup import mixup, sample_mixup

EXTRACTOR = ASTFeatureExtractor(max_length=58, num_mel_bins=16, mean=-6.0, std=5.0)
INPUTS = InputBuilder(EXTRACTOR, mask_padding=True)
BUCKETS = make_buckets(58, 16, 10, 3)  # of 5 columns


def make_clips(count):
    rng = np.random.default_rng(0)
    waveforms = [
        rng.integers(-9999, 9999, rng.integers(400, 400 + 60 * 160)).astype(np.int16)
        for _ in range(count)
    ]
    return Clips(waveforms, np.eye(count, dtype=np.float32), [str(i) for i in range(count)])


CLIPS = make_clips(46)


def make(inputs=INPUTS, buckets=BUCKETS, **changes):
    return TrainBatches(CLIPS, inputs, seed=3, batch_size=4, buckets=buckets, **changes)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(batches, "CHUNK", 4)  # an epoch of 11 batches has three


def test_lengths_are_even_in_columns_and_cut_no_patch_with_a_frame_of_a_clip():
    assert BUCKETS.frames == (26, 46, 58)
    for frames in range(1, 100):
        bucket = BUCKETS.frames[int(BUCKETS.bucket_of(np.array([frames]))[0])]
        columns = min(-(-frames // 10), 5)  # with one of its frames
        assert columns <= (bucket - 16) // 10 + 1
        shorter = [(length - 16) // 10 + 1 for length in BUCKETS.frames if length < bucket]
        assert all(columns > c for c in shorter)
    assert make_buckets(58, 16, 10, 1).frames == (58,)
    assert make_buckets(58, 16, 10, 5).frames == (16, 26, 36, 46, 58)


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.5}, {"balanced": True}])
def test_an_epoch_has_the_same_clips_and_mixes_in_shorter_batches(settings):
    plain, grouped = make(buckets=None, **settings), make(**settings)
    lengths = []
    for epoch in (0, 1):
        steps = range(11 * epoch, 11 * (epoch + 1))
        before = {key(batch, row) for batch in map(plain, steps) for row in range(4)}
        after = set()
        for batch in map(grouped, steps):
            trimmed = trim(batch)
            length = trimmed["input_values"].shape[1]
            padded = np.array(batch["input_values"])
            assert length in BUCKETS.frames
            # what is trimmed is padding of all clips, but frames that no patch has
            assert batch["num_frames"].max() <= 10 * ((length - 16) // 10 + 1) or length == 58
            after |= {key(batch | {"input_values": padded}, row) for row in range(4)}
            lengths.append(length)
        assert after == before
    assert lengths.count(58) < 16
    assert len(set(lengths)) == 3
    assert lengths != sorted(lengths)


def key(batch, row):
    """Returns what identifies a clip of a batch with its mixup."""
    return batch["input_values"][row].tobytes(), batch["targets"][row].tobytes()


def test_batches_depend_on_the_step_alone_in_any_number_of_processes():
    whole = [make(mixup=0.5)(step) for step in range(13)]
    again = make(mixup=0.5)
    parts = [make(mixup=0.5, process=process, processes=2) for process in (0, 1)]
    assert len({tuple(batch["input_length"]) for batch in whole}) > 1
    for step in (12, 5, 0):
        halves = [part(step) for part in parts]
        for name, array in whole[step].items():
            np.testing.assert_array_equal(again(step)[name], array)
            joined = [half[name] for half in halves]
            if name == "input_length":
                np.testing.assert_array_equal(joined[0], joined[1])
            else:
                np.testing.assert_array_equal(np.concatenate(joined), array)


def test_a_mixed_clip_has_the_length_of_the_longer():
    batches = make(mixup=1.0, buckets=None)
    batch = batches(0)
    lengths = set()
    for row, first in enumerate(batches.indices(0)):
        partner, lam = sample_mixup(3, row, 1.0, 46)
        one, two = CLIPS.waveforms[first], CLIPS.waveforms[partner]
        longer = max(len(one), len(two))
        assert batch["num_frames"][row] == min(1 + (longer - 400) // 160, 58)
        one, two = (np.pad(to_float(x) - to_float(x).mean(), (0, longer - len(x)))
                    for x in (one, two))  # fmt: skip
        expected = EXTRACTOR(lam * one + (1 - lam) * two, 16000)[0]
        np.testing.assert_allclose(batch["input_values"][row], expected, atol=2e-3)
        lengths.add(len(one) < longer)
    assert mixup(CLIPS.waveforms[0], CLIPS.waveforms[1], 0.5).size == CLIPS.waveforms[0].size


def test_waveforms_for_the_device_end_with_the_bucket():
    on_device = make(InputBuilder(EXTRACTOR, on_device=True, mask_padding=True))
    for step in range(11):
        ours, theirs = trim(on_device(step)), trim(make()(step))
        frames = theirs["input_values"].shape[1]
        assert ours["waveforms"].shape[1] == 400 + (frames - 1) * 160
        assert (ours["lengths"] <= ours["waveforms"].shape[1]).all()
        np.testing.assert_array_equal(ours["num_frames"], theirs["num_frames"])
