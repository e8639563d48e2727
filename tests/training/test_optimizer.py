import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from ast_jax.config import OptimizerConfig
from ast_jax.training.optimizer import make_optimizer, make_schedule


def test_updates_equal_pytorchs_adam_with_coupled_weight_decay():
    config = OptimizerConfig(learning_rate=0.01, weight_decay=0.3)
    start = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    weights = torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs = torch.optim.Adam([weights], lr=0.01, betas=(0.95, 0.999), weight_decay=0.3)
    optimizer = make_optimizer(config, num_steps=20)
    params = {"w": jnp.asarray(start)}
    state = optimizer.init(params)
    for number in range(20):
        gradient = np.sin(start * number).astype(np.float32)
        weights.grad = torch.from_numpy(gradient)
        theirs.step()
        updates, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], weights.detach().numpy(), rtol=2e-5, atol=1e-6)


def test_cosine_rises_to_the_learning_rate_and_falls_to_zero():
    config = OptimizerConfig(learning_rate=0.5, schedule="cosine", warmup_steps=10)
    schedule = make_schedule(config, num_steps=110)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(0.25)
    assert float(schedule(10)) == pytest.approx(0.5)
    assert float(schedule(60)) == pytest.approx(0.25)
    assert float(schedule(110)) == pytest.approx(0, abs=1e-8)


def test_constant_is_constant():
    schedule = make_schedule(OptimizerConfig(learning_rate=0.5), num_steps=10)
    assert {float(schedule(i)) for i in range(10)} == {0.5}
