"""Eight devices compute the same as one."""

from functools import partial

import jax
import numpy as np
import optax
import pytest

from ast_jax.errors import InputError
from ast_jax.evaluation.predict import make_predict
from ast_jax.models.ast import init_params
from ast_jax.sharding import REPLICATED, SPLIT, DataParallel
from ast_jax.training.step import init_state, train_step
from tests import steps
from tests.small_run import MODEL

CONFIG = MODEL.replace(num_labels=5)
SPEC = steps.make_spec(CONFIG, schedule=lambda step: 0.002)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "input_values": rng.standard_normal((16, 64, 32), dtype=np.float32),
        "targets": rng.dirichlet(np.ones(5), size=16).astype(np.float32),
    }


def gradients(how, devices, batch, **changes):
    parallel = DataParallel(how, jax.devices()[:devices])
    assert len(parallel.devices) == devices
    return steps.map_loss_and_gradients(parallel, SPEC._replace(**changes))(
        init_params(CONFIG), batch
    )


@pytest.fixture(scope="module")
def on_one_device(batch):
    return gradients("shard_map", 1, batch)


@pytest.mark.parametrize("exchange_by_layer", [False, True])
@pytest.mark.parametrize("how", ["shard_map", "pmap"])
def test_loss_and_gradients_on_eight_devices_match_one(
    how, exchange_by_layer, batch, on_one_device, within
):
    loss, expected = on_one_device
    loss_8, ours = gradients(how, 8, batch, exchange_by_layer=exchange_by_layer)
    assert float(loss_8) == pytest.approx(float(loss), rel=1e-6)
    norm = float(optax.tree.norm(expected))
    difference = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), ours, expected)
    error = float(optax.tree.norm(difference)) / norm
    within(f"gradients of 8 devices ({how}) against 1, relative", error, 1e-6)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True
    ):
        # Each tensor on its own, with a margin for gradients that are only rounding errors.
        error = np.linalg.norm(np.asarray(a) - np.asarray(b))
        assert error <= 1e-5 * np.linalg.norm(b) + 1e-7 * norm, path


@pytest.mark.parametrize("how", ["shard_map", "pmap"])
def test_the_train_step_lowers_the_loss_donates_and_counts(how, batch):
    parallel = DataParallel(how)
    take_step = parallel.map(partial(train_step, SPEC), (REPLICATED, SPLIT), donate=(0,))
    state = init_state(init_params(CONFIG), SPEC.optimizer, ema=False, average=False)
    state = parallel.device_put(state)
    donated = state.params["classifier"]["dense"]["kernel"]
    losses = []
    for _ in range(5):
        state, metrics = take_step(state, parallel.shard_batch(batch))
        losses.append(float(metrics.loss))
    assert losses == sorted(losses, reverse=True)
    assert int(state.step) == 5
    assert donated.is_deleted()


@pytest.mark.parametrize("how", ["shard_map", "pmap"])
def test_predictions_keep_the_order_of_the_batch(how, batch):
    parallel = DataParallel(how)
    predict = parallel.map(make_predict(SPEC.graphdef, SPEC.extractor), (REPLICATED, SPLIT), SPLIT)
    params = init_params(CONFIG)
    logits = predict(params, parallel.shard_batch(batch))
    assert logits.shape == (16, 5)
    single = DataParallel(how, jax.devices()[:1]).map(
        make_predict(SPEC.graphdef, SPEC.extractor), (REPLICATED, SPLIT), SPLIT
    )
    expected = single(params, batch)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "devices", "grad_accum_steps"),
    [
        ("shard_map", 2, 4),
        ("pmap", 8, 1),
        pytest.param("shard_map", 8, 1, marks=pytest.mark.slow),
        pytest.param("pmap", 2, 4, marks=pytest.mark.slow),
    ],
)
def test_augmentation_does_not_depend_on_the_number_of_devices(
    how, batch, devices, grad_accum_steps
):
    def drop_at_random(keys, clips, num_frames):
        return jax.vmap(lambda k, x: x * jax.random.bernoulli(k, 0.5, x.shape))(keys, clips)

    def loss_on(devices, grad_accum_steps):
        parallel = DataParallel(how, jax.devices()[:devices])
        spec = SPEC._replace(augment=drop_at_random, grad_accum_steps=grad_accum_steps)
        function = steps.map_loss_and_gradients(parallel, spec)
        return lambda batch: float(function(init_params(CONFIG), batch)[0])

    expected = loss_on(1, 1)(batch)
    loss = loss_on(devices, grad_accum_steps)
    assert loss(batch) == pytest.approx(expected, rel=1e-6)
    reversed_batch = {name: rows[::-1] for name, rows in batch.items()}
    assert loss(reversed_batch) != pytest.approx(expected, rel=1e-6)


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(InputError, match="batch_size 12 does not split over 8 devices"):
        DataParallel().check_batch(12)
