import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ast_jax.audio.decode import load_audio
from ast_jax.audio.fbank import fbank
from ast_jax.audio.fbank_jax import fbank_jax, input_values
from ast_jax.audio.fbank_reference import fbank_reference
from ast_jax.audio.feature_extractor import ASTFeatureExtractor, pad_or_cut
from ast_jax.audio.kaldi import LOG_FLOOR, frame_sizes
from ast_jax.errors import InputError

FLOOR = np.log(LOG_FLOOR)
SMALL = ASTFeatureExtractor(max_length=30, num_mel_bins=40)
SMALL_SAMPLES = 400 + 29 * 160  # in 30 frames

compiled = jax.jit(fbank_jax)
small_input_values = jax.jit(partial(input_values, extractor=SMALL))


def noise(samples, seed=0, scale=0.1):
    """Returns int16 noise, so that both frontends get the same samples."""
    values = scale * np.random.default_rng(seed).standard_normal(samples)
    return np.clip(np.rint(values * 32768), -32768, 32767).astype(np.int16)


def exact(waveform, *args, **options):
    """Computes the log-mel of int16 samples in float64."""
    return fbank_reference(waveform / 32768, *args, **options)


# ---- parity with the original and with the NumPy frontend


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_error_against_torchaudio_is_that_of_its_own_float32(golden, within, index, kind):
    waveform = golden["arrays"][f"waveform_{index}"]
    if kind == "float32":  # with its mean subtracted, as in the original
        waveform = (waveform / 32768).astype(np.float32)
        waveform -= waveform.mean()
    log_mel = compiled(waveform[None])
    assert log_mel.dtype == jnp.float32
    error = np.abs(log_mel[0] - golden["arrays"][f"fbank64_{index}"])
    within("log-mel on the device against torchaudio's float64: max", error.max(), 1.5e-2)
    within("log-mel on the device against torchaudio's float64: mean", error.mean(), 6e-5)


# Recordings with the largest errors of a float32 FFT (5.6e-3, and 1.2e-5 to 1.7e-5 on average):
# loud in some octaves and almost silent in others.
HARDEST = [
    "3-116135-A-1.ogg",
    "3-152007-D-20.ogg",
    "3-155312-A-0.ogg",
    "4-164859-A-1.ogg",
]


def check_recordings(paths, within):
    """Checks the error bounds on recordings, in batches of clips with different lengths."""
    clips = [
        np.rint(load_audio(path) * 32768).clip(-32768, 32767).astype(np.int16) for path in paths
    ]
    padded = max(len(clip) for clip in clips)
    for start in range(0, len(clips), 8):
        batch = clips[start : start + 8]
        lengths = np.array([len(clip) for clip in batch], np.int32)
        rows = np.stack([np.pad(clip, (0, padded - len(clip))) for clip in batch])
        for clip, log_mel in zip(batch, np.asarray(compiled(rows, lengths)), strict=True):
            expected = exact(clip)
            error = np.abs(log_mel[: len(expected)] - expected)
            within("log-mel on the device, recordings, against float64: max", error.max(), 5e-3)
            within("log-mel on the device, recordings, against float64: mean", error.mean(), 1e-5)
            assert (log_mel[len(expected) :] == 0).all()


def test_matches_float64_on_selected_real_recordings(esc10, within):
    folder = esc10 / "audio"
    paths = {*sorted(folder.glob("*.ogg"))[::11], *(folder / name for name in HARDEST)}
    check_recordings(sorted(paths), within)


@pytest.mark.slow
def test_matches_float64_on_all_real_recordings(esc10, within):
    check_recordings(sorted((esc10 / "audio").glob("*.ogg")), within)


@settings(max_examples=12, deadline=None)  # each example compiles
@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050]),
    seed=st.integers(0, 99),
    num_mel_bins=st.integers(1, 140),
    frame_length=st.floats(4, 40),
    frame_shift=st.floats(3, 50),
    window_type=st.sampled_from(["hanning", "hamming", "povey", "blackman", "rectangular"]),
    low_freq=st.floats(0, 500),
    high_freq=st.floats(-1000, 3000).filter(lambda hertz: hertz <= 0 or hertz > 700),
    preemphasis=st.floats(0, 1),
)
def test_every_option_matches_the_numpy_frontend(rate, seed, **options):
    x = noise(int(rate * 0.15), seed) + np.int16(2000)
    expected = exact(x, rate, **options)
    ours = jax.jit(partial(fbank_jax, sampling_rate=rate, **options))(x[None])[0]
    np.testing.assert_allclose(ours, expected, atol=5e-3)
    assert np.abs(ours - expected).mean() <= 2e-5


