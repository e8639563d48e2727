import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.audio.fbank_reference import fbank_reference
from ast_jax.audio.kaldi import window


def one_by_one(
    x, rate, num_mel_bins, frame_length, frame_shift, window_type, low_freq, high_freq, preemphasis
):
    """Computes Kaldi's log-mel one frame and one filter at a time."""

    def mel(hertz):
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    size, step = int(rate * frame_length / 1000), int(rate * frame_shift / 1000)
    fft_size, taper = 2 ** int(np.ceil(np.log2(size))), window(window_type, size)
    highest = high_freq if high_freq > 0 else rate / 2 + high_freq
    corners = np.linspace(mel(low_freq), mel(highest), num_mel_bins + 2)
    at = mel(np.arange(fft_size // 2 + 1) * rate / fft_size)
    rows = []
    for start in range(0, len(x) - size + 1, step):
        frame = x[start : start + size].astype(np.float64)
        frame = frame - frame.mean()
        frame = frame - preemphasis * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * taper, fft_size)) ** 2
        filters = [np.interp(at, corners[b : b + 3], [0, 1, 0], 0, 0) for b in range(num_mel_bins)]
        rows.append([np.log(max(power @ weights, 1.1920928955078125e-07)) for weights in filters])
    return np.array(rows)


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
def test_options_match_a_plain_loop(rate, seed, **options):
    samples = int(rate * 0.15)
    x = (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32) + 0.2
    expected = one_by_one(x, rate, **options)
    np.testing.assert_allclose(fbank_reference(x, rate, **options), expected, atol=1e-6)


def test_matches_the_original_in_float64(golden, within):
    # The remaining error is torchaudio's mel bank, which is always float32.
    for i in range(5):
        # The original removes the clip's mean in float32.
        waveform = (golden["arrays"][f"waveform_{i}"] / 32768).astype(np.float32)
        waveform -= waveform.mean()
        error = np.abs(fbank_reference(waveform) - golden["arrays"][f"fbank64_{i}"])
        within("log-mel, reference against torchaudio's float64: max", error.max(), 3e-4)
        within("log-mel, reference against torchaudio's float64: mean", error.mean(), 5e-6)
