"""Parameters of small models for tests."""

import jax
import numpy as np

from ast_jax.models.ast import Params, param_shapes
from ast_jax.models.config import ASTConfig


def random_params(config: ASTConfig, std: float = 1.0, seed: int = 0) -> Params:
    """Returns normally distributed float32 parameters."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: std * rng.standard_normal(a.shape, dtype=np.float32), param_shapes(config)
    )
