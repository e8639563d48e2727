import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.audio.augment import noise, restore_padding, roll, spec_augment


def masks(key, shape, frequency_mask, time_mask):
    """Returns which elements of a batch of ones are masked."""
    masked = spec_augment(
        jax.random.key(key),
        jnp.ones(shape),
        frequency_mask=frequency_mask,
        time_mask=time_mask,
        fill=-7.0,
    )
    assert set(np.unique(masked)) <= {-7.0, 1.0}
    return np.asarray(masked) == -7


def test_mask_is_one_band_along_frequency_and_one_along_time():
    masked = masks(0, (20, 50, 30), 12, 20)
    for clip in masked:
        frames, bins = clip.all(axis=1), clip.all(axis=0)
        np.testing.assert_array_equal(clip, frames[:, None] | bins[None, :])
        for band in (frames, bins):
            edges = np.abs(np.diff(np.concatenate([[0], band.astype(int), [0]]))).sum()
            assert edges in (0, 2)


def test_widths_and_starts_have_the_originals_distribution():
    total, size, clips = 40, 16, 20000
    masked = masks(1, (clips, 1, total), size, 0)[:, 0]
    widths = masked.sum(axis=1)
    counts = np.bincount(widths, minlength=size)
    assert widths.max() == size - 1  # ⌊U·size⌋ for U in [0, 1)
    np.testing.assert_allclose(counts / clips, 1 / size, atol=0.006)
    wide = masked[widths == 10]
    starts = wide.argmax(axis=1)
    # ⌊U'·(total - U·size)⌋ reaches the first bin, but never the last.
    assert starts.min() == 0
    assert (starts + 10).max() == total - 1
    assert starts.mean() == pytest.approx((total - 10.5) / 2 - 0.5, abs=0.6)


def test_zero_width_masks_nothing():
    assert not masks(2, (8, 20, 10), 0, 0).any()


def test_a_mask_as_wide_as_the_clip_stays_inside_it():
    masked = masks(3, (500, 4, 10), 10, 4)
    assert masked.shape == (500, 4, 10)
    assert masked.any()
    assert not masked.all(axis=(1, 2)).any()


def test_masks_reach_the_first_bin_and_frame_and_the_last_but_one():
    # As in torchaudio: start and width are rounded down separately, so the last is never masked.
    for masked in (masks(7, (5000, 1, 12), 6, 0)[:, 0], masks(7, (5000, 12, 1), 0, 6)[:, :, 0]):
        assert masked[:, 0].any()
        assert not masked[:, -1].any()
        assert (masked.sum(axis=1) <= 5).all()
        at_the_end = masked[masked[:, -2]]  # widths are not truncated there
        assert {1, 2, 3, 4, 5} <= set(at_the_end.sum(axis=1))


def test_either_mask_can_have_zero_width_alone():
    only_bins, only_frames = masks(8, (50, 20, 10), 5, 0), masks(8, (50, 20, 10), 0, 5)
    assert only_bins.any()
    assert not only_bins.all(axis=2).any()
    assert only_frames.any()
    assert not only_frames.all(axis=1).any()


def test_masks_are_independent_of_each_other_and_across_clips():
    masked = masks(9, (20000, 40, 40), 30, 30)
    bins, frames = (masked.all(axis=axis).sum(axis=1) for axis in (1, 2))
    for one, other in [(bins, frames), (bins[:-1], bins[1:]), (frames[:-1], frames[1:])]:
        assert abs(np.corrcoef(one, other)[0, 1]) <= 0.03


def test_masks_differ_by_clip_and_key_and_repeat_with_the_key():
    first = masks(4, (10, 50, 30), 12, 20)
    assert not (first == first[0]).all()
    np.testing.assert_array_equal(first, masks(4, (10, 50, 30), 12, 20))
    assert (first != masks(5, (10, 50, 30), 12, 20)).any()


def test_a_batch_of_one_works():
    assert masks(6, (1, 50, 30), 12, 20).shape == (1, 50, 30)


