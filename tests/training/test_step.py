import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.pcm import to_float, to_int16
from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.config import ASTConfig
from ast_jax.models.patchout import sample_patchout
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training import step
from ast_jax.training.optimizer import split_over_devices, state_specs

CONFIG = ASTConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    frequency_stride=16,
    time_stride=16,
    max_length=64,
    num_mel_bins=32,
    num_labels=5,
)


def test_the_device_frontend_gives_the_loss_and_gradients_of_the_hosts():
    rng = np.random.default_rng(0)
    extractor = ASTFeatureExtractor(max_length=64, num_mel_bins=32, mean=-6.0, std=5.0)
    clips = [to_int16(rng.uniform(-0.5, 0.5, n).astype(np.float32)) for n in (3000, 9000, 16000)]
    samples = 400 + 63 * 160
    device = {
        "waveforms": np.stack([np.pad(x, (0, samples))[:samples] for x in clips]),
        "lengths": np.array([min(len(x), samples) for x in clips], np.int32),
    }
    host = {"input_values": extractor([to_float(x) for x in clips], 16000)}
    targets = np.eye(5, dtype=np.float32)[:3]
    parallel = DataParallel(devices=jax.devices()[:1])
    params = init_params(CONFIG)

    def loss_and_gradients(batch, inputs):
        gradient_fn = step.make_gradient_fn(
            graphdef(CONFIG), step.cross_entropy, lambda key, x: x, inputs
        )
        mapped = parallel.map(gradient_fn, (REPLICATED, SPLIT, REPLICATED))
        return mapped(params, batch | {"targets": targets}, jax.random.key(0))

    expected = loss_and_gradients(host, step.host_inputs)
    found = loss_and_gradients(device, step.make_device_inputs(extractor))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def small_batch(clips=8):
    rng = np.random.default_rng(1)
    return {
        "input_values": rng.standard_normal((clips, 64, 32), dtype=np.float32),
        "targets": np.eye(5, dtype=np.float32)[rng.integers(5, size=clips)],
    }


def make_step(parallel, optimizer, of_state=REPLICATED, **options):
    gradient_fn = step.make_gradient_fn(graphdef(CONFIG), step.cross_entropy, lambda key, x: x)
    train_step = step.make_train_step(
        gradient_fn, optimizer, lambda number: 1e-2 * (number + 1), jax.random.key(0), **options
    )
    return parallel.map(train_step, (of_state, SPLIT), (of_state, REPLICATED))


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulated_parts_give_the_gradients_of_the_whole_batch(devices):
    parallel = DataParallel(devices=jax.devices()[:devices])
    params = init_params(CONFIG)

    def loss_and_gradients(grad_accum_steps):
        gradient_fn = step.make_gradient_fn(
            graphdef(CONFIG), step.cross_entropy, lambda key, x: x, grad_accum_steps=grad_accum_steps
        )
        mapped = parallel.map(gradient_fn, (REPLICATED, SPLIT, REPLICATED))
        return mapped(params, small_batch(), jax.random.key(0))

    expected, found = loss_and_gradients(1), loss_and_gradients(4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_patchout_is_a_clips_own_on_any_number_of_devices(grad_accum_steps):
    def patchout(key):
        return sample_patchout(jax.random.fold_in(key, 3), CONFIG.grid, 1, 1)

    def gradients(devices, patchout, grad_accum_steps=1):
        gradient_fn = step.make_gradient_fn(
            graphdef(CONFIG),
            step.cross_entropy,
            lambda key, x: x,
            grad_accum_steps=grad_accum_steps,
            patchout=patchout,
        )
        mapped = DataParallel(devices=jax.devices()[:devices]).map(
            gradient_fn, (REPLICATED, SPLIT, REPLICATED)
        )
        return mapped(init_params(CONFIG), small_batch(), jax.random.key(0))

    (one, expected), (two, found) = (
        gradients(1, jax.vmap(patchout)),
        gradients(2, jax.vmap(patchout), grad_accum_steps),
    )
    np.testing.assert_allclose(one, two, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )
    assert abs(gradients(1, None)[0] - one) > 1e-4


@pytest.mark.parametrize(("bad", "split"), [(np.nan, False), (np.inf, False), (np.nan, True)])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(bad, split):
    parallel = DataParallel(devices=jax.devices()[:2])
    optimizer, of_state = optax.scale_by_adam(), REPLICATED
    if split:
        optimizer = split_over_devices(optimizer, 2)
    state = step.init_state(init_params(CONFIG), optimizer, ema=True)
    if split:
        replicated = jax.tree.map(lambda _: REPLICATED, state)
        of_state = replicated._replace(opt_state=state_specs(state.opt_state, 2))
        state = parallel.device_put(state, of_state)
    train_step = make_step(parallel, optimizer, of_state, ema_decay=0.5)
    state, metrics = train_step(state, small_batch())
    assert np.isfinite(metrics.loss)
    broken = small_batch()
    broken["input_values"][5, 3, 3] = bad
    after, metrics = train_step(state, broken)
    assert not np.isfinite(metrics.loss)
    assert int(after.step) == 2
    jax.tree.map(np.testing.assert_array_equal, after[:3], state[:3])
    moved, metrics = train_step(after, small_batch())
    assert float(metrics.learning_rate) == pytest.approx(3e-2)  # steps left out count for it
    kernels = [s.params["classifier"]["dense"]["kernel"] for s in (after, moved)]
    assert np.abs(np.subtract(*kernels)).max() > 1e-3


def test_the_moving_average_follows_the_parameters():
    parallel = DataParallel(devices=jax.devices()[:1])
    optimizer = optax.identity()
    state = step.init_state(init_params(CONFIG), optimizer, ema=True)
    expected = state.params
    train_step = make_step(parallel, optimizer, ema_decay=0.75)
    for _ in range(3):
        state, _ = train_step(state, small_batch())
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, expected)


def test_smoothing_spreads_a_share_of_the_target():
    logits = jnp.array([[2.0, -1.0, 0.5]])
    targets = jnp.array([[1.0, 0, 0]])
    single = step.smoothed(step.cross_entropy, 0.3)(logits, targets)
    assert float(single) == pytest.approx(
        float(step.cross_entropy(logits, jnp.array([[0.8, 0.1, 0.1]])))
    )
    each = step.smoothed(step.binary_cross_entropy, 0.3)(logits, targets)
    assert float(each) == pytest.approx(
        float(step.binary_cross_entropy(logits, jnp.array([[0.85, 0.15, 0.15]])))
    )
    assert step.smoothed(step.cross_entropy, 0) is step.cross_entropy
