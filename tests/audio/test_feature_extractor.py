import json
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.audio.decode import load_audio
from ast_jax.audio.fbank import fbank
from ast_jax.audio.feature_extractor import FILE_NAME, ASTFeatureExtractor, pad_or_cut
from ast_jax.errors import InputError

SMALL = ASTFeatureExtractor(max_length=30, num_mel_bins=16)


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture
def hugging_face(monkeypatch):
    """Returns Hugging Face's class with NumPy features, even if torchaudio is installed."""
    from transformers.models.audio_spectrogram_transformer import (
        feature_extraction_audio_spectrogram_transformer as module,
    )

    monkeypatch.setattr(module, "is_speech_available", lambda: False)
    return module.ASTFeatureExtractor


# ---- model input


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero:UserWarning")
@pytest.mark.parametrize("samples", [400, 16_000, 163_920, 164_079, 164_080, 200_000])
def test_matches_hugging_face_on_noise_of_any_length(hugging_face, samples):
    waveform = noise(samples)
    theirs = hugging_face()(waveform, sampling_rate=16000, return_tensors="np")["input_values"]

    # Theirs is computed in float64 and then rounded, as ours is here.
    extractor = ASTFeatureExtractor()
    double = extractor.normalize(pad_or_cut(fbank(waveform, dtype=np.float64), 1024))
    np.testing.assert_allclose(double, theirs[0], atol=1e-6)

    # In float32, log-mel values far below the frame's peak have errors up to 1e-3 on noise, which
    # the normalization divides by 9.
    ours = extractor(waveform, 16000)
    assert ours.shape == theirs.shape == (1, 1024, 128)
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert np.abs(ours - theirs).mean() <= 5e-7


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero:UserWarning")
def test_matches_hugging_face_on_real_recordings(hugging_face, esc10):
    theirs, ours = hugging_face(), ASTFeatureExtractor()
    for path in sorted((esc10 / "audio").glob("*.ogg"))[::40]:
        waveform = load_audio(path)
        expected = theirs(waveform, sampling_rate=16000, return_tensors="np")["input_values"]
        error = np.abs(ours(waveform, 16000) - expected)
        assert error.max() <= 1e-3
        assert error.mean() <= 2e-6


@pytest.mark.parametrize("index", range(5))
def test_matches_the_originals_input(golden, index):
    waveform = (golden["arrays"][f"waveform_{index}"] / 32768).astype(np.float32)
    log_mel = golden["arrays"][f"fbank_{index}"][:1024]
    padded = np.zeros((1024, 128))
    padded[: len(log_mel)] = log_mel
    expected = (padded + 4.2677393) / (2 * 4.5689974)
    error = np.abs(ASTFeatureExtractor()(waveform, 16000)[0] - expected)
    assert error.max() <= 2.5e-2 / 9  # both have float32 rounding errors, see test_fbank.py
    assert error.mean() <= 1.2e-4 / 9


def test_a_short_clip_is_zero_padded_before_normalization():
    inputs = ASTFeatureExtractor()(noise(16_000), 16000)
    np.testing.assert_allclose(inputs[0, 98:], 4.2677393 / (2 * 4.5689974), rtol=1e-6)
    assert not np.isclose(inputs[0, 97], inputs[0, 98]).all()


def test_do_normalize_false_returns_the_log_mel():
    extractor = ASTFeatureExtractor(do_normalize=False, max_length=90)
    np.testing.assert_array_equal(extractor(noise(16_000), 16000)[0], fbank(noise(16_000))[:90])


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(400, 9000), min_size=1, max_size=5))
def test_a_clip_gives_the_same_result_in_any_batch(lengths):
    clips = [noise(length, seed) for seed, length in enumerate(lengths)]
    batch = SMALL(clips, 16000)
    assert batch.shape == (len(clips), 30, 16)
    assert batch.dtype == np.float32
    for clip, row in zip(clips, batch, strict=True):
        np.testing.assert_array_equal(SMALL(clip, 16000), row[None])


