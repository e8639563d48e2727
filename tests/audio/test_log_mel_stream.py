import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.audio.fbank import fbank
from ast_jax.audio.log_mel_stream import LogMelStream
from ast_jax.errors import InputError


def noise(samples):
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([8000, 16000, 22050, 44100]),
    samples=st.integers(1200, 60000),
    cuts=st.lists(st.integers(0, 60000), max_size=40),
)
def test_any_chunks_give_the_log_mel_of_the_whole_bit_by_bit(rate, samples, cuts):
    waveform = noise(samples)
    stream = LogMelStream(rate, 64)
    frames = [stream.push(chunk) for chunk in np.split(waveform, sorted(cuts))]
    np.testing.assert_array_equal(np.concatenate(frames), fbank(waveform, rate, num_mel_bins=64))


def test_a_frame_is_returned_with_its_last_sample():
    stream = LogMelStream(16000, 64)
    lengths = [len(stream.push(chunk)) for chunk in np.split(noise(720), range(1, 720))]
    assert np.flatnonzero(lengths).tolist() == [399, 559, 719]


def test_samples_that_cannot_be_computed_with_are_refused():
    with pytest.raises(InputError, match="NaN or infinite"):
        LogMelStream(16000, 64).push(np.full(400, np.nan, np.float32))
