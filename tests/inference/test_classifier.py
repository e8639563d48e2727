import io
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import ast_jax
from ast_jax.audio.decode import load_audio
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.models.config import ASTConfig
from tests.params import random_params

CONFIG = ASTConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    patch_size=8,
    max_length=48,
    num_mel_bins=16,
    id2label={0: "rain", 1: "wind", 2: "café", 3: "owl"},
    num_labels=4,
)
EXTRACTOR = ASTFeatureExtractor(max_length=48, num_mel_bins=16)


def checkpoint_of(config, extractor=EXTRACTOR):
    params = random_params(config, 0.3)
    return Checkpoint(config, extractor, params)


def noise(samples=8000):
    return (0.1 * np.random.default_rng(1).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def classifier():
    return AudioClassifier(checkpoint_of(CONFIG))


def scores_by_label(results):
    return [next(r["score"] for r in results if r["label"] == name) for name in CONFIG.labels]


@pytest.mark.parametrize(
    ("problem_type", "probability"),
    [
        ("single_label_classification", lambda x: np.exp(x) / np.exp(x).sum()),
        ("multi_label_classification", lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_scores_are_softmax_or_sigmoid_of_the_logits(problem_type, probability):
    checkpoint = checkpoint_of(CONFIG.replace(problem_type=problem_type))
    results = AudioClassifier(checkpoint)(noise(), sampling_rate=16000)
    model = ASTForAudioClassification.from_params(checkpoint.config, checkpoint.params)
    logits = np.asarray(model(EXTRACTOR(noise(), 16000)))[0]
    np.testing.assert_allclose(scores_by_label(results), probability(logits), rtol=1e-5)


@pytest.mark.parametrize("top_k", [1, 3, 4, 100, None])
def test_the_best_labels_come_first(classifier, top_k):
    results = classifier(noise(), top_k=top_k, sampling_rate=16000)
    assert len(results) == min(top_k or 4, 4)
    assert len({result["label"] for result in results}) == len(results)
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    everything = classifier(noise(), top_k=4, sampling_rate=16000)
    assert results == everything[:top_k]


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero:UserWarning")
def test_results_are_those_of_hugging_faces_pipeline(tmp_path, esc10, within):
    transformers = pytest.importorskip("transformers")
    checkpoint = checkpoint_of(
        ASTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_length=200,
            num_labels=7,
            head_layer_norm_eps=1e-6,
            problem_type="multi_label_classification",
        ),
        ASTFeatureExtractor(max_length=200),
    )
    write_huggingface(tmp_path / "model", checkpoint)
    theirs = transformers.pipeline("audio-classification", model=str(tmp_path / "model"))
    ours = ast_jax.load(tmp_path / "model")
    waveforms = [load_audio(path) for path in sorted((esc10 / "audio").glob("*.ogg"))[::100]]
    sounds = [{"array": waveform, "sampling_rate": 16000} for waveform in waveforms]
    for options in (
        {"top_k": 3},
        {"top_k": None},
        {"top_k": 100, "function_to_apply": "softmax"},
        {"top_k": None, "function_to_apply": "none", "batch_size": 3},
    ):
        expected, found = theirs(sounds, **options), ours(sounds, **options)
        for one, other in zip(found, expected, strict=True):
            assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
            error = max(abs(a["score"] - b["score"]) for a, b in zip(one, other, strict=True))
            within("scores against Hugging Face's pipeline, recordings", error, 1e-4)
    assert ours(sounds[0], top_k=3) == ours(sounds, top_k=3)[0]
    assert ours(sounds[0]) == ours(sounds[0], top_k=5)
    assert set(ours(sounds[0])[0]) == set(theirs(sounds[0])[0])
    assert ours([]) == []


def test_other_functions_of_the_logits_are_applied_on_request(classifier):
    logits = scores_by_label(classifier(noise(), None, 16000, function_to_apply="none"))
    for name, function in [
        ("softmax", lambda x: np.exp(x) / np.exp(x).sum()),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ]:
        found = scores_by_label(classifier(noise(), None, 16000, function_to_apply=name))
        np.testing.assert_allclose(found, function(np.array(logits)), rtol=1e-5)


# ---- forms of sounds


def stereo_file(path):
    samples = np.stack([noise(22050), -0.5 * noise(22050)], axis=1)
    soundfile.write(path, samples, 44100, subtype="FLOAT")
    return samples.mean(axis=1)


def assert_close(results, expected, atol=1e-6):
    np.testing.assert_allclose(scores_by_label(results), scores_by_label(expected), atol=atol)


def test_every_form_of_a_sound_gives_the_same_result(classifier, tmp_path):
    path = tmp_path / "x.wav"
    mono = stereo_file(path)
    content = path.read_bytes()
    expected = classifier(ast_jax.load_audio(path), sampling_rate=16000)
    sounds = [
        path,
        str(path),
        content,
        io.BytesIO(content),
        {"array": mono, "sampling_rate": 44100},
        {"raw": mono, "sampling_rate": 44100},
        {"array": mono.tolist(), "sampling_rate": 44100},
        {"path": "elsewhere.wav", "array": mono, "sampling_rate": np.int64(44100)},
        {"path": str(path), "bytes": None},
        {"path": None, "bytes": content},
    ]
    for sound in sounds:
        assert_close(classifier(sound), expected)
        if hasattr(sound, "seek"):
            sound.seek(0)
    for waveform in (mono, mono.astype(np.float64), mono[None], mono[:, None]):
        assert_close(classifier(waveform, sampling_rate=44100), expected)
    assert_close(classifier((mono * 2**15).astype(np.int16), sampling_rate=44100), expected, 1e-3)
    with path.open("rb") as file:
        assert_close(classifier(file), expected)
        file.seek(0)
        for result in classifier([*sounds, file, mono], sampling_rate=44100, batch_size=4):
            assert_close(result, expected)


def test_tensors_of_pytorch_are_waveforms(classifier):
    torch = pytest.importorskip("torch")
    expected = classifier(noise(), sampling_rate=16000)
    tensor = torch.from_numpy(noise())
    for same in (tensor, tensor[None], tensor.double(), tensor.requires_grad_()):
        assert_close(classifier(same, sampling_rate=16000), expected)
    half = tensor.bfloat16()
    assert_close(classifier({"array": half, "sampling_rate": 16000}), expected, atol=0.05)
    assert_close(classifier([half, noise()], sampling_rate=16000)[1], expected)
    assert CONFIG.replace(dtype=torch.bfloat16).dtype == "bfloat16"


def test_a_decoder_of_torchcodec_is_a_sound(classifier, tmp_path):
    class Samples:
        data = np.stack([noise(22050), -0.5 * noise(22050)])
        sample_rate = 44100

    class AudioDecoder:
        def get_all_samples(self):
            return Samples

    stereo_file(tmp_path / "x.wav")
    assert_close(classifier(AudioDecoder()), classifier(tmp_path / "x.wav"))


# ---- batches


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(400, 9000), max_size=7),
    batch_size=st.integers(1, 8),
    kind=st.sampled_from([list, tuple, iter]),
)
def test_a_sound_gives_the_same_result_in_any_batch(classifier, lengths, batch_size, kind):
    clips = [noise(length) for length in lengths]
    results = classifier(kind(clips), sampling_rate=16000, batch_size=batch_size)
    for clip, result in zip(clips, results, strict=True):
        assert_close(result, classifier(clip, sampling_rate=16000))


def test_one_shape_is_compiled_for_all_batches_of_a_list():
    classifier = AudioClassifier(checkpoint_of(CONFIG))
    assert len(classifier([noise()] * 7, sampling_rate=16000, batch_size=3)) == 7
    assert classifier._scorer._apply_model._cache_size() == 1


def test_a_generator_is_read_as_its_results_are(classifier):
    read = []

    def sounds():
        for i in range(5):
            read.append(i)
            yield noise()

    results = classifier(sounds(), sampling_rate=16000, batch_size=2)
    assert read == []
    next(results)
    assert read == [0, 1]
    assert len(list(results)) == 4


def test_a_batch_of_waveforms_matches_single_waveforms(classifier):
    clips = [noise(8000), 0.5 * noise(5000)]  # one is cut, the other padded
    waveforms = np.stack([np.pad(clip, (0, 8000 - len(clip))) for clip in clips])
    found = classifier.probabilities_of_waveforms(waveforms, [8000, 5000])
    expected = classifier.probabilities(EXTRACTOR(clips, 16000))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    whole = classifier.probabilities_of_waveforms(waveforms)
    np.testing.assert_allclose(whole[0], expected[0], atol=1e-5)
    assert np.abs(whole[1] - expected[1]).max() > 1e-4  # its trailing zeros are part of the clip
    integers = (waveforms * 2**15).round().astype(np.int16)
    np.testing.assert_allclose(
        classifier.probabilities_of_waveforms(integers, [8000, 5000]), expected, atol=1e-3
    )


@pytest.mark.parametrize(
    ("waveforms", "lengths", "message"),
    [
        (noise(), None, "the waveforms have shape"),
        (0.5, None, "the waveforms have shape"),
        (np.zeros((1, 8000), np.int32), None, "the waveforms are int32"),
        (np.zeros((2, 8000), np.int16), [8000], "lengths have shape"),
        (np.zeros((2, 8000), np.int16), 8000, "lengths have shape"),
        (np.zeros((2, 8000), np.int16), [8000.0, 1], "lengths are float64; give integers"),
        (np.zeros((2, 8000), np.int16), [8000, -1], r"the length of clip 1 \(from 0\) is -1; give"),
        (np.zeros((2, 8000), np.int16), [0, 8000], "the length of clip 0 .* is 0; .* from 400"),
        (np.zeros((2, 8000), np.int16), jnp.array([399, 8000]), "the length of clip 0 .* is 399;"),
        (np.zeros((2, 8000), np.int16), [8000, 8001], "the length of clip 1 .* to 8000, the"),
        (np.zeros((2, 399), np.int16), None, "the length of clip 0 .* is 399; give one from 400"),
        ([[0.0] * 999, [np.nan] * 999], None, r"waveform 1 of 2 \(from 0\) holds NaN or infinite"),
        (np.full((1, 999), -np.inf), None, "waveform 0 of 1 .* holds NaN or infinite"),
        (np.full((1, 999), 1e39), None, r"waveform 0 of 1 .* reaches 1e\+39"),
    ],
)
def test_a_batch_of_another_shape_or_type_is_refused(classifier, waveforms, lengths, message):
    with pytest.raises(InputError, match=message):
        classifier.probabilities_of_waveforms(waveforms, lengths)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((1, 7, 16), np.float32), r"the inputs have shape \(1, 7, 16\); give \(batch, "),
        (np.zeros((128,), np.float32), r"the inputs have shape \(128,\)"),
        (np.full((1, 48, 16), np.nan), "the inputs hold NaN or infinite values"),
    ],
)
def test_invalid_model_inputs_are_refused(classifier, inputs, message):
    with pytest.raises(InputError, match=message):
        classifier.probabilities(inputs)