def test_roll_shifts_clips_uniformly_between_its_bounds():
    frames, clips = 50, 20000
    clip = jnp.arange(frames, dtype=jnp.float32)[:, None] * jnp.ones((1, 2))
    rolled = np.asarray(roll(jax.random.key(0), jnp.tile(clip, (clips, 1, 1)), 10))
    shifts = (rolled[:, 0, 0].astype(int) * -1) % frames
    shifts = np.where(shifts >= frames // 2, shifts - frames, shifts)
    for row, shift in zip(rolled[:200], shifts[:200], strict=True):
        np.testing.assert_array_equal(row, np.roll(clip, shift, axis=0))
    counts = np.bincount(shifts + 10, minlength=20)
    assert len(counts) == 20  # -10 to 9, as the original's randint(-10, 10)
    np.testing.assert_allclose(counts / clips, 1 / 20, atol=0.006)


def test_zero_roll_changes_nothing():
    x = jnp.ones((2, 4, 3))
    assert roll(jax.random.key(0), x, 0) is x


def test_rolls_are_independent_across_clips_and_repeat_with_the_key():
    clip = jnp.arange(50.0)[:, None]
    batch = jnp.tile(clip, (5000, 1, 1))
    rolled = np.asarray(roll(jax.random.key(1), batch, 10))
    shifts = rolled[:, 25, 0]
    assert abs(np.corrcoef(shifts[:-1], shifts[1:])[0, 1]) <= 0.06
    np.testing.assert_array_equal(rolled, roll(jax.random.key(1), batch, 10))
    assert (rolled != roll(jax.random.key(2), batch, 10)).any()


def test_a_roll_longer_than_the_clip_wraps_around():
    clip = jnp.arange(3.0)[None, :, None]
    for seed in range(20):
        rolled = np.asarray(roll(jax.random.key(seed), clip, 10))[0, :, 0]
        assert any((rolled == np.roll(clip[0, :, 0], shift)).all() for shift in range(3))


def added_noise(key, shape):
    return np.asarray(noise(jax.random.key(key), jnp.zeros(shape)))


def test_noise_is_uniform_and_so_is_its_loudness_over_clips():
    added = added_noise(0, (5000, 40, 25))
    assert (added >= 0).all()
    loudness = added.max(axis=(1, 2))  # the maximum of 1000 values in [0, u) is close to u
    for quantile in (0.1, 0.5, 0.9):
        assert np.quantile(loudness, quantile) == pytest.approx(quantile / 10, abs=0.004)
    assert 0.09 < added.max() < 0.1
    relative = added / loudness[:, None, None]
    counts, _ = np.histogram(relative, bins=10, range=(0, 1))
    np.testing.assert_allclose(counts / added.size, 0.1, atol=0.002)


def test_noise_differs_by_value_clip_and_key_and_repeats_with_the_key():
    added = added_noise(1, (2000, 10, 8))
    assert len(np.unique(added[0])) == 80
    loudness = added.mean(axis=(1, 2))
    assert abs(np.corrcoef(loudness[:-1], loudness[1:])[0, 1]) <= 0.1
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) <= 0.5
    # The loudness is drawn independently of the values.
    assert abs(np.corrcoef(loudness, added[:, 0, 0] / loudness)[0, 1]) <= 0.1
    np.testing.assert_array_equal(added, added_noise(1, (2000, 10, 8)))
    assert (added != added_noise(2, (2000, 10, 8))).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_noise_is_added_and_keeps_the_dtype(dtype):
    x = jnp.full((1, 30, 20), -0.25, dtype)
    noisy = noise(jax.random.key(0), x)
    assert noisy.dtype == dtype
    assert noisy.shape == x.shape
    assert (noisy >= -0.25).all()
    assert (noisy <= -0.15).all()
    assert (noisy != x).any()


def test_masks_and_rolls_stay_within_the_frames_before_padding():
    num_frames = jnp.array([40, 17, 3] * 100)
    real = np.arange(40) < num_frames[:, None]
    masked = spec_augment(
        jax.random.key(0),
        jnp.ones((300, 40, 8)),
        frequency_mask=0,
        time_mask=20,
        fill=-7.0,
        num_frames=num_frames,
    )
    is_masked = np.asarray(masked)[:, :, 0] == -7
    assert not is_masked[~real].any()
    assert is_masked[2::3].any()
    assert not is_masked[real].reshape(-1).all()
    clips = jnp.arange(40.0)[None, :, None] * jnp.ones((300, 1, 8))
    rolled = np.asarray(roll(jax.random.key(1), clips, 10, num_frames))
    np.testing.assert_array_equal(np.sort(rolled, axis=1), clips)
    np.testing.assert_array_equal(rolled[~real], clips[~real])
    assert (rolled[1::3] != clips[1::3]).any()
    whole = jnp.full(300, 40)
    np.testing.assert_array_equal(
        roll(jax.random.key(1), clips, 10, whole), roll(jax.random.key(1), clips, 10)
    )
    restored = np.asarray(restore_padding(clips + 1, clips, num_frames))
    np.testing.assert_array_equal(restored - clips, real[:, :, None] * np.ones(8))
