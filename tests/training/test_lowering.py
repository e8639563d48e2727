"""Checks the training step's program for GPUs, traced and lowered for CUDA on a CPU.

The step is that of a run with all augmentations and optimizer options. Its model has heads of width
64 and an even number of tokens, so that cuDNN supports its attention.
"""

import re
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.config import AugmentConfig, FrontendConfig, OptimizerConfig, TrainConfig
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.models.ast import param_shapes
from ast_jax.models.attention import resolve_attn_implementation
from ast_jax.models.config import ASTConfig
from ast_jax.sharding import DataParallel
from ast_jax.training import setup
from ast_jax.training.setup import RunLength, build_step_functions
from tests.programs import equations

CLASSES = 7  # unlike any other axis, to recognize the classifier's products


def make_step(
    dtype="bfloat16",
    on_device=False,
    grad_accum_steps=1,
    frames=64,
    bins=32,
    remat="norms_and_activations",
    patchout=0,
):
    """Returns a new step on eight devices, its state, a batch and the model's configuration."""
    model = ASTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        frequency_stride=16,
        time_stride=16,
        max_length=frames,
        num_mel_bins=bins,
        num_labels=CLASSES,
        dtype=dtype,
    )
    config = TrainConfig(
        model=model,
        frontend=FrontendConfig(on_device=on_device),
        augment=AugmentConfig(
            frequency_mask=8, time_mask=16, noise=True, roll=4, patchout_time=patchout
        ),
        optimizer=OptimizerConfig(
            kind="adamw",
            schedule="cosine",
            warmup_steps=2,
            grad_clip_norm=1.0,
            layer_decay=0.75,
            ema_decay=0.9,
        ),
        label_smoothing=0.1,
        grad_accum_steps=grad_accum_steps,
        remat=remat,
    )
    extractor = ASTFeatureExtractor(max_length=frames, num_mel_bins=bins, mean=-6.0, std=5.0)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), param_shapes(model))
    start = Checkpoint(model, extractor, params)
    parallel = DataParallel()
    functions, state = build_step_functions(config, start, parallel, RunLength(4, 8))
    clips = 4 * len(parallel.devices)
    batch = {"targets": np.full((clips, CLASSES), 1 / CLASSES, np.float32)}
    if on_device:
        batch["waveforms"] = np.zeros((clips, 400 + (frames - 1) * 160), np.int16)
        batch["lengths"] = np.full(clips, batch["waveforms"].shape[1], np.int32)
    else:
        batch["input_values"] = np.zeros((clips, frames, bins), np.float32)
    return functions.train_step, state, parallel.shard_batch(batch), model


def traced(**options):
    train_step, state, batch, _ = make_step(**options)
    return train_step.trace(state, batch)


def for_cuda(function):
    """Lowers a traced function to StableHLO for XLA's GPU compiler."""
    return function.lower(lowering_platforms=("cuda",)).as_text()


@pytest.fixture
def gpu(monkeypatch):
    """Selects attention as on a GPU with cuDNN."""
    devices = [SimpleNamespace(platform="gpu", compute_capability="9.0")]
    for module in ("training.setup", "models.ast"):
        monkeypatch.setattr(
            f"ast_jax.{module}.resolve_attn_implementation",
            lambda config, _: resolve_attn_implementation(config, devices),
        )
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91300)


def products(function):
    """Returns the operands and the precision of each matrix product and convolution."""
    return [
        ([operand.aval for operand in equation.invars], equation.params["precision"])
        for equation, _ in equations(function.jaxpr.jaxpr)
        if equation.primitive.name in ("dot_general", "conv_general_dilated")
    ]


def not_bfloat16(function):
    """Returns the operand shapes of products with an operand wider than bfloat16."""
    return [
        [operand.shape for operand in operands]
        for operands, _ in products(function)
        if any(operand.dtype != jnp.bfloat16 for operand in operands)
    ]


def calls(text):
    """Returns the custom calls: libraries, and Python on the host."""
    return sorted(re.findall(r"custom_call @([\w$]+)", text))