def test_what_is_not_finite_on_the_device_gives_nan_scores(classifier):
    waveforms = jnp.stack([jnp.full(8000, jnp.nan), jnp.zeros(8000)])
    scores = np.asarray(classifier.probabilities_of_waveforms(waveforms))
    assert np.isnan(scores[0]).all()
    assert np.isfinite(scores[1]).all()


def test_load_takes_a_path_and_changes(tmp_path):
    save_checkpoint(tmp_path / "x", checkpoint_of(CONFIG))
    full = ast_jax.load(tmp_path / "x")
    half = ast_jax.load(str(tmp_path / "x"), dtype="bfloat16")
    assert full.labels == CONFIG.labels
    assert half.config.dtype == "bfloat16"
    for dtype in (jnp.bfloat16, np.dtype(jnp.bfloat16)):
        assert ast_jax.load(tmp_path / "x", dtype=dtype).config == half.config
    with pytest.raises(InputError, match=r"^dtype .*one of float32, bfloat16"):
        ast_jax.load(tmp_path / "x", dtype=np.float16)
    results = [scores_by_label(c(noise(), sampling_rate=16000)) for c in (full, half)]
    np.testing.assert_allclose(*results, atol=0.02)
    assert results[0] != results[1]


def test_samples_beyond_the_models_input_are_ignored(classifier):
    assert classifier.seconds == pytest.approx(0.48)
    clip = noise((CONFIG.max_length - 1) * 160 + 400)  # fills all frames
    scores = scores_by_label(classifier(clip, sampling_rate=16000))
    longer = np.concatenate([clip, 0.5 + noise()])
    longer_scores = scores_by_label(classifier(longer, sampling_rate=16000))
    # Not exactly: subtracting the whole clip's mean changes the rounding of each frame.
    np.testing.assert_allclose(longer_scores, scores, rtol=1e-6)
    clip[-160:] *= -3
    changed = scores_by_label(classifier(clip, sampling_rate=16000))
    assert np.abs(np.subtract(changed, scores)).max() > 1e-4


