"""Checkpoints of a run, each a folder that `ast_jax.load` takes as it is."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from ast_jax.checkpoint.format import CONFIG_FILE, read_through
from ast_jax.errors import InputError, first_line
from ast_jax.training.step import TrainState

PARTS = ("params", "opt_state", "ema", "average")  # of a state, each kept by itself


class Progress(NamedTuple):
    """What a run knows between two evaluations, beside its state.

    Attributes:
        loss_sum: of the training steps' losses since the last evaluation.
        loss_steps: how many those are.
        skipped: steps left out so far, as their loss or gradient was not finite.
    """

    loss_sum: float = 0.0
    loss_steps: int = 0
    skipped: int = 0

    @property
    def mean_loss(self) -> float | None:
        """The mean of those losses."""
        return self.loss_sum / self.loss_steps if self.loss_steps else None


class RunCheckpoints:
    """The newest checkpoints of a run and its best; a context that ends when all are written.

    Args:
        folder: where they go, each in a folder named by its step.
        description: the JSON that makes a checkpoint describe itself.
        keep: how many of the newest.
        best: tells the step of the best so far, or None.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        keep: int,
        best: Callable[[], int | None],
    ):
        _quiet_orbax()
        _write_replicas_once()
        self.folder = folder
        self.description = description
        handlers = ocp.DefaultCheckpointHandlerRegistry()
        json_file = ocp.JsonCheckpointHandler(filename=CONFIG_FILE)
        handlers.add("config", ocp.args.JsonSave, json_file)
        handlers.add("config", ocp.args.JsonRestore, json_file)
        self.manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep), _Best(best)]),
                cleanup_tmp_directories=True,  # what a run that was killed had half written
            ),
            handler_registry=handlers,
        )

    def save(self, taken: int, state: TrainState, progress: Progress) -> None:
        """Writes a checkpoint in the background; the state's arrays are copied first.

        `taken` is the state's number of steps, known here without asking the devices.

        Raises:
            InputError: this one or the one before cannot be written.
        """
        parts = {name: getattr(state, name) for name in PARTS}
        try:
            self.manager.save(
                taken,
                args=ocp.args.Composite(
                    config=ocp.args.JsonSave(self.description),
                    progress=ocp.args.JsonSave(progress._asdict()),
                    **{
                        name: ocp.args.StandardSave(part)
                        for name, part in parts.items()
                        if part is not None
                    },
                ),
            )
        except (OSError, ValueError) as error:  # TensorStore's are the latter, for a full disk too
            raise self._unwritten(error) from None

    def restore(self, start: TrainState, step: int | None = None) -> tuple[TrainState, Progress]:
        """A checkpoint, by default the newest, laid out over devices as `start`.

        `start` if there is none.

        Raises:
            InputError: the checkpoint is damaged.
        """
        newest = self.manager.latest_step()
        step = newest if step is None else step
        if step is None:
            return start, Progress()
        folder = self.folder / str(step)
        wanted = {name: getattr(start, name) for name in PARTS}
        wanted = {name: part for name, part in wanted.items() if part is not None}
        try:
            for name in wanted:
                read_through(folder / name)
            restored = self.manager.restore(
                step,
                args=ocp.args.Composite(
                    progress=ocp.args.JsonRestore(),
                    **{
                        name: ocp.args.StandardRestore(
                            jax.tree.map(ocp.utils.to_shape_dtype_struct, part)
                        )
                        for name, part in wanted.items()
                    },
                ),
            )
            progress = Progress(**restored.progress)
        except Exception as error:  # of many kinds, see `load_checkpoint`
            if step == newest:
                hint = "remove it and the run goes on from the checkpoint before, or from the start"
            else:  # the best, when all steps are taken
                hint = (
                    f"restore it from a copy, or load the run's last one, {self.newest()}, instead"
                )
            raise InputError(
                f"{folder}: damaged or incomplete ({first_line(error)}); {hint}"
            ) from None
        count = jax.device_put(jnp.asarray(step, jnp.int32), start.step.sharding)
        state = start._replace(step=count, **{name: restored[name] for name in wanted})
        return state, progress

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint that is whole."""
        step = self.manager.latest_step()
        return None if step is None else self.folder / str(step)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            InputError: it cannot be.
        """
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._unwritten(error) from None

    def _unwritten(self, error: Exception) -> InputError:
        # Orbax keeps the error until Python ends, and the frames it came through would keep the
        # stream of batches, which TensorFlow cannot take down that late: the process would hang.
        error.__traceback__ = None
        # TensorStore names all files on the way before it comes to the system's reason.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else first_line(error)
        return InputError(
            f"{self.folder}: a checkpoint cannot be written ({reason}); free some "
            f"space, and the same command goes on from the checkpoint before"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        finally:
            try:
                self.manager.close()
            except (OSError, ValueError) as failure:
                # A second Ctrl-C in the middle of a save leaves Orbax to remove what its threads
                # still write to; the run ends of the Ctrl-C, and the next start removes it.
                if kind is None:
                    raise self._unwritten(failure) from None


class _Best:
    """Preserves the best checkpoint; which that is may change from one time to the next."""

    def __init__(self, best: Callable[[], int | None]):
        self.best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = self.best()
        return [checkpoint.step == best for checkpoint in checkpoints]


@functools.cache
def _quiet_orbax() -> None:
    """Leaves it to the exception to tell of a save that fails.

    Orbax logs it with a traceback from each of its threads, asyncio logs one for each of its
    tasks, and TensorStore prints another for each array that was under way; as some do when the
    exception is here already, this is for good. A folder half written is made anew, of which
    Orbax warns.
    """
    logging.getLogger("absl").addFilter(
        lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname
    )
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
    tell = sys.unraisablehook

    def tell_of_others(what: Any) -> None:
        if what.object is not None or str(what.exc_value) != "Event loop is closed":
            tell(what)

    sys.unraisablehook = tell_of_others


def _write_replicas_once() -> None:
    """Has an array that all devices hold written from one of them.

    By default Orbax cuts it, an operation for each array and device, while training waits: over
    a second for eight devices, and for the first save as many compilations.
    """
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
