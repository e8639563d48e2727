"""Kaldi's log-mel filterbank, step by step in float64.

Read this one first. `ast_jax.audio.fbank` and `ast_jax.audio.fbank_jax` compute the same faster
and in float32; the tests compare them with this one.
"""

import numpy as np
from jaxtyping import Float

from ast_jax.audio.kaldi import LOG_FLOOR, frame_sizes, mel_bank, next_power_of_two, window


def fbank_reference(
    waveform: Float[np.ndarray, " samples"],
    sampling_rate: int = 16000,
    *,
    num_mel_bins: int = 128,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
    window_type: str = "hanning",
    low_freq: float = 20.0,
    high_freq: float = 0.0,
    preemphasis: float = 0.97,
) -> Float[np.ndarray, "frames mel_bins"]:
    """Computes log-mel energies in float64; the options are those of `ast_jax.fbank`."""
    # Frames are rows. Samples after the last whole frame are dropped (Kaldi's `snip_edges`).
    size, shift = frame_sizes(sampling_rate, frame_length, frame_shift)
    waveform = np.asarray(waveform, np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[::shift]

    # Remove each frame's mean (the DC offset).
    frames = frames - frames.mean(axis=1, keepdims=True)

    # Pre-emphasize: subtract a part of the previous sample, which for the first is itself.
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames - preemphasis * previous

    # Window the frame, zero-pad it to a power of two and take the power spectrum.
    fft_size = next_power_of_two(size)
    spectrum = np.fft.rfft(frames * window(window_type, size), fft_size)
    power = np.abs(spectrum) ** 2

    # Sum the power under each mel filter. No filter reaches the last bin (Nyquist).
    filters = mel_bank(num_mel_bins, fft_size, sampling_rate, low_freq, high_freq)
    energies = power[:, :-1] @ filters.T

    return np.log(np.maximum(energies, LOG_FLOOR))