def test_bfloat16_attention_runs_in_cudnn_without_storing_weights(gpu):
    train_step, state, batch, model = make_step()
    text = for_cuda(train_step.trace(state, batch))
    # Once each: the layers are one loop, and the last layer computes only two tokens. There are no
    # other calls, in particular none to the host.
    assert calls(text) == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert f"{model.num_tokens}x{model.num_tokens}x" not in text


def test_cudnn_gets_an_odd_number_of_tokens_padded(gpu):
    train_step, state, batch, model = make_step(frames=48, bins=48)
    assert model.num_tokens == 11
    text = for_cuda(train_step.trace(state, batch))
    assert calls(text) == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert "4x12x2x64xbf16" in text
    assert "11x11x" not in text


def test_float32_attention_runs_in_xla(gpu):
    train_step, state, batch, model = make_step(dtype="float32")
    text = for_cuda(train_step.trace(state, batch))
    assert calls(text) == []
    assert f"{model.num_tokens}x{model.num_tokens}x" in text


def test_rematerialized_layers_use_cudnn(gpu):
    # Forward for the loss, then forward and backward for the gradients.
    text = for_cuda(traced(remat="everything"))
    forward = "__cudnn$fmhaSoftmax"
    assert calls(text) == [forward, forward, f"{forward}Backward"]


def exchanges(step):
    """Counts the arrays that a step exchanges, by collective, shape, dtype and in a loop or not."""
    found = Counter()
    for equation, inside in equations(step.jaxpr.jaxpr):
        name = equation.primitive.name
        if re.match("psum|pmax|pmin|ppermute|all_|reduce_scatter", name):
            in_loop = bool({"scan", "while"} & set(inside))
            found.update((name, x.aval.shape, x.aval.dtype.name, in_loop) for x in equation.invars)
    return found


def test_the_backward_pass_reduces_layers_and_then_the_rest_once_in_float32(gpu, monkeypatch):
    monkeypatch.setattr(setup, "should_exchange_by_layer", lambda *arguments: True)
    train_step, state, batch, _ = make_step()
    step = train_step.trace(state, batch)
    layers = state.params["ast"]["encoder"].pop("layers")
    of_a_layer = [x.shape[1:] for x in jax.tree.leaves(layers)]
    rest = [(), *(x.shape for x in jax.tree.leaves(state.params))]
    in_loop = [("psum", shape, "float32", True) for shape in of_a_layer]
    # The last layer is not in the loop.
    outside = [("psum", shape, "float32", False) for shape in of_a_layer + rest]
    assert exchanges(step) == Counter(in_loop + outside)


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_the_step_reduces_each_gradient_and_the_loss_once_in_float32(gpu, grad_accum_steps):
    train_step, state, batch, _ = make_step(grad_accum_steps=grad_accum_steps)
    shapes = [(), *(x.shape for x in jax.tree.leaves(state.params))]
    step = train_step.trace(state, batch)
    assert exchanges(step) == Counter(("psum", shape, "float32", False) for shape in shapes)


@pytest.fixture(scope="module")
def compiled():
    """Returns the step compiled for eight CPU devices, its state and a batch on them."""
    train_step, state, batch, _ = make_step()
    return train_step.lower(state, batch).compile(), state, batch


def test_the_compiled_step_has_one_all_reduce_of_all_gradients_and_the_loss(compiled):
    # JAX emits one per array, and XLA's CPU compiler combines them. The GPU compiler does so up to
    # a number of bytes.
    step, state, _ = compiled
    reduced = re.findall(r"= (\(.*?\)|\S+) all-reduce(?:-start)?\(", step.as_text())
    arrays = [re.findall(r"(\w+)\[[\d,]*\]", types) for types in reduced]
    assert arrays == [["f32"] * (len(jax.tree.leaves(state.params)) + 1)]


