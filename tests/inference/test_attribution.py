"""Rollout, relevance and attention equal those of Hugging Face's model, computed in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ast_jax.inference.attribution import prefix_attention, relevance, rollout
from ast_jax.models.ast import ASTForAudioClassification

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.*mean .* and std .* are used:UserWarning")

CLASSES = [4, 0]


@pytest.fixture(scope="module")
def theirs():
    """Returns a transformers model with random weights, large enough to attend unevenly."""
    config = transformers.ASTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=80,
        max_length=100,
        num_mel_bins=64,
        num_labels=6,
        attn_implementation="eager",
    )
    model = transformers.ASTForAudioClassification(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3 if parameter.ndim < 2 else 0.2, generator=generator)
            if "layernorm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    """Returns the graphdef and the parameters of the same model."""
    folder = tmp_path_factory.mktemp("huggingface")
    theirs.save_pretrained(folder)
    return nnx.split(ASTForAudioClassification.from_pretrained(folder))


@pytest.fixture(scope="module")
def clip():
    return jnp.asarray(np.random.default_rng(1).standard_normal((1, 100, 64), dtype=np.float32))


@pytest.fixture(scope="module")
def attentions(theirs, clip):
    """Returns the weights of all layers, (layers, heads, tokens, tokens), with their graph."""
    output = theirs(torch.from_numpy(np.array(clip)), output_attentions=True)
    for weights in output.attentions:
        weights.retain_grad()
    return output


def weights_of(output):
    return np.stack([a.detach().numpy()[0] for a in output.attentions]).astype(np.float64)


def gradients_of(output, index):
    """Returns the gradients of a logit with respect to the weights of all layers."""
    for weights in output.attentions:
        weights.grad = None
    output.logits[0, index].backward(retain_graph=True)
    return np.stack([a.grad.numpy()[0] for a in output.attentions]).astype(np.float64)


def relative_error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def test_rollout_is_the_product_of_all_layers(ours, clip, attentions, within):
    weights = weights_of(attentions)
    assert weights.std() > 0.3 * weights.mean()
    identity = np.eye(weights.shape[-1])
    product = identity
    for layer in weights.mean(axis=1):
        product = (layer + identity) / 2 @ product
    expected = product[:2].mean(axis=0)
    found = rollout(*ours, clip)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
    within("rollout against Hugging Face's, relative", relative_error(found, expected), 1e-4)


def test_relevance_is_that_of_chefer_gur_and_wolf(ours, clip, attentions, within):
    weights = weights_of(attentions)
    found = relevance(*ours, clip, jnp.asarray(CLASSES))
    assert found.shape == (2, weights.shape[-1])
    for row, index in zip(found, CLASSES, strict=True):
        matrix = np.eye(weights.shape[-1])
        for gradient, layer in zip(gradients_of(attentions, index), weights, strict=True):
            matrix = matrix + np.maximum(gradient * layer, 0).mean(axis=0) @ matrix
        expected = matrix[:2].mean(axis=0)
        # The patches alone, whose values are small beside those of the two tokens themselves.
        error = relative_error(row[2:], expected[2:])
        within("relevance against Hugging Face's, relative", error, 1e-4)
    assert relative_error(found[0][2:], np.asarray(found[1][2:])) > 0.1, "the classes are alike"


def test_prefix_attention_has_the_rows_of_both_tokens(ours, clip, attentions):
    found = prefix_attention(*ours, clip)
    np.testing.assert_allclose(found, weights_of(attentions)[:, :, :2], atol=1e-6)


def test_relevance_of_bfloat16_is_close(theirs, ours, clip, tmp_path):
    theirs.save_pretrained(tmp_path)
    rounded = nnx.split(ASTForAudioClassification.from_pretrained(tmp_path, dtype="bfloat16"))
    found = relevance(*rounded, clip, jnp.asarray(CLASSES))
    expected = np.asarray(relevance(*ours, clip, jnp.asarray(CLASSES)))
    assert found.dtype == jnp.float32
    assert np.corrcoef(found[0][2:], expected[0][2:])[0, 1] > 0.99


def test_masked_padding_has_no_relevance(ours, clip):
    """A clip of 60 frames: 6 of 9 columns of patches have a frame of it."""
    num_frames = jnp.asarray([60])
    model = nnx.merge(*ours).ast
    output = jax.jit(lambda x: model(x, output_attentions=True, num_frames=num_frames))(clip)
    product = np.eye(output.attentions.shape[-1])
    for layer in np.asarray(output.attentions, np.float64)[:, 0].mean(axis=1):
        product = (layer + np.eye(len(product))) / 2 @ product
    found = rollout(*ours, clip, num_frames)
    assert relative_error(found, product[:2].mean(axis=0)) < 1e-5
    weights = prefix_attention(*ours, clip, num_frames)
    np.testing.assert_allclose(weights, output.attentions[:, 0, :, :2], atol=1e-6)
    relevances = relevance(*ours, clip, jnp.asarray(CLASSES), num_frames)
    for maps in (found, weights, relevances):
        grid = np.asarray(maps)[..., 2:].reshape(*maps.shape[:-1], 5, 9)
        assert not grid[..., 6:].any()
        assert grid[..., :6].any(axis=(-1, -2)).all()
