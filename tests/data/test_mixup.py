import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ast_jax.audio.pcm import to_float
from ast_jax.data.mixup import mixup, sample_mixup


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
def test_mixup_has_the_first_clips_length_and_zero_mean(first, second, lam):
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, first).astype(np.float32)
    b = rng.uniform(-1, 1, second).astype(np.float32)
    mixed = mixup(a, b, lam)
    assert mixed.shape == a.shape
    assert mixed.dtype == np.float32
    assert abs(mixed.mean()) < 1e-6


def test_mixup_is_the_weighted_sum_with_the_shorter_padded():
    a, b = np.float32([1, -1, 3, -3]), np.float32([2, -2])
    np.testing.assert_allclose(mixup(a, b, 0.75), [1.25, -1.25, 2.25, -2.25])
    np.testing.assert_allclose(mixup(b, a, 0.75), [1.5 + 0.25, -1.5 - 0.25])


def test_sample_mixup_follows_the_rate_with_uniform_partners():
    samples = [sample_mixup(0, position, 0.4, 5) for position in range(4000)]
    mixed = [d for d in samples if d.partner is not None]
    assert abs(len(mixed) / 4000 - 0.4) < 0.03
    counts = np.bincount([d.partner for d in mixed], minlength=5)
    np.testing.assert_allclose(counts / len(mixed), 0.2, atol=0.04)
    lams = np.array([d.lam for d in mixed])
    assert abs(lams.mean() - 0.5) < 0.01
    assert abs(lams.std() - (1 / 84) ** 0.5) < 0.01  # the deviation of Beta(10, 10)
    assert samples == [sample_mixup(0, position, 0.4, 5) for position in range(4000)]
    assert sample_mixup(0, 7, 0.0, 5).partner is None
    assert sample_mixup(0, 7, 1.0, 5).partner is not None


# Scaling by a power of two is exact unless the result is subnormal.
LAMBDAS = st.just(0.0) | st.floats(1e-6, 1.0)


@given(st.integers(1, 300), st.integers(1, 300), LAMBDAS, st.integers(0, 2**32))
def test_int16_waveforms_mix_like_floats(first, second, lam, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-32768, 32768, n).astype(np.int16) for n in (first, second))
    kept = a.copy(), b.copy()
    expected = mixup(to_float(a), to_float(b), lam)
    for x, y in ((a, b), (to_float(a), b), (a, to_float(b))):
        np.testing.assert_array_equal(mixup(x, y, lam), expected)
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])


def test_read_only_waveforms_can_be_mixed():
    a = np.frombuffer(bytes(range(40)), np.int16)
    assert not a.flags.writeable
    assert mixup(a, a, 0.5).shape == (20,)
    still = to_float(a).copy()
    still.flags.writeable = False
    np.testing.assert_array_equal(mixup(still, still, 0.5), mixup(a, a, 0.5))
