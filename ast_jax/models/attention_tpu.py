"""Attention on a TPU: a Pallas kernel for sequences that fit in a core's vector memory.

All keys of a group of heads are in VMEM, so that the softmax is exact and takes one pass, and the
scores never leave the core. The kernels read queries, keys and values where the projection wrote
them, (batch, tokens, 3 * heads * width), and write their gradients alike: nothing is transposed in
memory. Heads that together fill the 128 lanes of a register are computed at a time, 2 of width 64.

Scores are (keys, queries). So softmax's sums and maxima run down the sublanes, a query's constants
lie along the lanes, and only arrays as wide as a group are transposed. Products with a head's
values or gradients have its 64 columns as rows, which stream through the matrix unit; as columns
they would leave half of it empty. Products over the width take a group's 128 lanes, one operand
with zeros in the lanes of the other heads: the matrix unit is that deep in any case.

The backward pass recomputes the weights from the logarithm of each query's sum, as flash attention
does (Dao et al. 2022, appendix B).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from ast_jax.models.lane_layout import BLOCK, LANES, make_layout, pack, unpack
from ast_jax.models.remat import name_residual

ROWS = 16  # sublanes of a register of bfloat16, which arrays are padded to
VMEM_BYTES = 48 * 2**20  # a kernel's limit where the core has more than 16 MB


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def attention_by_group(
    qkv: Float[Array, "batch tokens columns"],
    num_heads: int,
    num_tokens: int | None = None,
    interpret: bool = False,
    lengths: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch tokens hidden"]:
    """Computes softmax(q·k/√width)·v. Supports reverse-mode differentiation only.

    Args:
        qkv: the queries of all heads, then their keys, then their values.
        num_heads: the number of heads.
        num_tokens: how many of the first tokens are attended to, before padding; None for all.
        interpret: whether to run slowly on any device instead of a TPU.
        lengths: how many of the first tokens of each clip are attended to; None for `num_tokens`.
    """
    return _forward(qkv, num_heads, num_tokens, interpret, lengths)[0]


def _forward(
    qkv: jax.Array,
    num_heads: int,
    num_tokens: int | None,
    interpret: bool,
    lengths: jax.Array | None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    batch, tokens, _ = qkv.shape
    layout = make_layout(qkv, num_heads)
    width, lanes, groups, rows = layout
    packed = pack(qkv, num_heads, layout)
    third = [
        pl.BlockSpec((1, rows, LANES), lambda b, g, i=i: (b, 0, i * groups + g)) for i in range(3)
    ]
    log_sum_shape = (LANES // lanes, rows)
    kernel, length_spec, length_array = _with_lengths(_forward_kernel, lengths)
    output, log_sum = pl.pallas_call(
        partial(kernel, num_tokens=num_tokens or tokens, lanes=lanes, scale=width**-0.5),
        grid=(batch, groups),
        in_specs=[*length_spec, *third],
        out_specs=[third[0], pl.BlockSpec((1, 1, *log_sum_shape), lambda b, g: (b, g, 0, 0))],
        out_shape=[
            jax.ShapeDtypeStruct((batch, tokens, groups * LANES), qkv.dtype),
            jax.ShapeDtypeStruct((batch, groups, *log_sum_shape), jnp.float32),
        ],
        compiler_params=_compiler_params("parallel", "parallel"),
        interpret=interpret,
        name="attention_forward",
    )(*length_array, packed, packed, packed)
    output = name_residual(unpack(output, num_heads, layout), "attention_output")
    log_sum = name_residual(log_sum, "attention_log_sum")
    return output, (qkv, log_sum, lengths)


def _backward(
    num_heads: int,
    num_tokens: int | None,
    interpret: bool,
    residuals: tuple[jax.Array, jax.Array, jax.Array | None],
    dy: jax.Array,
) -> tuple[jax.Array, None]:
    qkv, log_sum, lengths = residuals
    batch, tokens, _ = qkv.shape
    layout = make_layout(qkv, num_heads)
    width, lanes, groups, rows = layout
    packed, dy = (pack(x, num_heads, layout) for x in (qkv, dy))

    def group_of(b: Any, g: Any, step: Any) -> tuple[Any, Any]:
        """Returns the group of a step's inputs: after the first step, already the next group."""
        n = jnp.minimum(b * groups + g + (step > 0), batch * groups - 1)
        return lax.div(n, groups), lax.rem(n, groups)

    def columns_of(i: int) -> pl.BlockSpec:
        def index(*program: Any) -> tuple[Any, ...]:
            b, g = group_of(*program)
            return b, 0, i * groups + g

        return pl.BlockSpec((1, rows, LANES), index)

    kernel, length_spec, length_array = _with_lengths(_backward_kernel, lengths)
    dqkv = pl.pallas_call(
        partial(kernel, num_tokens=num_tokens or tokens, lanes=lanes, scale=width**-0.5),
        # The first of a group's three steps computes all, and each writes one of the gradients.
        grid=(batch, groups, 3),
        in_specs=[
            *length_spec,
            *(columns_of(i) for i in range(3)),
            columns_of(0),
            pl.BlockSpec(
                (1, 1, LANES // lanes, rows), lambda *program: (*group_of(*program), 0, 0)
            ),
        ],
        out_specs=pl.BlockSpec((1, rows, LANES), lambda b, g, step: (b, 0, step * groups + g)),
        out_shape=jax.ShapeDtypeStruct(packed.shape, packed.dtype),
        scratch_shapes=[
            pltpu.VMEM((LANES, rows), qkv.dtype),
            pltpu.VMEM((rows, LANES), qkv.dtype),
            pltpu.VMEM((LANES, rows), jnp.float32),
            pltpu.VMEM((LANES, rows), jnp.float32),
        ],
        compiler_params=_compiler_params("parallel", "parallel", "arbitrary"),
        interpret=interpret,
        name="attention_backward",
    )(*length_array, packed, packed, packed, dy, log_sum)
    return unpack(dqkv, num_heads, layout), None


attention_by_group.defvjp(_forward, _backward)


def _forward_kernel(
    lengths_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, y_ref: Any, log_sum_ref: Any,
    *, num_tokens: int, lanes: int, scale: float,
) -> None:  # fmt: skip
    """Computes a group of heads; queries, keys, values and outputs are (1, rows, 128)."""
    keys = pl.cdiv(num_tokens, ROWS) * ROWS
    length = num_tokens if lengths_ref is None else lengths_ref[pl.program_id(0)]
    k, masked = _keys(k_ref, keys, num_tokens, length)
    v_t = _zero_padding(v_ref[0], 0, length).T[:, :keys]
    # Rows of ones below the values have the matrix unit sum the weights, too.
    ones = jnp.ones((ROWS, keys), v_t.dtype)
    if lengths_ref is not None:
        key = lax.broadcasted_iota(jnp.int32, ones.shape, 1)
        ones = (key < length).astype(jnp.float32).astype(v_t.dtype)

    def scores(start: int, head: int) -> jax.Array:
        q = _zero_padding(q_ref[0, start : start + BLOCK], start, num_tokens)
        return _scores(k, _one_head(q, head, lanes), masked, scale)

    def attend(start: int, head: int, scores: jax.Array) -> jax.Array:
        largest = scores.max(0, keepdims=True)
        weights = jnp.exp(scores - largest).astype(v_t.dtype)
        y = _dot(jnp.concatenate([_rows_of(v_t, head, lanes), ones]), weights, 1, 0)
        total = y[lanes : lanes + 1]
        log_sum_ref[0, 0, head : head + 1, start : start + BLOCK] = largest + jnp.log(total)
        return y[:lanes] * (1 / total)

    for start, outputs in _by_block(scores, attend, q_ref.shape[1], LANES // lanes):
        y_ref[0, start : start + BLOCK] = jnp.concatenate(outputs).T.astype(y_ref.dtype)


def _backward_kernel(
    lengths_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, dy_ref: Any, log_sum_ref: Any, d_ref: Any,
    k_t: Any, dq: Any, dk_t: Any, dv_t: Any,
    *, num_tokens: int, lanes: int, scale: float,
) -> None:  # fmt: skip
    """Computes a group's gradients. `k_t`, `dk_t` and `dv_t` are (128, rows), `dq` (rows, 128)."""
    dtype = q_ref.dtype
    keys = pl.cdiv(num_tokens, ROWS) * ROWS
    step = pl.program_id(2)
    length = num_tokens if lengths_ref is None else lengths_ref[pl.program_id(0)]

    @pl.when(step == 0)
    def _() -> None:
        k, masked = _keys(k_ref, keys, num_tokens, length)
        k_t[...] = _zero_padding(k_ref[0], 0, length).T
        v = _zero_padding(v_ref[0], 0, length)[:keys]

        def weigh(start: int, head: int) -> tuple[jax.Array, ...]:
            """Returns what the three products with the weights take."""
            rows = slice(start, start + BLOCK)
            q, dy = (_zero_padding(ref[0, rows], start, num_tokens) for ref in (q_ref, dy_ref))
            scores = _scores(k, _one_head(q, head, lanes), masked, scale)
            weights = jnp.exp(scores - log_sum_ref[0, 0, head : head + 1, rows])
            dweights = _dot(v, _one_head(dy, head, lanes), 1, 1)
            return (
                weights,
                weights * dweights,
                _rows_of(q.T, head, lanes),
                _rows_of(dy.T, head, lanes),
            )

        def differentiate(start: int, head: int, weighed: tuple[jax.Array, ...]) -> jax.Array:
            """Returns the queries' gradient, transposed, and adds to that of keys and values."""
            weights, products, q_t, dy_t = weighed
            # Not the sum of y * dy, its usual form, which would carry the rounding of y.
            total = products.sum(0, keepdims=True)
            dscores = (products - weights * total).astype(dtype)
            at = slice(head * lanes, (head + 1) * lanes)
            for sums, block in (
                (dv_t, _dot(dy_t, weights.astype(dtype), 1, 1)),
                (dk_t, _dot(q_t, dscores, 1, 1)),
            ):
                sums[at, :keys] = block if start == 0 else sums[at, :keys] + block
            return _dot(k_t[at, :keys], dscores, 1, 0)

        for start, outputs in _by_block(weigh, differentiate, q_ref.shape[1], LANES // lanes):
            dq[start : start + BLOCK] = (jnp.concatenate(outputs).T * scale).astype(dtype)
        if keys < q_ref.shape[1]:  # padding that nothing was added to
            for sums in (dk_t, dv_t):
                sums[:, keys:] = jnp.zeros_like(sums[:, keys:])
        d_ref[0] = dq[...]

    def of_attended(gradient: jax.Array) -> jax.Array:
        return gradient if lengths_ref is None else _zero_padding(gradient, 0, length)

    @pl.when(step == 1)
    def _() -> None:
        d_ref[0] = of_attended(dk_t[...].T * scale).astype(dtype)

    @pl.when(step == 2)
    def _() -> None:
        d_ref[0] = of_attended(dv_t[...].T).astype(dtype)


def _by_block(
    begin: Callable[[int, int], Any], finish: Callable[[int, int, Any], Any], rows: int, heads: int
) -> Iterator[tuple[int, list[Any]]]:
    """Yields each block of queries with the results of `finish` for its heads.

    `begin` of the next head comes before `finish` of one, so that the products of one overlap the
    exponentials of the other.
    """
    order = [(start, head) for start in range(0, rows, BLOCK) for head in range(heads)]
    started = begin(*order[0])
    results = []
    for n, (start, head) in enumerate(order):
        following = begin(*order[n + 1]) if n + 1 < len(order) else None
        results.append(finish(start, head, started))
        started = following
        if head == heads - 1:
            yield start, results
            results = []


def _with_lengths(kernel: Callable, lengths: jax.Array | None) -> tuple[Callable, list, list]:
    """Returns a kernel that takes `lengths` first, if there are any, their spec and themselves."""
    if lengths is None:
        return partial(kernel, None), [], []
    return kernel, [pl.BlockSpec(memory_space=pltpu.SMEM)], [lengths.astype(jnp.int32)]


def _keys(k_ref: Any, keys: int, num_tokens: int, length: Any) -> tuple[jax.Array, int]:
    """Returns the keys and the row from which their scores are masked.

    Where clips have lengths of their own no score is masked. Instead the first key stands for those
    of padding, with values and a part of the sum that are zero.
    """
    k = k_ref[0, :keys]
    if isinstance(length, int):
        return k, num_tokens
    row = lax.broadcasted_iota(jnp.int32, k.shape, 0)
    return jnp.where(row < length, k, k_ref[0, :1]), keys


def _scores(keys: jax.Array, queries: jax.Array, num_tokens: int, scale: float) -> jax.Array:
    """Computes scores (keys, queries) in float32; those of padding are -inf."""
    scores = _dot(keys, queries, 1, 1) * scale
    edge = num_tokens // 8 * 8  # rows before it are whole registers that need no mask
    if edge == len(scores):
        return scores
    tail = scores[edge:]
    row = lax.broadcasted_iota(jnp.int32, tail.shape, 0) + edge
    return jnp.concatenate([scores[:edge], jnp.where(row < num_tokens, tail, -jnp.inf)])


def _zero_padding(x: jax.Array, start: int, num_tokens: Any) -> jax.Array:
    """Returns rows of tokens from `start` with zeros after token `num_tokens`.

    Blocks reach past the array's end, where their content is undefined.
    """
    if isinstance(num_tokens, int) and start + len(x) <= num_tokens:
        return x
    row = lax.broadcasted_iota(jnp.int32, x.shape, 0) + start
    return jnp.where(row < num_tokens, x, jnp.zeros_like(x))


def _one_head(x: jax.Array, head: int, lanes: int) -> jax.Array:
    """Returns (rows, 128) with zeros in the lanes of other heads."""
    if lanes == LANES:
        return x
    lane = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where((lane >= head * lanes) & (lane < (head + 1) * lanes), x, jnp.zeros_like(x))


def _rows_of(x: jax.Array, head: int, lanes: int) -> jax.Array:
    """Returns one head's rows of (128, columns)."""
    return x[head * lanes : (head + 1) * lanes]


def _dot(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
    """Multiplies over one axis of each, in float32."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    axes = (((x_axis,), (y_axis,)), ((), ()))
    return lax.dot_general(x, y, axes, precision=precision, preferred_element_type=jnp.float32)


def _compiler_params(
    *semantics: Literal["parallel", "arbitrary"],
) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM_BYTES)
