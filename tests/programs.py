"""Inspects traced JAX programs."""

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def equations(jaxpr, inside=()):
    """Yields all equations, nested ones too, with the names of their enclosing equations."""
    for equation in jaxpr.eqns:
        yield equation, inside
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(value, ClosedJaxpr | Jaxpr):
                within = getattr(value, "jaxpr", value)
                yield from equations(within, (*inside, equation.primitive.name))
