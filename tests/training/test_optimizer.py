from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.config import OptimizerConfig
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training.optimizer import (
    make_optimizer,
    make_schedule,
    shard_over_devices,
    state_specs,
)

MODEL = ASTConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_length=32,
    num_mel_bins=32,
    num_labels=3,
)


@pytest.mark.parametrize(
    ("kind", "theirs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_updates_match_pytorch(kind, theirs):
    config = OptimizerConfig(kind=kind, weight_decay=0.3)
    start = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    weights = torch.nn.Parameter(torch.from_numpy(start.copy()))
    other = theirs([weights], lr=0.01, betas=(0.95, 0.999), weight_decay=0.3)
    optimizer = make_optimizer(config)
    update = jax.jit(optimizer.update)
    params = {"kernel": start}
    state = optimizer.init(params)
    for number in range(20):
        gradient = np.sin(start * number).astype(np.float32)
        weights.grad = torch.from_numpy(gradient)
        other.step()
        updates, state = update({"kernel": gradient}, state, params)
        params = {"kernel": params["kernel"] - np.float32(0.01) * np.asarray(updates["kernel"])}
    np.testing.assert_allclose(params["kernel"], weights.detach().numpy(), rtol=2e-5, atol=1e-6)


def test_adamw_decays_only_matrices():
    params = jax.tree.map(np.ones_like, init_params(MODEL))
    optimizer = make_optimizer(OptimizerConfig(kind="adamw", weight_decay=0.5))
    none = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(none, jax.jit(optimizer.init)(params), params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        expected = 0.5 if path[-1].key == "kernel" else 0
        np.testing.assert_array_equal(update, expected, err_msg=jax.tree_util.keystr(path))


def test_only_large_gradients_are_clipped():
    optimizer = make_optimizer(OptimizerConfig(grad_clip_norm=1.0, weight_decay=0))
    plain = make_optimizer(OptimizerConfig(weight_decay=0))
    params = {"kernel": jnp.zeros(4)}
    for length, by in ((0.5, 1), (8.0, 8)):
        gradient = {"kernel": jnp.array([3.0, 0, 4.0, 0]) / 5 * length}
        _, clipped = optimizer.update(gradient, optimizer.init(params), params)
        shortened = jax.tree.map(lambda g, by=by: g / by, gradient)
        _, expected = plain.update(shortened, plain.init(params), params)
        for ours, theirs in zip(jax.tree.leaves(clipped), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_layer_decay_lowers_the_rate_of_lower_layers():
    params = init_params(MODEL)
    ones = jax.tree.map(np.ones_like, params)

    @partial(jax.jit, static_argnums=0)
    def update(optimizer):
        return optimizer.update(ones, optimizer.init(params), params)[0]

    scaled = update(make_optimizer(OptimizerConfig(layer_decay=0.5, weight_decay=0)))
    whole = update(make_optimizer(OptimizerConfig(weight_decay=0)))
    ratio = jax.tree.map(np.divide, scaled, whole)
    for array in jax.tree.leaves(ratio["ast"]["embeddings"]):
        np.testing.assert_allclose(array, 0.125)
    for array in jax.tree.leaves(ratio["ast"]["encoder"]["layers"]):
        np.testing.assert_allclose(array[0], 0.25)
        np.testing.assert_allclose(array[1], 0.5)
    for array in jax.tree.leaves((ratio["classifier"], ratio["ast"]["layernorm"])):
        np.testing.assert_allclose(array, 1)


def test_cosine_warms_up_and_decays_to_zero():
    config = OptimizerConfig(learning_rate=0.5, schedule="cosine", warmup_steps=10)
    schedule = make_schedule(config, num_steps=110, steps_per_epoch=11)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(0.25)
    assert float(schedule(10)) == pytest.approx(0.5)
    assert float(schedule(60)) == pytest.approx(0.25)
    assert float(schedule(110)) == pytest.approx(0, abs=1e-8)


def test_the_constant_schedule_is_constant():
    schedule = make_schedule(OptimizerConfig(learning_rate=0.5), num_steps=10, steps_per_epoch=5)
    assert {float(schedule(i)) for i in range(10)} == {0.5}


def originals_rates(config, epochs, epoch_steps):
    """Returns the learning rate of each step in the original's loop, with PyTorch's scheduler."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    milestones = list(range(config.decay_start, 1000, config.decay_every))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=config.decay)
    rates, step = [], 0
    for _ in range(epochs):
        for _ in range(epoch_steps):
            warming = config.warmup_steps and step <= config.warmup_steps
            if warming and step % config.warmup_interval == 0:
                for group in optimizer.param_groups:
                    group["lr"] = step / config.warmup_steps * config.learning_rate
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            step += 1
        scheduler.step()
    return rates


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 7), st.integers(1, 4), st.sampled_from([0.5, 0.85, 0.1]), st.integers(1, 60),
    st.sampled_from([(0, 1), (40, 10), (1000, 50), (50, 50)]), st.integers(1, 9),
)  # fmt: skip
def test_multi_step_matches_the_original_at_every_step(start, every, decay, steps, warmup, epochs):
    config = OptimizerConfig(
        learning_rate=1e-3, schedule="multi_step", decay_start=start, decay_every=every,
        decay=decay, warmup_steps=warmup[0], warmup_interval=warmup[1],
    )  # fmt: skip
    schedule = make_schedule(config, epochs * steps, steps)
    ours = jax.vmap(schedule)(jnp.arange(9 * 60))[: epochs * steps]  # one shape to compile for
    np.testing.assert_allclose(ours, originals_rates(config, epochs, steps), rtol=2e-6)


def test_the_full_audioset_recipe_has_the_originals_logged_rates():
    config = OptimizerConfig(
        learning_rate=1e-5, schedule="multi_step", decay_start=2, decay_every=1, decay=0.5,
        warmup_steps=1000, warmup_interval=50,
    )  # fmt: skip
    schedule = make_schedule(config, 5 * 4000, 4000)
    at_the_ends_of_epochs = [float(schedule(4000 * epoch - 1)) for epoch in range(1, 6)]
    np.testing.assert_allclose(at_the_ends_of_epochs, [1e-5, 1e-5, 5e-6, 2.5e-6, 1.25e-6])
    assert [float(schedule(step)) for step in (0, 49)] == [0, 0]
    np.testing.assert_allclose([float(schedule(50)), float(schedule(1000))], [5e-7, 1e-5], 1e-6)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_a_sharded_state_gives_the_same_updates(kind):
    config = OptimizerConfig(kind=kind, weight_decay=0.1, grad_clip_norm=0.5, layer_decay=0.75)
    params = init_params(MODEL)
    whole, split = make_optimizer(config), make_optimizer(config, devices=8)
    parallel = DataParallel()
    specs = state_specs(jax.eval_shape(split.init, params), 8)
    found_specs = jax.tree.leaves(specs, is_leaf=lambda spec: isinstance(spec, type(SPLIT)))
    assert any(spec != REPLICATED for spec in found_specs)

    def close(a, b):  # rounding differs with the length of XLA's loops
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    expected_state = jax.jit(whole.init)(params)
    state = parallel.device_put(jax.jit(split.init)(params), specs)
    shards = state_specs(params, 8)  # of the gradients
    sharded = parallel.map(split.update, (shards, specs, REPLICATED), (REPLICATED, specs))
    plain = parallel.map(whole.update, (REPLICATED,) * 3, (REPLICATED, REPLICATED))
    for number in range(3):
        gradients = jax.tree.map(lambda p, n=number: np.sin(np.asarray(p) * 50 + n), params)
        expected, expected_state = plain(gradients, expected_state, params)
        found, state = sharded(gradients, state, params)
        jax.tree.map(close, found, expected)
    jax.tree.map(close, state, expected_state)
    # Each device has an eighth of the state.
    largest = max(jax.tree.leaves(state), key=lambda array: array.size)
    assert largest.addressable_shards[0].data.size * 8 == largest.size


def test_a_state_that_does_not_split_is_replicated():
    optimizer = shard_over_devices(optax.scale_by_adam(), 7)
    state = optimizer.init({"kernel": jnp.zeros((3, 5))})
    assert set(jax.tree.leaves(state_specs(state, 7))) <= {REPLICATED}
