from functools import cache, partial

import jax
import numpy as np
import optax
import pytest

from ast_jax.audio.pcm import to_float, to_int16
from ast_jax.config import AugmentConfig, OptimizerConfig
from ast_jax.models.ast import init_params
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training.optimizer import make_optimizer, shard_over_devices, state_specs
from ast_jax.training.step import (
    init_state,
    make_patchout,
    train_step,
)
from tests import steps
from tests.small_run import MODEL

CONFIG = MODEL.replace(num_hidden_layers=1, num_labels=5)
make_spec = partial(steps.make_spec, CONFIG)


def mean_loss_and_gradients(spec, batch, devices=1):
    """Returns loss and gradients of the whole batch on some devices."""
    parallel = DataParallel(devices=jax.devices()[:devices])
    return steps.map_loss_and_gradients(parallel, spec)(init_params(CONFIG), batch)


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


def test_the_device_frontend_matches_the_hosts_loss_and_gradients():
    rng = np.random.default_rng(0)
    clips = [to_int16(rng.uniform(-0.5, 0.5, n).astype(np.float32)) for n in (3000, 9000, 16000)]
    samples = 400 + 63 * 160
    device = {
        "waveforms": np.stack([np.pad(x, (0, samples))[:samples] for x in clips]),
        "lengths": np.array([min(len(x), samples) for x in clips], np.int32),
    }
    host = {"input_values": make_spec().extractor([to_float(x) for x in clips], 16000)}
    targets = {"targets": np.eye(5, dtype=np.float32)[:3]}
    expected = mean_loss_and_gradients(make_spec(), host | targets)
    found = mean_loss_and_gradients(make_spec(), device | targets)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def small_batch(clips=8):
    rng = np.random.default_rng(1)
    return {
        "input_values": rng.standard_normal((clips, 64, 32), dtype=np.float32),
        "targets": np.eye(5, dtype=np.float32)[rng.integers(5, size=clips)],
    }


@cache
def plain_loss_and_gradients(devices):
    return mean_loss_and_gradients(make_spec(), small_batch(), devices)


def map_step(parallel, spec, of_state=REPLICATED):
    return parallel.map(partial(train_step, spec), (of_state, SPLIT), (of_state, REPLICATED))


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulated_gradients_match_the_whole_batch(devices):
    expected = plain_loss_and_gradients(devices)
    found = mean_loss_and_gradients(make_spec(grad_accum_steps=4), small_batch(), devices)
    assert_close(found, expected)


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_patchout_per_clip_does_not_depend_on_the_number_of_devices(grad_accum_steps):
    spec = make_spec(
        patchout=make_patchout(AugmentConfig(patchout_frequency=1, patchout_time=1), CONFIG)
    )
    one, expected = mean_loss_and_gradients(spec, small_batch())
    spec = spec._replace(grad_accum_steps=grad_accum_steps)
    two, found = mean_loss_and_gradients(spec, small_batch(), devices=2)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert_close(found, expected)
    assert abs(plain_loss_and_gradients(1)[0] - one) > 1e-4


@pytest.mark.parametrize(("bad", "split"), [(np.nan, False), (np.inf, False), (np.nan, True)])
def test_a_nonfinite_step_only_advances_the_count(bad, split):
    parallel = DataParallel(devices=jax.devices()[:2])
    optimizer, of_state = optax.scale_by_adam(), REPLICATED
    if split:
        optimizer = shard_over_devices(optimizer, 2)
    state = init_state(init_params(CONFIG), optimizer, ema=True, average=False)
    if split:
        replicated = jax.tree.map(lambda _: REPLICATED, state)
        of_state = replicated._replace(opt_state=state_specs(state.opt_state, 2))
        state = parallel.device_put(state, of_state)
    spec = make_spec(optimizer=optimizer, ema_decay=0.5, num_shards=1 + split)
    take_step = map_step(parallel, spec, of_state)
    state, metrics = take_step(state, small_batch())
    assert np.isfinite(metrics.loss)
    broken = small_batch()
    broken["input_values"][5, 3, 3] = bad
    after, metrics = take_step(state, broken)
    assert not np.isfinite(metrics.loss)
    assert int(after.step) == 2
    jax.tree.map(np.testing.assert_array_equal, after[:3], state[:3])
    moved, metrics = take_step(after, small_batch())
    assert float(metrics.learning_rate) == pytest.approx(3e-2)  # skipped steps advance the schedule
    kernels = [s.params["classifier"]["dense"]["kernel"] for s in (after, moved)]
    assert np.abs(np.subtract(*kernels)).max() > 1e-3


@pytest.mark.parametrize("grad_accum_steps", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sharded_steps_match_replicated_steps_on_one_device(grad_accum_steps):
    config = OptimizerConfig(kind="adamw", weight_decay=0.1, grad_clip_norm=0.5, layer_decay=0.75)

    def losses_and_norms(devices, num_shards):
        parallel = DataParallel(devices=jax.devices()[:devices])
        optimizer = make_optimizer(config, num_shards)
        state = init_state(init_params(CONFIG), optimizer, ema=False, average=False)
        specs = jax.tree.map(lambda _: REPLICATED, state)
        if num_shards > 1:
            specs = specs._replace(opt_state=state_specs(state.opt_state, num_shards))
        state = parallel.device_put(state, specs)
        spec = make_spec(
            optimizer=optimizer, num_shards=num_shards, grad_accum_steps=grad_accum_steps
        )
        take_step = map_step(parallel, spec, specs)
        found = []
        for _ in range(3):
            state, metrics = take_step(state, parallel.shard_batch(small_batch(16)))
            found.append((float(metrics.loss), float(metrics.grad_norm)))
        return found

    expected = losses_and_norms(devices=1, num_shards=1)
    assert expected[0][1] > 2 * config.grad_clip_norm
    np.testing.assert_allclose(losses_and_norms(8, num_shards=8), expected, rtol=1e-4)
    np.testing.assert_allclose(losses_and_norms(8, num_shards=1), expected, rtol=1e-4)


def test_the_moving_average_follows_the_parameters():
    parallel = DataParallel(devices=jax.devices()[:1])
    state = init_state(init_params(CONFIG), optax.identity(), ema=True, average=False)
    expected = state.params
    take_step = map_step(parallel, make_spec(ema_decay=0.75))
    for _ in range(3):
        state, _ = take_step(state, small_batch())
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, expected)
