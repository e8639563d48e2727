"""The classification head."""

from flax import nnx
from jaxtyping import Array, Float

from ast_jax.models.config import ASTConfig
from ast_jax.models.layers import LayerNorm, torch_uniform


class Classifier(nnx.Module):
    """Layer norm and linear, in float32 whatever the encoder computes in."""

    def __init__(self, config: ASTConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        init = torch_uniform(fan_in=width)
        self.layernorm = LayerNorm(width, config.head_layer_norm_eps, "float32", rngs=rngs)
        self.dense = nnx.Linear(
            width, config.num_labels, kernel_init=init, bias_init=init, rngs=rngs
        )

    def __call__(self, pooled: Float[Array, "*shape hidden"]) -> Float[Array, "*shape labels"]:
        """Computes logits."""
        return self.dense(self.layernorm(pooled))
