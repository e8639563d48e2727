"""Parts of a run that callers of `fit` replace, and its hooks."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ast_jax.errors import InputError, first_line, nearest
from ast_jax.evaluation.metrics import Metrics
from ast_jax.losses import Loss
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig
from ast_jax.runs.history import History

AugmentClip = Callable[[jax.Array, jax.Array], jax.Array]  # key, (frames, mel_bins) → the same


class FitResult(NamedTuple):
    """The result of a run.

    Attributes:
        scores: of the final parameters on the test clips, or on the held-out clips if none.
        checkpoint: the folder of the model, which `ast_jax.load` takes.
        history: a row per evaluation.
    """

    scores: Metrics
    checkpoint: Path
    history: History


class Callback:
    """Hooks of a run, which do nothing by themselves; every process of a pod calls them."""

    def on_step(self, step: int, metrics: dict[str, float | None]) -> None:
        """Runs after each step, with its `loss`, `grad_norm` and `learning_rate`.

        The learning rate of one's own optimizer is None.

        The device computes the next step meanwhile, so that it is not waited for.
        """

    def on_evaluation(self, row: dict[str, Any]) -> None:
        """Runs after each evaluation, with the new row of the history."""

    def on_end(self, result: FitResult) -> None:
        """Runs once, at the end of the run."""


class Overrides(NamedTuple):
    """Parts of the step that replace the configuration's, and the hooks.

    Attributes:
        loss: (logits, targets), both (batch, classes) → the mean loss ().
        augment: (key, input values of a clip) → input values.
        optimizer: gives the updates that are added to the parameters, learning rate included.
        callbacks: called in order.
    """

    loss: Loss | None = None
    augment: AugmentClip | None = None
    optimizer: optax.GradientTransformation | None = None
    callbacks: Sequence[Callback] = ()

    def check(self) -> None:
        """Raises `InputError` for a part of a wrong type."""
        for name, part in (("loss", self.loss), ("augment", self.augment)):
            if part is not None and not callable(part):
                raise InputError(f"{name} is {part!r}; give a function, see `fit`")
        if self.optimizer is not None and not isinstance(
            self.optimizer, optax.GradientTransformation
        ):
            raise InputError(
                f"optimizer is {self.optimizer!r}; give an optax.GradientTransformation, such as "
                f"optax.adamw(1e-5)"
            )
        if not isinstance(self.callbacks, Sequence):
            raise InputError(f"callbacks is a {type(self.callbacks).__name__}; give a list of them")
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise InputError(f"callbacks has {callback!r}; give objects of ast_jax.Callback")
            for name in dir(callback):
                if name.startswith("on_") and not hasattr(Callback, name):
                    hooks = [hook for hook in dir(Callback) if hook.startswith("on_")]
                    raise InputError(
                        f"{type(callback).__name__}.{name} is no hook and would not be called; did "
                        f"you mean {nearest(name, hooks)}?"
                    )

    def check_shapes(self, model: ASTConfig) -> None:
        """Raises `InputError` if a part fails on the model, or returns a wrong shape or type."""
        logits = jax.ShapeDtypeStruct((2, *model.output_shape), "float32")
        clip = jax.ShapeDtypeStruct((model.max_length, model.num_mel_bins), "float32")
        key = jax.eval_shape(lambda: jax.random.key(0))
        if self.loss is not None:
            shape = _float_shape("loss", self.loss, logits, logits)
            if shape != ():
                raise InputError(f"loss returns the shape {shape}; return the mean over the batch")
        if self.augment is not None:
            shape = _float_shape("augment", self.augment, key, clip)
            if shape != clip.shape:
                raise InputError(
                    f"augment returns the shape {shape}; return {clip.shape}, as given"
                )

        if self.optimizer is not None:
            params = param_shapes(model)
            with _named("optimizer", "give one whose update takes gradients, state and parameters"):
                state = jax.eval_shape(self.optimizer.init, params)
                updates, _ = jax.eval_shape(self.optimizer.update, params, state, params)
            if jax.tree.map(np.shape, updates) != jax.tree.map(np.shape, params):
                raise InputError("optimizer returns updates of other shapes than the parameters'")

    def names(self, model: ASTConfig) -> dict[str, str]:
        """Returns the names of what is replaced in a run of `model`, for the run's record.

        Those of functions, and of the parts of the optimizer's state.
        """
        names = {
            name: getattr(part, "__qualname__", type(part).__name__)
            for name, part in (("loss", self.loss), ("augment", self.augment))
            if part is not None
        }
        if self.optimizer is not None:
            state = jax.eval_shape(self.optimizer.init, param_shapes(model))
            parts = re.findall(r"namedtuple\[(\w+)\]", str(jax.tree.structure(state)))
            names["optimizer"] = ", ".join(dict.fromkeys(parts))
        return names


@contextmanager
def _named(part: str, hint: str) -> Iterator[None]:
    """Makes an `InputError` of an error in one of the parts; the error itself is its cause."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"{part} fails: {first_line(error)}; {hint}") from error


def _float_shape(name: str, function: Callable[..., Any], *args: Any) -> tuple[int, ...]:
    """Returns the shape of a function's result, which must be one array of floats."""
    given = " and ".join(f"{arg.dtype}{list(arg.shape)}" for arg in args)
    with _named(name, f"it is given {given}"):
        result = jax.eval_shape(function, *args)
    if not isinstance(result, jax.ShapeDtypeStruct):
        raise InputError(f"{name} returns a {type(result).__name__}; return one array")
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise InputError(f"{name} returns {result.dtype}; return floats")
    return result.shape


NO_OVERRIDES = Overrides()
