"""Multi-head self-attention, its implementations and the choice between them."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ast_jax.errors import InputError
from ast_jax.models.attention_cpu import attention_by_head
from ast_jax.models.config import ASTConfig
from ast_jax.models.layers import Linear, Outputs, Tokens
from ast_jax.models.padding import NumTokens
from ast_jax.models.remat import name_residual

ATTN_IMPLEMENTATIONS = ("cudnn", "tpu", "cpu", "xla")

# Of the TPU kernel. More tokens, or float32, do not fit into the 16 MB vector memory of a v4.
TPU_MAX_TOKENS = 1536
TPU_MAX_WIDTH = 128
TPU_TILE_ROWS = 16

Heads = Float[Array, "batch _ heads width"]
Weights = Float[Array, "batch heads queries tokens"]


class Attention(nnx.Module):
    """Multi-head self-attention, with query, key and value from one product."""

    def __init__(self, config: ASTConfig, attn_implementation: str, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dtype = config.dtype
        self.attn_implementation = attn_implementation
        self.qkv = Linear(config, width, 3 * width, config.qkv_bias, rngs=rngs)
        self.output = Linear(config, width, width, rngs=rngs)

    def __call__(
        self,
        x: Tokens,
        num_output_tokens: int | None = None,
        num_tokens: NumTokens | None = None,
        output_attentions: bool = False,
        weights_offset: Weights | None = None,
    ) -> tuple[Outputs, Weights | None]:
        """Returns attention, and its weights if `output_attentions`.

        Args:
            x: the tokens.
            num_output_tokens: how many of the first tokens attend; None for all.
            num_tokens: how many of the first tokens are attended to, of all clips or of each; None
                for all.
            output_attentions: whether to return the weights.
            weights_offset: added to the weights that `output_attentions` returns; the gradient
                with respect to zeros here is that with respect to the weights.
        """
        qkv = name_residual(self.qkv(x).astype(self.dtype), "qkv")
        if not output_attentions:
            y = attention(
                qkv, self.num_heads, self.attn_implementation, num_output_tokens, num_tokens
            )
            return self.output(y), None
        query, key, value = split_heads(qkv, self.num_heads, num_output_tokens, num_tokens)
        weights = attention_weights(query, key, _lengths(num_tokens))
        if weights_offset is not None:
            weights += weights_offset
        y = jnp.einsum("bhts,bshk->bthk", weights, value)
        return self.output(merge_heads(y)), weights


def attention(
    qkv: Float[Array, "batch tokens columns"],
    num_heads: int,
    implementation: str,
    num_output_tokens: int | None = None,
    num_tokens: NumTokens | None = None,
) -> Float[Array, "batch outputs hidden"]:
    """Computes softmax(q·k/√width)·v.

    Without `num_output_tokens` no implementation saves the attention weights, tokens × tokens
    for each head, for the backward pass.

    | implementation | runs on | takes                           | how                             |
    | -------------- | ------- | ------------------------------- | ------------------------------- |
    | "cudnn"        | NVIDIA  | bfloat16, head widths that are  | cuDNN's fused kernel; an odd    |
    |                | GPUs    | multiples of 8 up to 128        | number of tokens is padded      |
    | "tpu"          | TPUs    | bfloat16, head widths up to     | a Pallas kernel with the keys   |
    |                |         | 128; above 1,536 tokens is XLA  | of some heads in vector memory  |
    | "cpu"          | CPUs    | everything                      | two heads at a time, in cache   |
    | "xla"          | all     | everything                      | `jax.nn.dot_product_attention`  |

    cuDNN's kernel needs Ampere or newer GPUs, compute capability 8.0.

    With `num_output_tokens`, as in the last layer, XLA computes attention, whatever the
    implementation. XLA's partitioner cannot split the TPU kernel: on several chips call the model
    in `jax.shard_map`.

    Args:
        qkv: the queries of all heads, then their keys, then their values.
        num_heads: the number of heads.
        implementation: as in the table; `resolve_attn_implementation` chooses it.
        num_output_tokens: how many of the first tokens attend; None for all.
        num_tokens: how many of the first tokens are attended to, of all clips or of each; None for
            all.
    """
    lengths = _lengths(num_tokens)
    if implementation == "tpu" and num_output_tokens is None and qkv.shape[1] <= TPU_MAX_TOKENS:
        # Pallas takes a tenth of the time that importing the model takes.
        from ast_jax.models.attention_tpu import attention_by_group

        end = num_tokens if lengths is None else None
        return attention_by_group(qkv, num_heads, end, False, lengths)  # names its residuals itself
    query, key, value = split_heads(qkv, num_heads, num_output_tokens, num_tokens)
    if num_output_tokens is not None:
        y = jax.nn.dot_product_attention(
            query, key, value, key_value_seq_lengths=lengths, implementation="xla"
        )
    elif implementation == "cudnn":
        y = _attention_by_cudnn(query, key, value, lengths)
    elif implementation == "cpu":
        return merge_heads(attention_by_head(query, key, value, lengths))  # names them, too
    else:
        y = _attention_by_xla(query, key, value, lengths)
    return merge_heads(name_residual(y, "attention_output"))


def token_padding(implementation: str, num_tokens: int) -> int:
    """Returns how many tokens to append to a sequence for an attention implementation.

    A TPU keeps arrays in tiles of 16 rows of bfloat16. Where tiles hold tokens of two clips, each
    change between (batch, tokens, hidden) and (rows, hidden) copies the array.
    """
    return -num_tokens % TPU_TILE_ROWS if implementation == "tpu" else 0


def split_heads(
    qkv: Float[Array, "batch tokens columns"],
    num_heads: int,
    num_output_tokens: int | None = None,
    num_tokens: NumTokens | None = None,
) -> tuple[Heads, Heads, Heads]:
    """Returns the queries, keys and values of each head; arguments are those of `attention`.

    With a number for each clip all keys and values are returned.
    """
    batch, tokens, columns = qkv.shape
    end = None if _lengths(num_tokens) is not None else num_tokens
    qkv = qkv.reshape(batch, tokens, 3, num_heads, columns // (3 * num_heads))
    query, key, value = (qkv[:, :, i] for i in range(3))
    return query[:, :num_output_tokens], key[:, :end], value[:, :end]


def merge_heads(y: Heads) -> Float[Array, "batch tokens hidden"]:
    """Concatenates the heads' outputs."""
    return y.reshape(*y.shape[:2], -1)