def test_every_form_of_input_gives_the_same_result():
    clips = np.stack([noise(5000, seed) for seed in (1, 2, 3)])
    expected = SMALL(clips, 16000)
    np.testing.assert_array_equal(SMALL(list(clips), 16000), expected)
    np.testing.assert_array_equal(SMALL(tuple(clips), sampling_rate=16000), expected)
    np.testing.assert_array_equal(SMALL(clips.tolist(), 16000), expected)
    np.testing.assert_array_equal(SMALL(clips.astype(np.float64), 16000), expected)
    np.testing.assert_array_equal(SMALL(clips[0].tolist(), 16000), expected[:1])


def test_tensors_of_pytorch_give_the_same_result():
    torch = pytest.importorskip("torch")
    clips = np.stack([noise(5000, seed) for seed in (1, 2, 3)])
    tensor, expected = torch.from_numpy(clips), SMALL(clips, 16000)
    for same in (tensor, tensor.requires_grad_(), list(tensor), tensor.double()):
        np.testing.assert_array_equal(SMALL(same, 16000), expected)
    np.testing.assert_array_equal(SMALL(tensor[0], 16000), expected[:1])
    np.testing.assert_allclose(SMALL(tensor.bfloat16(), 16000), expected, atol=0.02)


def test_return_tensors_gives_a_dict_of_an_array_of_that_library():
    torch = pytest.importorskip("torch")
    expected = SMALL(noise(5000), 16000)
    for name, kind in [("np", np.ndarray), ("jax", jax.Array), ("pt", torch.Tensor)]:
        inputs = SMALL(noise(5000), sampling_rate=16000, return_tensors=name)
        assert list(inputs) == ["input_values"]
        assert isinstance(inputs["input_values"], kind)
        assert inputs.input_values is inputs["input_values"]
        np.testing.assert_array_equal(np.asarray(inputs.input_values), expected)
    with pytest.raises(InputError, match="return_tensors is 'tf': give 'np', 'jax' or 'pt'"):
        SMALL(noise(5000), 16000, return_tensors="tf")


def test_tensors_of_pytorch_are_refused_without_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="PyTorch is not installed: install it, or give 'np'"):
        SMALL(noise(5000), 16000, return_tensors="pt")


def test_only_padding_to_the_models_length_is_accepted():
    expected = SMALL(noise(5000), 16000)
    for padding in (True, "max_length"):
        np.testing.assert_array_equal(SMALL(noise(5000), 16000, padding=padding), expected)
    for padding in (False, "longest", None):
        with pytest.raises(InputError, match=f"padding is {padding!r}: leave it out"):
            SMALL(noise(5000), 16000, padding=padding)


def test_a_missing_sampling_rate_causes_a_warning():
    with pytest.warns(UserWarning, match="sampling_rate is missing; .* 16000 Hz"):
        inputs = SMALL(noise(5000))
    np.testing.assert_array_equal(inputs, SMALL(noise(5000), 16000))


def test_frame_length_in_milliseconds_does_not_depend_on_the_rate():
    extractor = ASTFeatureExtractor(sampling_rate=32000, do_normalize=False, max_length=98)
    assert extractor(noise(32_000), 32000).shape == (1, 98, 128)
    np.testing.assert_array_equal(extractor(noise(32_000), 32000)[0], fbank(noise(32_000), 32000))


@settings(max_examples=50, deadline=None)
@given(frames=st.integers(0, 40), max_length=st.integers(1, 40))
def test_pad_or_cut_keeps_the_first_frames(frames, max_length):
    log_mel = np.ones((frames, 3), np.float32)
    out = pad_or_cut(log_mel, max_length)
    assert out.shape == (max_length, 3)
    assert out.dtype == np.float32
    assert (out[:frames] == 1).all()
    assert (out[frames:] == 0).all()