@pytest.mark.parametrize(
    ("waveform", "complaint"),
    [
        (noise(399), "399 samples and a frame takes 400"),
        (np.zeros(0), "the waveform is empty"),
        (noise() * np.nan, "NaN or infinite samples"),
        (noise().reshape(2, -1), r"shape \(2, 4000\), which looks like stereo"),
        (noise().reshape(-1, 2), r"shape \(4000, 2\), which looks like stereo"),
        (noise().reshape(8, -1), r"shape \(8, 1000\): give several as a list, list\(waveforms\)"),
        (np.array(0.0), r"the waveform has shape \(\)"),
        (np.zeros(8000, np.int32), "the waveform is int32"),
        (np.zeros(8000, complex), "the waveform is complex128"),
        (np.zeros(8000, object), "the waveform is object"),
        (np.array(["a.wav", "b.wav"]), "the waveform is <U5"),
        (np.float32(0), "the number 0.0 is not a sound: give a waveform as an array"),
        (0, "the number 0 is not a sound"),
        (
            None,
            "an input of type NoneType is not a sound: give a path, an array with sampling_rate",
        ),
        (object(), "an input of type object is not a sound"),
        ({}, r"the dict has the keys \(none\): give one of 'array' and 'raw'"),
        ({"audio": 1, "label": 2}, r"the keys 'audio', 'label': .*give row\['audio'\]"),
        ({"array": noise(), "raw": noise()}, "the keys 'array', 'raw': give one of"),
        ({"array": None, "path": None}, "the keys 'array', 'path': give one of"),
        ({"array": "x.wav"}, r"the waveform has shape \(\)"),
        ("none.wav", "none.wav does not exist"),
        (b"no sound", "the sound given as bytes cannot be read as audio"),
        ([0.0, 0.5], r"input 0 \(from 0\): the number 0.0 is not a sound"),
        ([noise(), [0.0]], r"input 1 \(from 0\): an input of type list is not a sound"),
        ([noise(), noise(10)], r"input 1 \(from 0\): the waveform has 10 samples"),
        ([noise(), "none.wav"], r"input 1 \(from 0\): none.wav does not exist"),
        ([noise(), {"audio": 1}], r"input 1 \(from 0\): the dict has the keys 'audio'"),
    ],
)
def test_an_invalid_sound_is_refused(classifier, waveform, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        classifier(waveform, sampling_rate=16000)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:the waveform reaches 1e.30:UserWarning")
def test_a_waveform_that_overflows_is_not_blamed_on_the_checkpoint(classifier):
    with pytest.raises(InputError, match=r"the waveform reaches 1e\+30: scale it to \[-1, 1\]"):
        classifier(np.full(8000, 1e30), sampling_rate=16000)


def test_a_sound_that_is_too_short_is_named(classifier, tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, noise(399), 16000)
    with path.open("rb") as file:
        for sound in (path, {"path": path}, file):
            with pytest.raises(InputError, match=f"^{path}: the waveform has 399 samples"):
                classifier(sound)
    with pytest.raises(InputError, match=rf"^input 1 \(from 0\): {path}: the waveform has 399"):
        classifier([noise(), path], sampling_rate=16000)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"sampling_rate": None}, "sampling_rate is missing"),
        *[({"sampling_rate": rate}, "sampling_rate is") for rate in (0, -1, 16000.5, 10**9, "1")],
        *[({"top_k": k}, "top_k is .*; it must be a whole") for k in (0, -1, 1.5, True, "1")],
        *[({"batch_size": n}, "batch_size is") for n in (0, -1, 2.0, False, None, 10**30)],
        *[({"function_to_apply": f}, "function_to_apply is .*; give one of softmax, sigmoid, none")
          for f in ("Softmax", "", 1, [1])],
    ],
)  # fmt: skip
def test_an_invalid_argument_is_refused(classifier, options, complaint):
    for sounds in (noise(), [noise()], (noise() for _ in range(1))):
        with pytest.raises(InputError, match=complaint):
            list(classifier(sounds, **{"sampling_rate": 16000} | options))


