"""The ViT encoder: pre-norm layers whose parameters are stacked along a leading layer axis.

Twelve layers are one set of arrays with a leading axis of twelve, run by `jax.lax.scan`: the
layer is compiled once (but see `of_first`), and for the classifier the last one beside it, and the
optimizer and the gradient exchange handle 16 arrays instead of 150.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ast_jax.models.attention import Attention
from ast_jax.models.config import ASTConfig
from ast_jax.models.layers import layer_norm, linear, linear_of


class MLP(nnx.Module):
    """Linear, exact (erf) GELU, linear."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        self.dtype = config.activation_dtype
        self.fc1 = linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.fc2 = linear(config, config.intermediate_size, config.hidden_size, rngs)

    def __call__(self, x: jax.Array, normalize: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """(batch, tokens, hidden) → the same; `normalize` is the layer norm before it."""
        # As one matrix of tokens: with two leading axes XLA's CPU backend turns the products
        # of the backward pass so that the GELU's derivative runs three times slower.
        flat = x.reshape(-1, x.shape[-1])
        hidden = linear_of(normalize, self.fc1)(flat).astype(self.dtype)
        return linear_of(gelu, self.fc2)(hidden).reshape(x.shape)


def gelu(x: jax.Array) -> jax.Array:
    """The GELU by the error function, as PyTorch's, of x's shape, in float32.

    Its error is 1e-6; below -5, where it is to be less than that, it is zero or noise.
    """
    # In float32 even where the products are not, as its four operations would each round. JAX's
    # own, by the complementary function, is exact there as well, in twice the time on a CPU.
    x = x.astype(jnp.float32)
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Layer(nnx.Module):
    """One pre-norm encoder layer: attention, then MLP, each added to its input."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.layernorm_before = layer_norm(width, epsilon, config.activation_dtype, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.layernorm_after = layer_norm(width, epsilon, config.activation_dtype, rngs)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(
        self, x: jax.Array, with_weights: bool = False, first: int | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """(batch, tokens, hidden) → the same, and on request the attention weights.

        With `first`, for that many tokens alone.
        """
        attended, weights = self.attention(x, self.layernorm_before, with_weights, first)
        x = x[:, :first] + attended
        return x + self.mlp(x, self.layernorm_after), weights


class Encoder(nnx.Module):
    """`num_hidden_layers` layers as one `Layer` with stacked parameters, and no final norm."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        def new_layer(key: jax.Array) -> tuple[nnx.GraphDef, nnx.State]:
            return nnx.split(Layer(config, rngs=nnx.Rngs(params=key)))

        keys = jax.random.split(rngs.params(), config.num_hidden_layers)
        graphdef = new_layer(keys[0])[0]
        stacked = jax.vmap(lambda key: new_layer(key)[1])(keys)
        self.layers = nnx.merge(graphdef, stacked)

    def __call__(
        self, x: jax.Array, output_hidden_states: bool = False, output_attentions: bool = False
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """(batch, tokens, hidden) → output, hidden states and attention weights.

        Hidden states are (layers + 1, batch, tokens, hidden), the encoder's input first;
        weights (layers, batch, heads, tokens, tokens). Each is None unless asked for.
        """
        graphdef, stacked = nnx.split(self.layers)

        def apply(x: jax.Array, params: nnx.State) -> tuple[jax.Array, tuple]:
            y, weights = nnx.merge(graphdef, params)(x, with_weights=output_attentions)
            return y, (y if output_hidden_states else None, weights)

        y, (hidden_states, attentions) = jax.lax.scan(apply, x, stacked)
        if hidden_states is not None:
            hidden_states = jnp.concatenate([x[None], hidden_states])
        return y, hidden_states, attentions

    def of_first(
        self, x: jax.Array, first: int, training: bool = False, remat: bool = False
    ) -> jax.Array:
        """(batch, tokens, hidden) → the output (batch, first, hidden) for the first tokens.

        The last layer leaves out what the others would become there, which is a twelfth of the
        work in twelve layers.

        Args:
            x: the embeddings.
            first: how many tokens.
            training: whether gradients will be taken, which copies the stack of layers to have the
                last one apart; without, they are taken from it by number, and gradients are slow.
            remat: whether training keeps of each layer its input alone, and computes the rest
                anew for the backward pass; otherwise that is norms and GELUs only, and of a single
                clip on a CPU nothing.
        """
        one_by_one = not training and len(x) > 1 and jax.default_backend() == "cpu"
        if one_by_one and isinstance(x, jax.core.Tracer):  # outside of jit it is compiled each time
            # Measured on base384: 0.8 to 0.9 of the time of a batch, which caches hold less of.
            return jax.lax.map(lambda clip: self.of_first(clip[None], first, remat=remat)[0], x)
        graphdef, stacked = nnx.split(self.layers)

        def layer(first: int | None) -> Callable[[jax.Array, nnx.State], jax.Array]:
            def apply(x: jax.Array, params: nnx.State) -> jax.Array:
                return nnx.merge(graphdef, params)(x, first=first)[0]

            return jax.checkpoint(apply, prevent_cse=False) if remat else apply

        def numbered(i: Any) -> nnx.State:
            return jax.tree.map(lambda p: p[i], stacked)

        apply, last = layer(None), len(jax.tree.leaves(stacked)[0]) - 1

        def turn(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
            return apply(x, params if training else numbered(params)), None

        # In a CPU's loop a single thread stacks what the layers keep, and their gradients. All
        # layers in a row take 0.9 of the time for base384, twice the time to compile, and more than
        # twice the memory, as XLA keeps what it need not compute anew: of one clip alone that is
        # 1.5 GB in float32, as much as two take in the loop.
        alone = training and not remat and len(x) == 1 and jax.default_backend() == "cpu"
        layers = numbered(slice(last)) if training else jnp.arange(last)
        x, _ = jax.lax.scan(turn, x, layers, unroll=alone)
        return layer(first)(x, numbered(last))