def test_normalize_keeps_the_dtype_and_does_not_modify_its_argument():
    log_mel = np.ones((2, 3), np.float32)
    out = SMALL.normalize(log_mel)
    assert (log_mel == 1).all()
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, (1 + 4.2677393) / (2 * 4.5689974), rtol=1e-6)


# ---- invalid waveforms


def test_another_sampling_rate_is_refused():
    with pytest.raises(InputError, match=r"44100 Hz.* 16000 Hz.*load_audio"):
        SMALL(noise(5000), 44100)


@pytest.mark.parametrize(
    ("waveforms", "named"),
    [
        ([], "no waveforms"),
        (np.zeros((0, 5000), np.float32), "shape"),
        (np.zeros((1, 2, 5000), np.float32), "shape"),
        (np.float32(1), "shape"),
        (np.zeros((5000, 2)), r"shape \(5000, 2\), which looks like stereo"),
        (np.zeros((2, 5000)), r"shape \(2, 5000\), which looks like stereo: .* or give two"),
        (np.zeros((5000, 1)), r"shape \(5000, 1\): give one channel"),
        (np.full(5000, 1e30), r"reaches 1e\+30: scale it to \[-1, 1\]"),
        (noise(399), "399 samples"),
        ([noise(5000), noise(399)], r"waveform 1 of 2 .*399 samples"),
        ([noise(5000), np.zeros(5000, np.int16)], r"waveform 1 of 2 .*int16.*32768"),
        ([noise(5000), np.full(5000, np.nan)], r"waveform 1 of 2 .*NaN"),
        ([noise(5000), noise(5000).reshape(2, -1)], r"waveform 1 of 2 .*looks like stereo"),
        ([noise(5000), 0.5], r"waveform 1 of 2 .*shape"),
        ([0.5, noise(5000)], "shape"),
        ([[[0.5], [0.5, 0.5]]], "shape"),
        ([0, 0, 1] * 500, "int64"),
        ("dog.wav", "shape"),
        (["dog.wav"], "float"),
        (None, "shape"),
    ],
)
def test_invalid_waveforms_are_refused(waveforms, named):
    with pytest.raises(InputError, match=named) as caught:
        SMALL(waveforms, 16000)
    assert "\n" not in str(caught.value)


# ---- file

CHANGED = ASTFeatureExtractor(32000, 64, 512, False, -6.6268077, 5.358466)


@pytest.mark.parametrize("extractor", [ASTFeatureExtractor(), CHANGED])
def test_a_saved_extractor_round_trips(tmp_path, extractor):
    extractor.save_pretrained(tmp_path / "new" / "folder")
    assert ASTFeatureExtractor.from_pretrained(tmp_path / "new" / "folder") == extractor
    assert ASTFeatureExtractor.from_dict(extractor.to_dict()) == extractor


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero:UserWarning")
@pytest.mark.parametrize("extractor", [ASTFeatureExtractor(), CHANGED])
def test_hugging_face_reads_our_file_and_we_read_theirs(tmp_path, hugging_face, extractor):
    extractor.save_pretrained(tmp_path)
    theirs = hugging_face.from_pretrained(tmp_path)
    for name, value in extractor.to_dict().items():
        if name != "feature_extractor_type":
            assert getattr(theirs, name) == value
    theirs.save_pretrained(tmp_path / "theirs")
    assert ASTFeatureExtractor.from_pretrained(tmp_path / "theirs") == extractor
    written = json.loads((tmp_path / "theirs" / FILE_NAME).read_text())
    assert extractor.to_dict() == written


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero:UserWarning")
def test_transformers_auto_class_reads_our_file(tmp_path):
    from transformers import AutoFeatureExtractor

    ASTFeatureExtractor().save_pretrained(tmp_path)
    found = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(found).__name__ == "ASTFeatureExtractor"


