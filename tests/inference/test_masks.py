"""Classification and embeddings of short sounds by models that mask padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.inference.batching import count_frames
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.models.config import ASTConfig
from tests.params import random_params

CONFIG = ASTConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=8,
    patch_size=8,
    frequency_stride=8,
    max_length=48,
    num_mel_bins=16,
    num_labels=4,
    mask_padding=True,
)
EXTRACTOR = ASTFeatureExtractor(max_length=48, num_mel_bins=16, return_attention_mask=True)
SHORT, WHOLE = (
    (0.1 * np.random.default_rng(1).standard_normal(400 + 160 * (n - 1))).astype(np.float32)
    for n in (17, 48)
)


@pytest.fixture(scope="module")
def checkpoint():
    params = random_params(CONFIG, 0.3)
    return Checkpoint(CONFIG, EXTRACTOR, params)


@pytest.fixture(scope="module")
def classifier(checkpoint):
    return AudioClassifier(checkpoint)


def scores(classifier, sound):
    found = classifier(sound, None, 16000, function_to_apply="none")
    return np.array([next(x["score"] for x in found if x["label"] == label)
                     for label in classifier.labels])  # fmt: skip


@pytest.mark.parametrize(
    "changes", [{}, {"do_normalize": False}, {"mean": 0.0, "std": 1e6}, {"mean": -1e3, "std": 1e-6}]
)
def test_frames_of_sounds_and_of_digital_silence_are_no_padding(changes):
    extractor = dataclasses.replace(EXTRACTOR, **changes)
    sounds = [SHORT, WHOLE, np.zeros(4000, np.float32), np.zeros(400, np.float32)]
    inputs = extractor(sounds, 16000, "np")
    assert inputs["num_frames"].tolist() == [17, 48, 23, 1]
    np.testing.assert_array_equal(
        count_frames(jnp.asarray(inputs.input_values), extractor), inputs["num_frames"]
    )
    assert "num_frames" not in dataclasses.replace(extractor, return_attention_mask=False)(
        sounds, 16000, "np"
    )


def test_the_classifier_masks_padding_wherever_sounds_come_from(classifier):
    inputs = EXTRACTOR([SHORT, WHOLE], 16000, "jax")
    short, whole = np.asarray(classifier.model(**inputs))  # with num_frames
    np.testing.assert_allclose(scores(classifier, SHORT), short, atol=1e-5)
    unmasked = classifier.model(inputs.input_values)
    np.testing.assert_allclose(unmasked[1], whole, atol=1e-5)
    assert np.abs(unmasked[0] - short).max() > 1e-3
    expected = jax.nn.softmax(np.stack([short, whole]))
    waveforms = np.stack([np.pad(SHORT, (0, len(WHOLE) - len(SHORT))), WHOLE])
    found = classifier.probabilities_of_waveforms(waveforms, np.array([len(SHORT), len(WHOLE)]))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    (window,) = classifier.windows(SHORT, sampling_rate=16000, batch_size=1)
    np.testing.assert_allclose(window.scores, expected[0], atol=1e-5)


def test_embeddings_are_of_the_patches_without_padding(classifier):
    states = classifier.model.ast(**EXTRACTOR(SHORT, 16000, "jax"))
    patches = np.array(states.last_hidden_state[0, 2:]).reshape(*CONFIG.grid, 16)
    patches[:, 2:] = 0  # 17 frames are 2 columns
    found = {
        pooling: classifier.embed(SHORT, pooling, sampling_rate=16000)
        for pooling in ("pooled", "mean", "patches")
    }
    np.testing.assert_allclose(found["pooled"], states.pooler_output[0], atol=1e-5)
    np.testing.assert_allclose(found["patches"], patches, atol=1e-5)
    np.testing.assert_allclose(found["mean"], patches[:, :2].mean((0, 1)), atol=1e-5)


def test_no_attention_on_padding_explains_a_score(classifier):
    for method in ("rollout", "heads"):
        explanation = classifier.explain(SHORT, method=method, sampling_rate=16000)
        np.testing.assert_allclose(explanation.padding_share, 0, atol=1e-6)
        assert explanation.maps[..., : explanation.num_columns].max() > 0


def test_a_checkpoint_keeps_its_setting_unless_asked_otherwise(checkpoint, classifier, tmp_path):
    save_checkpoint(tmp_path / "masked", checkpoint)
    masked = ast_jax.load(tmp_path / "masked")
    assert masked.config.mask_padding
    plain = ast_jax.load(tmp_path / "masked", mask_padding=False)
    assert not plain.feature_extractor.return_attention_mask
    inputs = EXTRACTOR(SHORT, 16000, "jax").input_values
    np.testing.assert_allclose(scores(plain, SHORT), classifier.model(inputs)[0], atol=1e-5)
    with pytest.warns(UserWarning, match="masks padding and transformers does not"):
        masked.model.save_pretrained(tmp_path / "hf", masked.feature_extractor)
    back = ast_jax.load(tmp_path / "hf")
    assert back.config.mask_padding
    np.testing.assert_allclose(scores(back, SHORT), scores(classifier, SHORT), atol=1e-4)