def test_nonfinite_output_raises():
    checkpoint = checkpoint_of(CONFIG)
    checkpoint.params["ast"]["layernorm"]["scale"][:] = 1e38
    checkpoint.params["classifier"]["dense"]["kernel"][:] = 1e38
    with pytest.raises(InputError, match="the model's output is not finite"):
        AudioClassifier(checkpoint)(noise(), sampling_rate=16000)


def test_classifying_imports_neither_torch_nor_tensorflow_nor_librosa():
    code = (
        "import sys, ast_jax, ast_jax.cli.main; ast_jax.load; "
        "print([m for m in ('torch', 'tensorflow', 'librosa', 'transformers') "
        "if m in sys.modules])"
    )
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 32},
        {"max_length": 77, "time_stride": 6},
        {"num_mel_bins": 24, "frequency_stride": 8},
    ],
)
def test_a_checkpoint_is_adapted_to_another_input(classifier, tmp_path, changes):
    save_checkpoint(tmp_path / "x", checkpoint_of(CONFIG))
    adapted = ast_jax.load(tmp_path / "x", **changes)
    for name, value in changes.items():
        assert getattr(adapted.config, name) == value
    extractor = adapted.feature_extractor
    assert extractor.max_length == adapted.config.max_length
    assert extractor.num_mel_bins == adapted.config.num_mel_bins
    assert adapted.seconds == extractor.max_length / 100
    sound = noise(20000)
    model = ASTForAudioClassification.from_pretrained(tmp_path / "x", **changes)
    expected = model(extractor(sound, 16000))[0]
    found = adapted(sound, None, 16000, function_to_apply="none")
    np.testing.assert_allclose(scores_by_label(found), expected, atol=1e-5)
    others = classifier(sound, None, 16000, function_to_apply="none")
    assert np.abs(np.subtract(scores_by_label(others), expected)).max() > 1e-3
