import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.audio.augment import roll, spec_augment


def masks(key, shape, frequency_mask, time_mask):
    """Where a batch of ones was masked."""
    masked = spec_augment(
        jax.random.key(key),
        jnp.ones(shape),
        frequency_mask=frequency_mask,
        time_mask=time_mask,
        fill=-7.0,
    )
    assert set(np.unique(masked)) <= {-7.0, 1.0}
    return np.asarray(masked) == -7


def test_a_mask_is_one_whole_band_of_either_kind():
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
    # ⌊U'·(total - U·size)⌋ reaches the first bin, and never quite the last.
    assert starts.min() == 0
    assert (starts + 10).max() == total - 1
    assert starts.mean() == pytest.approx((total - 10.5) / 2 - 0.5, abs=0.6)


def test_zero_width_masks_nothing():
    assert not masks(2, (8, 20, 10), 0, 0).any()


def test_a_mask_as_wide_as_the_clip_stays_inside():
    masked = masks(3, (500, 4, 10), 10, 4)
    assert masked.shape == (500, 4, 10)
    assert masked.any()
    assert not masked.all(axis=(1, 2)).any()


def test_clips_and_keys_differ_and_a_key_repeats():
    first = masks(4, (10, 50, 30), 12, 20)
    assert not (first == first[0]).all()
    np.testing.assert_array_equal(first, masks(4, (10, 50, 30), 12, 20))
    assert (first != masks(5, (10, 50, 30), 12, 20)).any()


def test_a_batch_of_one_works():
    assert masks(6, (1, 50, 30), 12, 20).shape == (1, 50, 30)


def test_roll_shifts_whole_clips_uniformly_between_its_bounds():
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


def test_no_roll_is_nothing_at_all():
    x = jnp.ones((2, 4, 3))
    assert roll(jax.random.key(0), x, 0) is x