def test_loading_takes_changes(tmp_path):
    CHANGED.save_pretrained(tmp_path)
    changed = ASTFeatureExtractor.from_pretrained(tmp_path, max_length=256, mean=-4)
    assert changed == replace(CHANGED, max_length=256, mean=-4)
    with pytest.raises(InputError, match=r"'max_len' is no field .* did you mean max_length"):
        ASTFeatureExtractor.from_pretrained(tmp_path, max_len=256)
    with pytest.raises(InputError, match="max_length is -1; it must be a whole number from 1"):
        ASTFeatureExtractor.from_pretrained(tmp_path, max_length=-1)


def write(folder, text):
    (folder / FILE_NAME).write_text(text)
    return folder


def test_missing_fields_have_defaults_and_other_fields_are_ignored(tmp_path):
    entries = {
        "mean": -5,
        "feature_extractor_type": "ASTFeatureExtractor",
        "processor_class": "Any",
        "padding_side": "left",
        "_name_or_path": "x",
        "transformers_version": "5",
    }
    extractor = ASTFeatureExtractor.from_pretrained(write(tmp_path, json.dumps(entries)))
    assert extractor == ASTFeatureExtractor(mean=-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, value)
          for name in ("sampling_rate", "num_mel_bins", "max_length")
          for value in (0, -1, 1.5, 16.0, "16", None, True, [16])],
        *[("mean", value) for value in ("0", None, False, float("nan"), float("inf"))],
        *[("std", value) for value in (0, 0.0, -1.0, "1", None, True, float("nan"), float("inf"))],
        *[("do_normalize", value) for value in (0, 1, "true", None)],
        *[("return_attention_mask", value) for value in (0, "true", None)],
        *[("feature_size", value) for value in (2, "1", None, True)],
        *[("padding_value", value) for value in (-1.0, 0.1, None, False)],
    ],
)  # fmt: skip
def test_an_invalid_value_names_file_and_field(tmp_path, field, value):
    with pytest.raises(InputError, match=field) as caught:
        ASTFeatureExtractor.from_pretrained(write(tmp_path, json.dumps({field: value})))
    assert str(tmp_path / FILE_NAME) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=field):
        ASTFeatureExtractor(**{field: value})


@pytest.mark.parametrize(
    ("misspelled", "field"),
    [("maen", "mean"), ("sample_rate", "sampling_rate"), ("do_normalise", "do_normalize"),
     ("max_len", "max_length"), ("num_mel_bin", "num_mel_bins")],
)  # fmt: skip
def test_a_misspelled_field_is_refused(misspelled, field):
    with pytest.raises(InputError, match=f"{misspelled} to {field}"):
        ASTFeatureExtractor.from_dict({misspelled: 1}, "f.json")


@pytest.mark.parametrize("text", ["", "{", "{'mean': 1}", "not json"])
def test_a_file_that_is_not_json_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="cannot be read as JSON") as caught:
        ASTFeatureExtractor.from_pretrained(write(tmp_path, text))
    assert str(tmp_path / FILE_NAME) in str(caught.value)


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        ASTFeatureExtractor.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"'])
def test_json_that_is_not_an_object_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="must hold a JSON object"):
        ASTFeatureExtractor.from_pretrained(write(tmp_path, text))


def test_another_models_extractor_is_refused():
    entries = {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}
    with pytest.raises(InputError, match="Wav2Vec2FeatureExtractor"):
        ASTFeatureExtractor.from_dict(entries)


def test_a_missing_file_or_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=FILE_NAME):
        ASTFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="none: no such file or folder"):
        ASTFeatureExtractor.from_pretrained(tmp_path / "none")


def test_saving_where_no_folder_can_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path, message in [
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", "cannot be written"),
        ("gs://bucket/x", "is remote"),
        ("", "the output is ''"),
    ]:
        with pytest.raises(InputError, match=message):
            SMALL.save_pretrained(path)
