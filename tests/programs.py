"""Reading the programs that JAX traces."""

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def equations(jaxpr, inside=()):
    """All of a jaxpr's equations and those within them, each with the names of what it is in."""
    for equation in jaxpr.eqns:
        yield equation, inside
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(value, ClosedJaxpr | Jaxpr):
                within = getattr(value, "jaxpr", value)
                yield from equations(within, (*inside, equation.primitive.name))
