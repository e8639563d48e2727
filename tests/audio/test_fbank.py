from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ast_jax.audio.decode import load_audio
from ast_jax.audio.fbank import BLOCK, fbank
from ast_jax.audio.fbank_reference import fbank_reference
from ast_jax.audio.kaldi import LOG_FLOOR, mel_bank
from ast_jax.errors import InputError

FLOOR = np.log(LOG_FLOOR)


def noise(samples, seed=0, scale=0.1):
    return (scale * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


# ---- parity with the original


@pytest.fixture(params=range(5))
def clip(golden, request):
    """Returns a golden clip and torchaudio's log-mel in float64.

    The clip's mean is subtracted in float32, as in the original; this rounding is visible 100 dB
    below the peak.
    """
    arrays = golden["arrays"]
    waveform = (arrays[f"waveform_{request.param}"] / 32768).astype(np.float32)
    return waveform - waveform.mean(), arrays[f"fbank64_{request.param}"]


def test_float64_matches_the_originals_float64(clip, within):
    # The remaining error is torchaudio's mel bank, which is always float32.
    waveform, expected = clip
    error = np.abs(fbank(waveform, dtype=np.float64) - expected)
    within("log-mel, float64 against torchaudio's: max", error.max(), 3e-4)
    within("log-mel, float64 against torchaudio's: mean", error.mean(), 5e-6)


def test_float32_error_is_that_of_the_originals_float32(clip, within):
    # torchaudio's own float32 has errors up to 9.2e-3, and 5.5e-5 on average: on these synthetic
    # tones, filters 100 dB below the peak contain mostly rounding errors.
    waveform, expected = clip
    log_mel = fbank(waveform)
    assert log_mel.dtype == np.float32
    error = np.abs(log_mel - expected)
    within("log-mel, float32 against torchaudio's float64: max", error.max(), 1.5e-2)
    within("log-mel, float32 against torchaudio's float64: mean", error.mean(), 6e-5)


def test_float32_matches_float64_on_real_recordings(esc10):
    paths = sorted((esc10 / "audio").glob("*.ogg"))[::10]
    errors = []
    for path in paths:
        waveform = load_audio(path)
        errors.append(np.abs(fbank(waveform) - fbank(waveform, dtype=np.float64)))
    assert max(error.max() for error in errors) <= 5e-3
    assert max(error.mean() for error in errors) <= 2e-5  # loud low tones above near silence
    assert np.mean([error.mean() for error in errors]) <= 5e-6


# ---- parity with the reference


KALDI = {
    "seed": 0,
    "num_mel_bins": 20,
    "window_type": "hanning",
    "low_freq": 20.0,
    "high_freq": 0.0,
    "preemphasis": 0.97,
}


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050, 44100]),
    seed=st.integers(0, 99),
    num_mel_bins=st.integers(1, 140),
    frame_length=st.floats(4, 40),
    frame_shift=st.floats(3, 20),
    window_type=st.sampled_from(["hanning", "hamming", "povey", "blackman", "rectangular"]),
    low_freq=st.floats(0, 500),
    high_freq=st.floats(-1000, 3000).filter(lambda hertz: hertz <= 0 or hertz > 700),
    preemphasis=st.floats(0, 1),
)
@example(**KALDI, rate=16000, frame_length=20.0, frame_shift=10.0)  # a frame is exactly two hops
@example(**KALDI, rate=16000, frame_length=10.0, frame_shift=10.0)  # frames do not overlap
@example(**KALDI, rate=16000, frame_length=10.0, frame_shift=15.0)  # frames skip samples
@example(**KALDI, rate=44100, frame_length=4.0, frame_shift=1.0)  # more frames than a block
def test_matches_the_reference_with_any_options(rate, seed, **options):
    x = noise(int(rate * 0.15), seed) + 0.2
    expected = fbank_reference(x, rate, **options)
    np.testing.assert_allclose(fbank(x, rate, **options, dtype=np.float64), expected, atol=1e-9)
    np.testing.assert_allclose(fbank(x, rate, **options), expected, atol=5e-3)