def test_signature_matches_the_numpy_frontend():
    theirs = inspect.signature(fbank).parameters
    ours = inspect.signature(fbank_jax).parameters
    options = set(ours) - {"waveforms", "lengths"}
    assert options == set(theirs) - {"waveform", "dither", "rng", "dtype"}
    for name in options:
        assert ours[name].default == theirs[name].default


@pytest.mark.parametrize("samples", [400, 559, 560, 16_000])
def test_number_of_frames_matches_the_numpy_frontend(samples):
    log_mel = compiled(noise(samples)[None])
    assert log_mel.shape == (1, *fbank(noise(samples) / 32768).shape)


def test_silence_and_a_constant_give_the_floor():
    clips = np.stack([np.zeros(4000, np.int16), np.full(4000, 32767, np.int16)])
    np.testing.assert_allclose(compiled(clips), FLOOR, rtol=1e-7)


@pytest.mark.parametrize("samples", [np.full(4000, -32768), np.resize([-32768, 32767], 4000)])
def test_the_largest_integers_do_not_overflow(samples):
    log_mel = compiled(samples.astype(np.int16)[None])[0]
    np.testing.assert_allclose(log_mel, exact(samples), atol=5e-3)


def test_an_offset_does_not_reduce_precision():
    x = noise(8000, scale=0.003) + np.int16(20_000)
    error = np.abs(compiled(x[None])[0] - exact(x))
    assert error.mean() <= 1e-5


# ---- a batch


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 8000), min_size=4, max_size=4))
def test_clips_of_a_batch_do_not_affect_each_other(lengths):
    clips = [noise(8000, seed=i) for i in range(4)]
    log_mel = np.asarray(compiled(np.stack(clips), np.array(lengths, np.int32)))
    assert log_mel.shape == (4, 48, 128)
    for clip, length, ours in zip(clips, lengths, log_mel, strict=True):
        frames = max(0, 1 + (length - 400) // 160)
        if frames:
            np.testing.assert_allclose(ours[:frames], exact(clip[:length]), atol=5e-3)
        assert (ours[frames:] == 0).all()


def test_float32_and_int16_of_the_same_samples_are_equal():
    x = noise(8000)[None]
    np.testing.assert_array_equal(compiled(x), compiled((x / 32768).astype(np.float32)))


def test_eight_devices_match_one():
    clips = np.stack([noise(4000, seed=i) for i in range(8)])
    lengths = np.arange(500, 4500, 500, dtype=np.int32)
    mesh = Mesh(jax.devices()[:8], "data")
    both = (P("data"), P("data"))
    sharded = jax.jit(jax.shard_map(fbank_jax, mesh=mesh, in_specs=both, out_specs=P("data")))
    np.testing.assert_allclose(sharded(clips, lengths), compiled(clips, lengths), atol=2e-3)


def test_ignores_the_default_matmul_precision_and_x64():
    x = noise(4000)[None]
    expected = compiled(x)
    with jax.default_matmul_precision("bfloat16"):
        program = jax.jit(fbank_jax).lower(x).as_text()
    assert program.count("stablehlo.dot_general") == 3
    assert program.count("precision = [HIGHEST, HIGHEST]") == 3
    assert "bf16" not in program
    with jax.enable_x64(True):
        log_mel = jax.jit(fbank_jax)(x)
    assert log_mel.dtype == jnp.float32
    np.testing.assert_allclose(log_mel, expected, atol=2e-3)


def test_gradient_is_finite():
    x = jnp.asarray(noise(2000)[None] / 32768, jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: fbank_jax(x).sum()))(x)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


# ---- model input


def as_extracted(clip, extractor):
    """Returns the extractor's output for an int16 clip in float64; padding if it is too short."""
    if len(clip) < frame_sizes(extractor.sampling_rate)[0]:
        log_mel = np.zeros((0, extractor.num_mel_bins))
    else:
        log_mel = exact(clip, extractor.sampling_rate, num_mel_bins=extractor.num_mel_bins)
    return extractor.normalize(pad_or_cut(log_mel, extractor.max_length))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 8000), min_size=3, max_size=3))
def test_input_values_match_the_extractor_for_clips_of_any_length(lengths):
    padded = np.zeros((3, 8000), np.int16)
    for i, length in enumerate(lengths):
        padded[i, :length] = noise(length, seed=i)
    values = small_input_values(padded, np.array(lengths, np.int32))
    assert values.shape == (3, 30, 40)
    assert values.dtype == jnp.float32
    for clip, length, ours in zip(padded, lengths, values, strict=True):
        np.testing.assert_allclose(ours, as_extracted(clip[:length], SMALL), atol=6e-4)
        if length >= 400:
            theirs = SMALL((clip[:length] / 32768).astype(np.float32), 16000)[0]
            np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 399, 400, SMALL_SAMPLES - 1, SMALL_SAMPLES, 9000])