def attention_weights(
    query: Float[Array, "batch queries heads width"],
    key: Float[Array, "batch tokens heads width"],
    lengths: Int[Array, " batch"] | None = None,
) -> Weights:
    """Computes softmax(q·k/√width) in float32 and returns it in the query's dtype.

    With `lengths`, the weights of later keys of a clip are 0.
    """
    scores = jnp.einsum("bthk,bshk->bhts", query, key, preferred_element_type=jnp.float32)
    scores *= query.shape[-1] ** -0.5
    if lengths is not None:
        is_padding = jnp.arange(key.shape[1]) >= lengths[:, None, None, None]
        scores = jnp.where(is_padding, -jnp.inf, scores)
    return jax.nn.softmax(scores).astype(query.dtype)


def _lengths(num_tokens: NumTokens | None) -> Int[Array, " batch"] | None:
    """Returns the number of tokens of each clip, if it is not the same for all."""
    return None if num_tokens is None or isinstance(num_tokens, int) else num_tokens


def resolve_attn_implementation(config: ASTConfig, devices: Sequence[jax.Device]) -> str:
    """Returns the fastest attention implementation for a model on the devices of a program."""
    platform = devices[0].platform
    if platform == "gpu" and not _cudnn_limit(config) and _is_ampere_or_newer(devices[0]):
        return "cudnn"
    if platform == "tpu" and not _tpu_limit(config):
        return "tpu"
    return "cpu" if platform == "cpu" else "xla"


def _is_ampere_or_newer(gpu: jax.Device) -> bool:
    """Returns whether a GPU is NVIDIA's, with compute capability 8.0; an AMD GPU has 'gfx90a'."""
    major = gpu.compute_capability.partition(".")[0]
    return major.isdigit() and int(major) >= 8


def check_attn_implementation(config: ASTConfig, implementation: str) -> None:
    """Raises `InputError` for an attention implementation that a model cannot use."""
    if implementation not in ATTN_IMPLEMENTATIONS:
        raise InputError(
            f"attn_implementation must be one of {', '.join(ATTN_IMPLEMENTATIONS)}, "
            f"not {implementation!r}"
        )
    limits = {"cudnn": _cudnn_limit, "tpu": _tpu_limit}
    if implementation in limits and (limit := limits[implementation](config)):
        raise InputError(f"attn_implementation is {implementation!r}, and {limit}; use 'xla'")


def _tpu_limit(config: ASTConfig) -> str:
    """Returns why the TPU kernel cannot compute a model's attention, or ''."""
    width = config.hidden_size // config.num_attention_heads
    if config.dtype != "bfloat16":
        return f"the TPU kernel takes dtype bfloat16, not {config.dtype}"
    if width > TPU_MAX_WIDTH:
        return f"the TPU kernel takes head widths up to {TPU_MAX_WIDTH}, not {width}"
    return ""


def _cudnn_limit(config: ASTConfig) -> str:
    """Returns why cuDNN cannot compute a model's attention, or ''."""
    width = config.hidden_size // config.num_attention_heads
    if config.dtype != "bfloat16":
        return f"cuDNN takes dtype bfloat16, not {config.dtype}"
    if width % 8 or width > 128:
        return f"cuDNN takes head widths that are multiples of 8 up to 128, not {width}"
    return ""


# prevent_cse keeps XLA from merging the two computations. The loop over layers does that.
@partial(jax.checkpoint, prevent_cse=False)
def _attention_by_xla(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array | None
) -> jax.Array:
    """Computes attention by XLA, which recomputes the weights in the backward pass."""
    return jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation="xla"
    )


def _attention_by_cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array | None
) -> jax.Array:
    """Computes attention by cuDNN, which takes even numbers of queries and keys only.

    Odd numbers are padded by one token, which is masked.
    """
    batch, queries, keys = *query.shape[:2], key.shape[1]
    if lengths is None and queries % 2 == keys % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    if lengths is not None:
        # So that the gradients of padding are zero, whatever cuDNN writes there.
        attended = (jnp.arange(keys) < lengths[:, None])[..., None, None]
        key, value = (jnp.where(attended, x, jnp.zeros_like(x)) for x in (key, value))
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    padded = jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=jnp.full(batch, queries, jnp.int32),
        key_value_seq_lengths=jnp.full(batch, keys, jnp.int32) if lengths is None else lengths,
        implementation="cudnn",
    )
    return padded[:, :queries]
