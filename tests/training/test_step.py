import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ast_jax.training import step


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(scale=4, size=(6, 5)).astype(np.float32)


@pytest.fixture
def targets():
    return np.random.default_rng(1).dirichlet(np.ones(5), size=6).astype(np.float32)


def test_binary_cross_entropy_is_pytorchs_with_logits(logits, targets):
    expected = torch.nn.BCEWithLogitsLoss()(torch.from_numpy(logits), torch.from_numpy(targets))
    ours = step.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    assert float(ours) == pytest.approx(expected.item(), rel=1e-6)


def test_cross_entropy_is_pytorchs_with_soft_labels(logits, targets):
    expected = torch.nn.CrossEntropyLoss()(torch.from_numpy(logits), torch.from_numpy(targets))
    ours = step.cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    assert float(ours) == pytest.approx(expected.item(), rel=1e-6)