def test_input_values_do_not_depend_on_the_batchs_padding(samples):
    clip = noise(samples)
    values = small_input_values(clip[None], np.array([samples], np.int32))
    assert values.shape == (1, 30, 40)
    np.testing.assert_allclose(values[0], as_extracted(clip, SMALL), atol=6e-4)


@pytest.mark.parametrize(
    "extractor",
    [
        ASTFeatureExtractor(do_normalize=False, max_length=20),
        ASTFeatureExtractor(sampling_rate=8000, max_length=20, num_mel_bins=64),
        ASTFeatureExtractor(mean=-6.6268077, std=5.358466, max_length=20),
    ],
)
def test_input_values_use_the_extractors_settings(extractor):
    clip = noise(3000)
    program = jax.jit(partial(input_values, extractor=extractor))
    ours = program(clip[None], np.array([2500], np.int32))
    np.testing.assert_allclose(ours[0], as_extracted(clip[:2500], extractor), atol=5e-3)


def test_a_clip_shorter_than_a_frame_is_all_padding():
    values = small_input_values(noise(8000)[None], np.array([399], np.int32))
    np.testing.assert_allclose(values, 4.2677393 / (2 * 4.5689974), rtol=1e-6)


def test_input_values_match_the_extractor_on_real_recordings(esc10, within):
    extractor = ASTFeatureExtractor()
    clips = [
        (load_audio(path) * 32767).astype(np.int16)
        for path in sorted((esc10 / "audio").glob("*.ogg"))[::100]
    ]
    padded = np.stack([np.pad(clip, (0, 170_000 - len(clip))) for clip in clips])
    lengths = np.array([len(clip) for clip in clips], np.int32)
    values = jax.jit(partial(input_values, extractor=extractor))(padded, lengths)
    for clip, ours in zip(clips, values, strict=True):
        error = np.abs(ours - as_extracted(clip, extractor))
        within("model input on the device, recordings: max", error.max(), 5e-3 / 9)
        within("model input on the device, recordings: mean", error.mean(), 1e-5 / 9)


def test_samples_after_the_last_frame_are_not_computed():
    def flops(samples):
        shapes = (
            jax.ShapeDtypeStruct((2, samples), jnp.int16),
            jax.ShapeDtypeStruct((2,), jnp.int32),
        )
        return small_input_values.lower(*shapes).compile().cost_analysis()["flops"]

    assert flops(100 * SMALL_SAMPLES) <= 1.01 * flops(SMALL_SAMPLES)


# ---- invalid input


@pytest.mark.parametrize(
    ("waveforms", "named"),
    [
        (noise(8000), r"shape \(8000,\)"),
        (noise(399)[None], "399 samples and a frame takes 400"),
        (noise(8000)[None].astype(np.int32), "int32"),
        (noise(8000)[None].astype(np.float16), "float16"),
    ],
)
def test_invalid_waveforms_are_refused(waveforms, named):
    with pytest.raises(InputError, match=named):
        fbank_jax(waveforms)
    if "frame" not in named:
        with pytest.raises(InputError, match=named):
            small_input_values(waveforms, np.array([399], np.int32))


@pytest.mark.parametrize(
    "options",
    [
        {"sampling_rate": 0},
        {"num_mel_bins": 0},
        {"frame_length": 0.0},
        {"frame_shift": 0.0},
        {"window_type": "hann"},
        {"low_freq": -1.0},
        {"high_freq": 8001.0},
        {"preemphasis": 1.5},
        {"preemphasis": float("nan")},
    ],
    ids=str,
)
def test_an_invalid_option_is_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        fbank_jax(noise(16000)[None], **options)


@pytest.mark.parametrize(
    ("lengths", "named"),
    [
        ([399], "the length of clip 0 .* is 399; give one from 400, a frame, to 8000"),
        (np.array([8001]), "is 8001"),
        (jnp.array([-5]), "is -5"),
        ([8000.0], "lengths are float64"),
        ([8000, 8000], r"lengths have shape \(2,\)"),
        (8000, r"lengths have shape \(\)"),
    ],
)
def test_invalid_lengths_are_refused(lengths, named):
    for compute in (fbank_jax, partial(input_values, extractor=SMALL)):
        with pytest.raises(InputError, match=named):
            compute(noise(8000)[None], lengths)
