"""The data set that a configuration names."""

import numpy as np

from ast_jax.audio.fbank import fbank
from ast_jax.config import TrainConfig
from ast_jax.data.clips import Clips, DataSet
from ast_jax.data.esc50 import read_esc50
from ast_jax.data.folder import read_folder
from ast_jax.data.synthetic import SAMPLING_RATE, make_synthetic
from ast_jax.errors import InputError


def load_data(config: TrainConfig) -> DataSet:
    """Reads or makes the clips of `config.data`.

    Raises:
        InputError: the recordings cannot be used; the message names the file or field.
    """
    data, rate = config.data, config.frontend.sampling_rate
    if data.kind == "synthetic":
        if rate != SAMPLING_RATE:
            raise InputError(f"frontend.sampling_rate is {rate}; synthetic clips are at 16000 Hz")
        return make_synthetic(data.train_clips, data.evaluation_clips, config.seed)
    if data.kind == "esc50":
        return read_esc50(data.dir, data.fold, rate)
    return read_folder(data.dir, data.holdout, rate)


def log_mel_statistics(clips: Clips, sampling_rate: int, num_mel_bins: int) -> tuple[float, float]:
    """Mean and standard deviation of all log-mel values, before padding."""
    count, total, squares = 0, 0.0, 0.0
    for waveform in clips.waveforms:
        log_mel = fbank(waveform, sampling_rate, num_mel_bins=num_mel_bins)
        count += log_mel.size
        total += float(log_mel.sum(dtype=np.float64))
        squares += float(np.square(log_mel, dtype=np.float64).sum())
    mean = total / count
    return mean, float(np.sqrt(squares / count - mean**2))
