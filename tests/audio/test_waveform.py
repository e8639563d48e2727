import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.audio.waveform import check_sampling_rate, to_waveform
from ast_jax.errors import InputError

CLIP = (0.1 * np.random.default_rng(0).standard_normal(500)).astype(np.float32)


@pytest.mark.parametrize(
    "waveform",
    [
        CLIP,
        CLIP.astype(np.float64),
        CLIP[None],  # torchaudio's shape of mono files
        CLIP[:, None],  # soundfile's with always_2d
        jnp.asarray(CLIP),
        CLIP.tolist(),
    ],
)
def test_one_channel_of_any_library_becomes_float32(waveform):
    samples = to_waveform(waveform)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, CLIP)


def test_tensors_of_pytorch_become_float32():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(CLIP)
    for same in (tensor, tensor.double(), tensor.clone().requires_grad_(), tensor[None]):
        np.testing.assert_array_equal(to_waveform(same), CLIP)
    for half in (tensor.bfloat16(), tensor.bfloat16().requires_grad_(), jnp.bfloat16(CLIP)):
        np.testing.assert_allclose(to_waveform(half), CLIP, rtol=2**-8)
    with pytest.raises(InputError, match="the waveform, a Tensor, cannot become an array"):
        to_waveform(tensor.to_sparse())


def test_16_bit_integers_are_scaled():
    integers = np.array([-32768, -1, 0, 16384, 32767], np.int16)
    for same in (integers, integers.astype(">i2")):
        np.testing.assert_array_equal(to_waveform(same), (integers / 32768).astype(np.float32))


def test_floats_that_look_like_integers_cause_a_warning():
    with pytest.warns(UserWarning, match="reaches 32000, and floats are expected in .-1, 1.: div"):
        assert to_waveform(np.array([-32000.0, 5])).min() == -32000
    to_waveform(np.array([99.0]))


@pytest.mark.parametrize(
    ("waveform", "named"),
    [
        (np.zeros((2, 500)), r"shape \(2, 500\), which looks like stereo: .*mean\(axis=0\)$"),
        (np.zeros((500, 2)), r"shape \(500, 2\), which looks like stereo: .*mean\(axis=1\)$"),
        (np.zeros((2, 500), np.int16), r"looks like stereo: .*mean\(axis=0\) / 32768$"),
        (np.zeros((2, 2)), r"shape \(2, 2\): give one channel"),
        (np.zeros((5, 500)), r"shape \(5, 500\): give one channel"),
        (np.zeros((1, 1, 500)), r"shape \(1, 1, 500\): give one channel"),
        (np.float32(1), r"shape \(\)"),
        (np.array("a.wav"), r"shape \(\)"),
        (np.zeros(0), "the waveform is empty"),
        (np.zeros((1, 0)), "shape"),
        (np.zeros(500, np.int32), "the waveform is int32: give floats in .-1, 1., or int16"),
        (np.zeros(500, np.uint8), "the waveform is uint8"),
        (np.zeros(500, bool), "the waveform is bool"),
        (np.zeros(500, complex), "the waveform is complex128"),
        (np.zeros(500, object), "the waveform is object"),
        (np.array(["a.wav"]), "the waveform is <U5"),
        (np.array([0, np.nan]), "NaN or infinite samples"),
        (np.array([0, -np.inf]), "NaN or infinite samples"),
        (np.array([0, 1e300]), r"reaches 1e\+300: scale it"),  # infinite in float32
        ([[0.5], [0.5, 0.5]], "the waveform, a list, cannot become an array"),
    ],
)
def test_what_is_no_waveform_is_refused_in_one_sentence(waveform, named):
    with pytest.raises(InputError, match=named) as caught:
        to_waveform(waveform)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [1000, 16000, 44100.0, np.int32(48000), np.array(8000)])
def test_a_plausible_sampling_rate_becomes_an_int(rate):
    assert check_sampling_rate(rate) == rate
    assert type(check_sampling_rate(rate)) is int


@pytest.mark.parametrize(
    "rate", [0, -16000, 999, 1_000_001, 10**400, 16000.5, np.nan, np.inf, "16000", True, [16000]]
)
def test_an_implausible_sampling_rate_is_refused(rate):
    with pytest.raises(InputError, match=r"^sampling_rate is .*; give a whole number of Hz from"):
        check_sampling_rate(rate)


def test_a_missing_sampling_rate_is_called_missing():
    with pytest.raises(InputError, match="sampling_rate is missing"):
        check_sampling_rate(None)
