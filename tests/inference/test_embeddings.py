import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.embeddings import POOLINGS
from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.models.config import ASTConfig
from tests.params import random_params

CONFIG = ASTConfig(
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=8,
    patch_size=8,
    frequency_stride=4,
    max_length=48,
    num_mel_bins=16,
    num_labels=4,
)
EXTRACTOR = ASTFeatureExtractor(max_length=48, num_mel_bins=16)
WAVEFORM = (0.1 * np.random.default_rng(1).standard_normal(9000)).astype(np.float32)
SOUND = {"array": WAVEFORM, "sampling_rate": 16000}


def checkpoint_of(config):
    params = random_params(config, 0.3)
    return Checkpoint(config, EXTRACTOR, params)


@pytest.fixture(scope="module")
def classifier():
    return AudioClassifier(checkpoint_of(CONFIG))


def test_embeddings_of_every_layer_match_hugging_face(tmp_path, within):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    write_huggingface(tmp_path / "model", checkpoint_of(CONFIG.replace(head_layer_norm_eps=1e-6)))
    classifier = ast_jax.load(tmp_path / "model")
    theirs = transformers.ASTModel.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        outputs = theirs(
            torch.from_numpy(classifier.preprocess(SOUND))[None], output_hidden_states=True
        )
    states = dict(enumerate(outputs.hidden_states)) | {None: outputs.last_hidden_state}
    assert set(states) == {0, 1, 2, 3, None}
    frequency, time = CONFIG.grid
    for layer, state in states.items():  # a program is compiled for each pooling and layer
        tokens = state.numpy()[0]
        expected = {
            "pooled": tokens[:2].mean(axis=0),
            "cls": tokens[0],
            "distillation": tokens[1],
            "mean": tokens[2:].mean(axis=0),
            "patches": tokens[2:].reshape(frequency, time, 16),
        }
        assert expected.keys() == POOLINGS.keys()
        for pooling in POOLINGS if layer is None else ("pooled", "patches"):
            found, wanted = classifier.embed(SOUND, pooling, layer), expected[pooling]
            assert (found.dtype, found.shape) == (np.float32, wanted.shape)
            error = np.abs(found - wanted).max()
            within("embeddings against Hugging Face's, random weights", error, 1e-4)
    pooled = classifier.embed(SOUND)
    np.testing.assert_allclose(pooled, outputs.pooler_output[0], atol=1e-4)
    np.testing.assert_array_equal(
        classifier.embed(SOUND, "patches", -1), classifier.embed(SOUND, "patches", 3)
    )


def test_logits_follow_from_the_pooled_embedding(classifier):
    checkpoint = checkpoint_of(CONFIG)
    model = ASTForAudioClassification.from_params(checkpoint.config, checkpoint.params)
    scores = {label["label"]: label["score"] for label in classifier(SOUND, None)}
    logits = np.asarray(model.classifier(jnp.asarray(classifier.embed([SOUND]))))[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose([scores[name] for name in CONFIG.labels], expected, rtol=1e-5)


def test_a_patch_is_at_its_place_in_frequency_and_time(classifier):
    inputs = np.zeros((48, 16), np.float32)  # frames, mel bins
    grids = []
    for change in (0, 1):
        inputs[40:, :8] = change  # the last frames and the lowest mel bins
        (grid,) = classifier.embed_inputs([inputs], "patches", 0)
        grids.append(grid)
    assert grids[0].shape == (3, 5, 16) == (*CONFIG.grid, 16)
    changed = np.abs(grids[1] - grids[0]).max(axis=2) > 0
    assert np.argwhere(changed).tolist() == [[0, 4], [1, 4]]  # mel bins 0 to 7 and 4 to 11


def test_layers_above_the_one_asked_for_are_not_run(classifier):
    config, extractor, params = checkpoint_of(CONFIG)
    layers = jax.tree.map(np.array, params["ast"]["encoder"]["layers"])
    for array in jax.tree.leaves(layers):
        array[2] = np.nan
    params = params | {"ast": params["ast"] | {"encoder": {"layers": layers}}}
    damaged = AudioClassifier(Checkpoint(config, extractor, params))
    for layer in (1, 2):
        for pooling in ("cls", "mean"):
            np.testing.assert_array_equal(
                damaged.embed(SOUND, pooling, layer), classifier.embed(SOUND, pooling, layer)
            )
    with pytest.raises(InputError, match="not finite"):
        damaged.embed(SOUND, "cls", 3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_lists_and_iterators_equal_single_sounds(classifier, pooling):
    sounds = [{"array": WAVEFORM[i:], "sampling_rate": 16000} for i in (0, 1000, 2000)]
    single = np.stack([classifier.embed(sound, pooling) for sound in sounds])
    several = classifier.embed(sounds, pooling, batch_size=2)
    np.testing.assert_allclose(several, single, atol=1e-5)
    lazy = classifier.embed(iter(sounds), pooling, batch_size=2)
    np.testing.assert_array_equal(next(lazy), several[0])
    np.testing.assert_array_equal(list(lazy), several[1:])
    assert classifier.embed([], pooling).shape == (0, *single.shape[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "pooling is 'max'; give one of pooled, cls, distillation, mean, pat"),
        ({"pooling": None}, "pooling is None; give one of "),
        ({"layer": 4}, r"layer is 4; give one from 0 \(the patch embeddings\) to 3 \(the last"),
        ({"layer": -5}, "layer is -5; give .* a negative one from -4 to -1, or None"),
        ({"layer": 1.0}, "layer is 1.0; give"),
        ({"layer": True}, "layer is True; give"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(classifier, arguments, message):
    with pytest.raises(InputError, match=message):
        classifier.embed([], **arguments)
