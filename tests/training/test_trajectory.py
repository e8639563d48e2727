"""The original's training, step by step, through this project's step and optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule
from flax import traverse_util

from ast_jax.config import OptimizerConfig
from ast_jax.convert.names import params_from_tensors, tensors_from_params
from ast_jax.models.ast import graphdef
from ast_jax.models.config import ASTConfig
from ast_jax.training import step
from ast_jax.training.optimizer import make_optimizer
from ast_jax.training.parallel import DataParallel

LOSSES = {"bce": step.binary_cross_entropy, "ce": step.cross_entropy}
CONFIG = ASTConfig.from_size("tiny224", max_length=256, num_labels=10)


def no_augmentation(key, input_values):
    return input_values


@pytest.fixture(scope="module")
def start(golden_training):
    tensors = {
        name: rule.tensor(name, tuple(shape), golden_training["seed"])
        for name, shape in golden_training["tensors"].items()
    }
    return params_from_tensors(tensors, "original", CONFIG, "the golden start")[0]


def batch(golden_training, number):
    arrays = golden_training["arrays"]
    rows = (2 * number + np.arange(4)) % 8
    targets = np.eye(10, dtype=np.float32)[arrays["classes"][rows]]
    return {"input_values": arrays["inputs"][rows], "targets": targets}


@pytest.mark.parametrize("criterion", ["bce", "ce"])
def test_gradient_norms_at_step_0_are_the_originals(golden_training, start, within, criterion):
    parallel = DataParallel(devices=jax.devices()[:1])
    gradient_fn = parallel.map(
        step.make_gradient_fn(graphdef(CONFIG), LOSSES[criterion], no_augmentation),
        split=(False, True, False),
    )
    _, gradients = gradient_fn(start, batch(golden_training, 0), jax.random.key(0))
    ours = tensors_from_params(gradients, "original")
    names = golden_training["grad_norm_names"]
    expected = golden_training["arrays"][f"grad_norms_{criterion}"]
    unused = [name for name in names if name.startswith(("v.head.", "v.head_dist."))]
    assert sorted(ours) == sorted(set(names) - set(unused))
    for name, norm in zip(names, expected, strict=True):
        if name in unused:
            assert norm == 0
            continue
        error = abs(np.linalg.norm(ours[name]) - norm) / norm
        within(f"gradient norms ({criterion}) against the original, relative", error, 1e-3)


@pytest.mark.parametrize("criterion", ["bce", "ce"])
def test_24_steps_of_adam_follow_the_original(golden_training, start, within, criterion):
    settings = golden_training["optimizer"]
    optimizer = make_optimizer(
        OptimizerConfig(
            learning_rate=settings["lr"],
            b1=settings["betas"][0],
            b2=settings["betas"][1],
            eps=settings["eps"],
            weight_decay=settings["weight_decay"],
        ),
        num_steps=24,
    )
    parallel = DataParallel(devices=jax.devices()[:1])
    gradient_fn = step.make_gradient_fn(graphdef(CONFIG), LOSSES[criterion], no_augmentation)
    train_step = parallel.map(
        step.make_train_step(gradient_fn, optimizer, jax.random.key(0)),
        split=(False, True),
        donate=(0,),
    )
    predict = parallel.map(
        step.make_predict(graphdef(CONFIG)), split=(False, True), split_result=True
    )
    params = jax.tree.map(jnp.array, start)
    state = parallel.replicate(step.init_state(params, optimizer))
    losses = []
    for number in range(24):
        state, loss = train_step(state, parallel.put(batch(golden_training, number)))
        losses.append(float(loss))
    arrays = golden_training["arrays"]
    expected = arrays[f"losses_{criterion}"]
    error = np.abs(np.array(losses) / expected - 1).max()
    within(f"24 losses of training ({criterion}) against the original, relative", error, 1e-4)
    logits = predict(state.params, {"input_values": arrays["inputs"]})
    error = np.abs(logits - arrays[f"final_logits_{criterion}"])
    within(f"logits after training ({criterion}) against the original", error.max(), 1e-3)
    assert int(state.step) == 24
    assert traverse_util.flatten_dict(state.params).keys() == (
        traverse_util.flatten_dict(start).keys()
    )