def test_all_products_of_the_bfloat16_step_are_bfloat16_except_the_classifiers(gpu):
    step = traced()
    # The classifier is float32 by design, for precise logits; with one row per clip its cost is
    # negligible.
    shapes = not_bfloat16(step)
    of_classes = [shapes for shapes in shapes if any(CLASSES in shape for shape in shapes)]
    assert len(of_classes) == 3  # forward, and gradients of its kernel and its input
    # XLA computes the last layer's attention of two tokens; its weights' gradients are float32.
    assert len(shapes) == 3 + 2
    assert all(shapes[0] == (4, 2, 2, 1, 10) for shapes in shapes if shapes not in of_classes)
    # Three for each of the four linear maps, in the loop and in the last layer, and for the patch
    # embedding, whose input's gradient XLA drops; the others are the last layer's attention with
    # its recomputed scores. Attention in the loop is inside cuDNN's calls.
    assert len(products(step)) - len(shapes) == 2 * 4 * 3 + 3 + 5


def test_all_products_of_a_float32_step_are_float32(gpu):
    step = traced(dtype="float32")
    assert {x.dtype.name for operands, _ in products(step) for x in operands} == {"float32"}
    # Also attention's two products and its recomputed scores.
    assert len(not_bfloat16(step)) == 2 * (4 * 3 + 2 * 3 + 1) + 3 + 3


def test_the_device_frontend_adds_three_float32_products(gpu):
    step = traced(on_device=True)
    highest = (jax.lax.Precision.HIGHEST,) * 2
    added = [operands for operands, precision in products(step) if precision == highest]
    # Two for the spectrum and one for the mel bands; none in the backward pass.
    assert len(added) == 3
    assert all(operand.dtype == jnp.float32 for operands in added for operand in operands)
    assert len(products(step)) == len(products(traced())) + 3
    assert len(not_bfloat16(step)) == len(not_bfloat16(traced())) + 3


def on_host(function):
    """Returns the names of the equations that involve the host."""
    host = re.compile("callback|debug|infeed|outfeed|device_put|to_host|from_host")
    names = {equation.primitive.name for equation, _ in equations(function.jaxpr.jaxpr)}
    return {name for name in names if host.search(name)}


@pytest.mark.parametrize(
    "options",
    [{}, {"on_device": True}, {"patchout": 1, "remat": "everything"}],
    ids=["host frontend", "device frontend", "patchout"],
)
def test_the_step_has_no_host_callbacks_or_transfers(gpu, options):
    step = traced(**options)
    assert on_host(step) == set()
    text = for_cuda(step)
    assert all(name.startswith("__cudnn$") for name in calls(text))
    assert re.findall(r"stablehlo\.(?:infeed|outfeed|send|recv)", text) == []


def test_a_waveform_classifier_is_one_bfloat16_program_that_calls_cudnn(gpu):
    *_, model = make_step()
    extractor = ASTFeatureExtractor(max_length=model.max_length, num_mel_bins=model.num_mel_bins)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), param_shapes(model))
    classifier = AudioClassifier(Checkpoint(model, extractor, params))
    waveforms = np.zeros((4, 400 + 63 * 160), np.int16)
    lengths = np.full(4, waveforms.shape[1], np.int32)
    function = classifier._scorer._apply_to_waveforms.trace(
        classifier._scorer._params, waveforms, lengths
    )
    assert on_host(function) == set()
    assert calls(for_cuda(function)) == ["__cudnn$fmhaSoftmax"]
    # The frontend's three products and the classifier's product.
    assert len(not_bfloat16(function)) == 3 + 1


def printing(x):
    jax.debug.print("{}", x)
    return x


@pytest.mark.parametrize(
    ("to_host", "name"),
    [
        (printing, "debug_print"),
        (lambda x: jax.pure_callback(np.asarray, x, x), "pure_callback"),
        (lambda x: jax.device_put(x, jax.memory.Space.Host), "device_put"),
    ],
)
def test_host_callbacks_in_loops_are_found(to_host, name):
    looped = jax.jit(lambda rows: jax.lax.map(lambda x: to_host(x), rows))
    assert on_host(looped.trace(jnp.zeros(3))) == {name}


def test_a_step_transfers_only_its_batch(compiled):
    # Only host-to-device transfers are checked: reading a CPU array may not count as a transfer.
    step, state, batch = compiled
    on_host_batch = {name: np.asarray(rows) for name, rows in batch.items()}
    with jax.transfer_guard("disallow"):
        for _ in range(2):  # the second step uses the first's state
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            step(state, on_host_batch)