def test_an_empty_filter_and_silence_give_the_floor():
    empty = np.flatnonzero(~mel_bank(128, 512, 16000, 20.0, 0.0).any(axis=1))
    np.testing.assert_allclose(fbank(noise(16000))[:, empty], FLOOR, rtol=1e-7)
    np.testing.assert_allclose(fbank(np.zeros(16000, np.float32)), FLOOR, rtol=1e-7)
    np.testing.assert_allclose(fbank(np.full(16000, 0.7, np.float32)), FLOOR, rtol=1e-7)


# ---- properties


@settings(max_examples=60, deadline=None)
@given(samples=st.integers(400, 40_000))
def test_number_of_frames_is_kaldis_with_snip_edges(samples):
    log_mel = fbank(noise(samples), num_mel_bins=8)
    assert log_mel.shape == (1 + (samples - 400) // 160, 8)
    assert np.isfinite(log_mel).all()


def test_ten_seconds_have_998_frames():
    assert fbank(noise(160_000)).shape == (998, 128)


@settings(max_examples=30, deadline=None)
@given(gain=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_a_gain_adds_its_log_to_values_above_the_floor(gain, seed):
    x = noise(4000, seed).astype(np.float64)
    quiet, loud = fbank(x, dtype=np.float64), fbank(gain * x, dtype=np.float64)
    above = (quiet > FLOOR) & (loud > FLOOR)
    np.testing.assert_allclose((loud - quiet)[above], 2 * np.log(gain), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(shift=st.integers(0, 300), frames=st.integers(1, 2 * BLOCK))
def test_a_frame_depends_only_on_its_own_samples(shift, frames):
    x = noise(400 + 160 * (300 + 2 * BLOCK))
    part = x[160 * shift : 160 * (shift + frames - 1) + 400]
    for dtype, atol in [(np.float32, 1e-2), (np.float64, 1e-9)]:
        whole = fbank(x, num_mel_bins=40, dtype=dtype)[shift : shift + frames]
        np.testing.assert_allclose(fbank(part, num_mel_bins=40, dtype=dtype), whole, atol=atol)


@settings(max_examples=30, deadline=None)
@given(offset=st.floats(-1, 1), scale=st.floats(1e-3, 0.3))
def test_a_constant_offset_changes_nothing(offset, scale):
    x = noise(8000, scale=scale).astype(np.float64)
    expected = fbank(x, dtype=np.float64)
    np.testing.assert_allclose(fbank(x + offset, dtype=np.float64), expected, atol=1e-6)

    rounded = (x + offset).astype(np.float32)
    error = np.abs(fbank(rounded) - fbank(rounded, dtype=np.float64))
    assert error.mean() <= 1e-5


def test_a_tone_peaks_in_its_filter():
    t = np.arange(16000) / 16000
    bank = mel_bank(128, 512, 16000, 20.0, 0.0)
    for hertz in (500, 1000, 3000, 7000):
        peak = fbank(0.5 * np.sin(2 * np.pi * hertz * t)).mean(axis=0).argmax()
        assert peak == bank[:, round(hertz * 512 / 16000)].argmax()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_any_float_input_is_accepted_and_not_modified(dtype):
    x = noise(8000).astype(dtype)
    before = x.copy()
    x.setflags(write=False)
    log_mel = fbank(x)
    np.testing.assert_array_equal(x, before)
    assert log_mel.dtype == np.float32
    np.testing.assert_array_equal(log_mel, fbank(np.repeat(x, 2)[::2]))  # strided
    np.testing.assert_array_equal(log_mel, fbank([float(v) for v in x]))  # a list


def test_threads_do_not_share_state():
    clips = [noise(20_000 + 777 * i, seed=i) for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        for clip, log_mel in zip(clips, pool.map(fbank, clips), strict=True):
            np.testing.assert_array_equal(log_mel, fbank(clip))


# ---- dither


def test_dither_depends_only_on_its_generator():
    x = noise(40_000)
    first, again, other = (fbank(x, dither=1e-3, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    double = fbank(x, dither=1e-3, rng=np.random.default_rng(1), dtype=np.float64)
    np.testing.assert_allclose(first, double, atol=2e-2)


def test_dither_is_added_before_preemphasis():
    options = {"preemphasis": 0.97, "frame_length": 25.0, "frame_shift": 25.0, "num_mel_bins": 20}
    x = noise(4 * 400).astype(np.float64)
    added = 0.1 * np.random.default_rng(1).standard_normal((4, 400))
    ours = fbank(x, dither=0.1, rng=np.random.default_rng(1), dtype=np.float64, **options)
    expected = fbank(x + added.ravel(), dtype=np.float64, **options)
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_zero_dither_does_not_use_the_generator():
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(fbank(noise(4000), rng=rng), fbank(noise(4000)))
    assert rng.random() == np.random.default_rng(1).random()


def test_dither_is_white_noise_of_the_given_deviation():
    silence = np.zeros(160_000)
    options = {"preemphasis": 0.0, "window_type": "rectangular", "frame_length": 32.0}
    energy = np.exp(fbank(silence, dither=0.1, rng=np.random.default_rng(0), **options))
    weights = mel_bank(128, 512, 16000, 20.0, 0.0).sum(axis=1)
    wide = weights > 3
    expected = 0.1**2 * 512 * weights  # E|X[k]|² = σ²·N
    np.testing.assert_allclose(energy.mean(axis=0)[wide], expected[wide], rtol=0.1)


# ---- invalid input


@pytest.mark.parametrize(
    ("waveform", "named"),
    [
        (noise(399), "399 samples and a frame takes 400"),
        (np.zeros(0, np.float32), "0 samples"),
        (noise(1600).reshape(2, 800), r"shape \(2, 800\)"),
        (np.float32(0.5), r"shape \(\)"),
        (np.zeros(16000, np.int16), "int16.*32768"),
        (np.zeros(16000, bool), "bool"),
        (np.zeros(16000, complex), "complex"),
        (np.where(np.arange(16000) == 15999, np.nan, noise(16000)), "NaN or infinite"),
        (np.where(np.arange(16000) == 0, np.inf, noise(16000)), "NaN or infinite"),
        (np.where(np.arange(16000) < 2, [np.inf, -np.inf] * 8000, noise(16000)), "NaN or inf"),
        (np.full(16000, 1e300), r"reaches 1e\+300: scale it"),
    ],
)
def test_an_invalid_waveform_is_refused(waveform, named):
    with pytest.raises(InputError, match=named) as caught:
        fbank(waveform)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"sampling_rate": 0},
        {"sampling_rate": -16000},
        {"sampling_rate": 16000.5},
        {"num_mel_bins": 0},
        {"frame_length": 0.0},
        {"frame_length": -25.0},
        {"frame_shift": 0.0},
        {"frame_shift": 0.01},
        {"window_type": "hann"},
        {"window_type": ""},
        {"low_freq": -1.0},
        {"low_freq": 9000.0},
        {"low_freq": float("nan")},
        {"high_freq": 8001.0},
        {"high_freq": -7990.0},
        {"high_freq": 10.0},
        {"preemphasis": 1.5},
        {"preemphasis": float("nan")},
        {"dither": -1.0, "rng": np.random.default_rng()},
        {"dither": float("inf"), "rng": np.random.default_rng()},
        {"dither": 1.0},
        {"dtype": np.float16},
        {"dtype": np.int16},
    ],
    ids=lambda options: " ".join(
        f"{name}={value}" for name, value in options.items() if name != "rng"
    ),
)
def test_an_invalid_option_is_named(options):
    with pytest.raises(InputError, match=next(iter(options))) as caught:
        fbank(noise(16000), **options)
    assert "\n" not in str(caught.value)
