"""Lowers the model for GPUs and TPUs on a machine without them."""

import re
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo

from ast_jax.models.ast import graphdef, param_shapes
from ast_jax.models.attention import resolve_attn_implementation
from ast_jax.models.config import ASTConfig
from tests.programs import equations

CONFIG = ASTConfig(
    hidden_size=128,  # two heads of width 64
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=256,
    frequency_stride=16,
    time_stride=16,
    max_length=64,
    num_mel_bins=32,
    num_labels=7,
    dtype="bfloat16",
)
FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"


@pytest.fixture(autouse=True)
def no_backend(monkeypatch):
    """Makes the default backend unusable, and pretends that cuDNN is installed."""

    def default_backend():
        raise AssertionError("the program asks for the host's backend")

    monkeypatch.setattr(jax, "default_backend", default_backend)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91300)


def loss(implementation, remat="norms_and_activations", config=CONFIG):
    model = graphdef(config, implementation)
    return lambda params, x: jnp.sin(nnx.merge(model, params)(x, remat=remat)).sum()


def traced(function, config=CONFIG):
    clips = jax.ShapeDtypeStruct((2, config.max_length, config.num_mel_bins), jnp.float32)
    return jax.jit(function).trace(param_shapes(config), clips)


def lowered(function, platform, config=CONFIG):
    return traced(function, config).lower(lowering_platforms=(platform,)).as_text()


def calls(text):
    return sorted(re.findall(r"custom_call @([\w$]+)", text))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_for_tpus_lowers_on_any_host(dtype):
    config = CONFIG.replace(dtype=dtype)
    implementation = resolve_attn_implementation(config, [Mock(jax.Device, platform="tpu")])
    text = lowered(jax.value_and_grad(loss(implementation, config=config)), "tpu", config)
    kernels = calls(text)
    scores = f"{config.num_tokens}x{config.num_tokens}x"
    if dtype == "float32":
        assert not kernels
        assert scores in text
    else:
        # Forward and backward: the layers are one loop, and XLA computes the last layer's two
        # tokens. jax 0.10 has the compiler remove a second forward call, with saved results.
        assert set(kernels) == {"tpu_custom_call"}
        assert len(kernels) in (2, 3)
        assert scores not in text


@pytest.mark.parametrize(
    ("implementation", "platform", "kernels"),
    [("tpu", "tpu", {"tpu_custom_call"}), ("cudnn", "cuda", {FORWARD, BACKWARD})],
)
def test_a_step_with_masks_uses_the_same_kernels(implementation, platform, kernels):
    def masked(params, x):
        num_frames = jnp.full(2, 40)
        model = nnx.merge(graphdef(CONFIG, implementation), params)
        return jnp.sin(model(x, num_frames=num_frames, remat="norms_and_activations")).sum()

    text = lowered(jax.value_and_grad(masked), platform)
    assert set(calls(text)) == kernels
    assert f"{CONFIG.num_tokens}x{CONFIG.num_tokens}x" not in text


def test_attention_to_more_tokens_than_the_tpu_kernel_holds_runs_in_xla():
    config = CONFIG.replace(max_length=16 * 800)
    assert config.num_tokens == 1602
    assert calls(lowered(loss("tpu", "none", config), "tpu", config)) == []


@pytest.mark.parametrize(
    ("remat", "forward"), [("none", 1), ("norms_and_activations", 1), ("everything", 2)]
)
def test_attention_runs_in_cudnn_without_storing_weights(remat, forward):
    text = lowered(jax.value_and_grad(loss("cudnn", remat)), "cuda")
    # The layers are one loop; XLA computes the last layer's two tokens.
    assert calls(text) == [FORWARD] * forward + [BACKWARD]
    assert f"{CONFIG.num_tokens}x{CONFIG.num_tokens}x" not in text


def test_inference_uses_cudnn():
    assert calls(lowered(loss("cudnn", "none"), "cuda")) == [FORWARD]


@pytest.mark.parametrize("implementation", ["cudnn", "tpu", "xla", "cpu"])
def test_all_products_of_the_bfloat16_step_are_bfloat16_except_the_classifiers(implementation):
    step = traced(jax.value_and_grad(loss(implementation)))
    products = [
        [operand.aval for operand in equation.invars]
        for equation, _ in equations(step.jaxpr.jaxpr)
        if equation.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    full = [
        [x.shape for x in operands]
        for operands in products
        if any(x.dtype != jnp.bfloat16 for x in operands)
    ]
    of_labels = [shapes for shapes in full if any(CONFIG.num_labels in x for x in shapes)]
    assert len(of_labels) == 3
    # JAX's own attention, used at least for the two queries of the last layer, has float32
    # gradients of its weights.
    assert len(full) == 3 + (4 if implementation == "xla" else 2)
