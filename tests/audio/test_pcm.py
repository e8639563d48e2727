import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ast_jax.audio.pcm import to_float, to_int16


def test_every_int16_round_trips_through_float():
    samples = np.arange(-32768, 32768).astype(np.int16)
    floats = to_float(samples)
    assert floats.dtype == np.float32
    assert floats[0] == -1
    assert floats[-1] == 32767 / 32768
    np.testing.assert_array_equal(to_int16(floats), samples)


@given(arrays(np.float32, st.integers(0, 50), elements=st.floats(-1, 32767 / 32768, width=32)))
def test_a_float_is_rounded_by_at_most_half_a_step(waveform):
    samples = to_int16(waveform)
    assert samples.dtype == np.int16
    error = to_float(samples).astype(np.float64) - waveform
    assert np.abs(error).max(initial=0) <= 0.5 / 32768


def test_values_beyond_full_scale_are_clipped():
    loud = np.float32([1, 1.5, -1, -1.5, 1e30, -1e30])
    assert to_int16(loud).tolist() == [32767, 32767, -32768, -32768, 32767, -32768]


@pytest.mark.parametrize(("convert", "dtype"), [(to_int16, np.int16), (to_float, np.float32)])
def test_an_array_in_the_right_dtype_is_not_copied(convert, dtype):
    waveform = np.zeros(3, dtype)
    assert convert(waveform) is waveform
