import numpy as np
import pytest
import scipy.signal

from ast_jax.audio.kaldi import mel_bank, mel_position, window


@pytest.mark.parametrize("size", [2, 25, 400, 551])
def test_windows_are_symmetric(size):
    for ours, scipys in [("hanning", "hann"), ("hamming", "hamming"), ("blackman", "blackman")]:
        expected = scipy.signal.get_window(scipys, size, fftbins=False)
        np.testing.assert_allclose(window(ours, size), expected, atol=1e-15)
    np.testing.assert_allclose(window("povey", size), np.abs(window("hanning", size)) ** 0.85)
    np.testing.assert_array_equal(window("rectangular", size), 1)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero:UserWarning")
def test_mel_bank_matches_hugging_face():
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(
        257, 128, 20, 8000, 16000, None, "kaldi", triangularize_in_mel_space=True
    )
    ours = mel_bank(128, 512, 16000, 20.0, 0.0)
    np.testing.assert_allclose(ours, theirs[:256].T, atol=1e-12)
    np.testing.assert_allclose(theirs[256], 0, atol=1e-12)
    assert (np.count_nonzero(ours, axis=0) <= 2).all()
    assert (~ours.any(axis=1)).sum() == 1  # one low filter lies between two FFT bins


@pytest.mark.parametrize(("bins", "rate"), [(64, 16000), (128, 44100)])
def test_a_filter_peaks_at_its_position(bins, rate):
    weights = mel_bank(bins, 1 << 18, rate, 20.0, 0.0)
    peaks = weights.argmax(axis=1) * rate / (1 << 18)
    np.testing.assert_allclose(mel_position(peaks, bins, rate), np.arange(bins), atol=0.01)
