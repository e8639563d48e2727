import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.models.ast import ASTForAudioClassification, param_shapes
from ast_jax.models.config import ASTConfig

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


def checkpoint_of(config):
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: 0.3 * rng.standard_normal(a.shape, dtype=np.float32), param_shapes(config)
    )
    return Checkpoint(config, EXTRACTOR, params)


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


@pytest.mark.parametrize("top_k", [1, 3, 4, 100])
def test_the_best_labels_come_first(classifier, top_k):
    results = classifier(noise(), top_k=top_k, sampling_rate=16000)
    assert len(results) == min(top_k, 4)
    assert len({result["label"] for result in results}) == len(results)
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    everything = classifier(noise(), top_k=4, sampling_rate=16000)
    assert results == everything[:top_k]


def test_a_file_of_any_rate_and_channels_equals_its_waveform(classifier, tmp_path):
    stereo = np.stack([noise(22050), -0.5 * noise(22050)], axis=1)
    soundfile.write(tmp_path / "x.wav", stereo, 44100, subtype="FLOAT")
    expected = classifier(ast_jax.load_audio(tmp_path / "x.wav"), sampling_rate=16000)
    assert classifier(tmp_path / "x.wav") == classifier(str(tmp_path / "x.wav")) == expected


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
    ],
)
def test_a_batch_of_another_shape_or_type_is_refused(classifier, waveforms, lengths, message):
    with pytest.raises(InputError, match=message):
        classifier.probabilities_of_waveforms(waveforms, lengths)


def test_load_takes_a_path_and_changes(tmp_path):
    save_checkpoint(tmp_path / "x", checkpoint_of(CONFIG))
    full = ast_jax.load(tmp_path / "x")
    half = ast_jax.load(str(tmp_path / "x"), dtype="bfloat16")
    assert full.labels == CONFIG.labels
    assert half.config.dtype == "bfloat16"
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
    ("waveform", "options", "complaint"),
    [
        (noise(), {}, "sampling_rate is missing"),
        (noise(), {"sampling_rate": 44100}, "44100 Hz and the model takes 16000 Hz"),
        (noise(), {"sampling_rate": 16000, "top_k": 0}, "top_k is 0; it must be at least 1"),
        (noise(399), {"sampling_rate": 16000}, "399 samples and a frame takes 400"),
        (noise() * np.nan, {"sampling_rate": 16000}, "NaN or infinite samples"),
        (noise().reshape(2, -1), {"sampling_rate": 16000}, r"the waveform has shape \(2, 4000\)"),
        (np.float32(0), {"sampling_rate": 16000}, r"the waveform has shape \(\)"),
        (np.zeros(8000, np.int16), {"sampling_rate": 16000}, "the waveform is int16"),
    ],
)
def test_an_invalid_waveform_is_refused(classifier, waveform, options, complaint):
    with pytest.raises(InputError, match=complaint):
        classifier(waveform, **options)


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
