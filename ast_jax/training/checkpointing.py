"""Checkpoints of a run. Each is a folder that `ast_jax.load` takes."""

import functools
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from ast_jax.checkpoint.format import CONFIG_FILE, silence_tensorstore
from ast_jax.errors import InputError, first_line
from ast_jax.training.step import TrainState

PARTS = ("params", "opt_state", "ema", "average")  # fields of `TrainState` saved as items


class RunningLoss(NamedTuple):
    """Losses and skipped steps, accumulated between two evaluations.

    Attributes:
        loss_sum: sum of the training losses since the last evaluation.
        loss_steps: number of those losses.
        skipped: steps skipped so far because their loss or gradient was not finite.
    """

    loss_sum: float = 0.0
    loss_steps: int = 0
    skipped: int = 0

    @property
    def mean_loss(self) -> float | None:
        """The mean training loss since the last evaluation."""
        return self.loss_sum / self.loss_steps if self.loss_steps else None

    def with_loss(self, loss: float) -> Self:
        """Returns the sums after another step."""
        return self._replace(loss_sum=self.loss_sum + loss, loss_steps=self.loss_steps + 1)


class RunCheckpoints:
    """Context that saves a run's newest checkpoints and its best; exits when all are written.

    Args:
        folder: has one checkpoint folder per step.
        description: the JSON that makes a checkpoint self-describing.
        max_to_keep: number of newest checkpoints to keep.
        best_step: returns the step of the best so far, or None.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        max_to_keep: int,
        best_step: Callable[[], int | None],
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
                preservation_policy=AnyPreservationPolicy([LatestN(max_to_keep), _Best(best_step)]),
                cleanup_tmp_directories=True,  # left by a killed run
            ),
            handler_registry=handlers,
        )

    def save(self, step: int, state: TrainState, running_loss: RunningLoss) -> None:
        """Copies the state's arrays and writes a checkpoint in the background.

        `step` is the state's number of steps, known without waiting for the devices.

        Raises:
            InputError: this checkpoint or the one before cannot be written.
        """
        parts = {name: getattr(state, name) for name in PARTS}
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    config=ocp.args.JsonSave(self.description),
                    progress=ocp.args.JsonSave(running_loss._asdict()),
                    **{
                        name: ocp.args.StandardSave(part)
                        for name, part in parts.items()
                        if part is not None
                    },
                ),
            )
        except (OSError, ValueError) as error:  # ValueError: TensorStore, even for a full disk
            raise self._unwritten(error) from None

    def restore(self, start: TrainState, step: int | None = None) -> tuple[TrainState, RunningLoss]:
        """Restores a checkpoint, by default the newest, with the shardings of `start`.

        Returns `start` if there is none.

        Raises:
            InputError: the checkpoint is damaged.
        """
        newest = self.manager.latest_step()
        step = newest if step is None else step
        if step is None:
            return start, RunningLoss()
        folder = self.folder / str(step)
        wanted = {name: getattr(start, name) for name in PARTS}
        wanted = {name: part for name, part in wanted.items() if part is not None}
        try:
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
            running_loss = RunningLoss(**restored.progress)
        except Exception as error:  # many types, see `load_checkpoint`
            if step == newest:
                hint = (
                    "remove it, and the run resumes from the checkpoint before, or from the start"
                )
            else:  # the best, when all steps are taken
                hint = (
                    f"restore it from a copy, or load the run's last one, {self.newest()}, instead"
                )
            raise InputError(
                f"{folder}: damaged or incomplete ({first_line(error)}); {hint}"
            ) from None
        count = jax.device_put(jnp.asarray(step, jnp.int32), start.step.sharding)
        state = start._replace(step=count, **{name: restored[name] for name in wanted})
        return state, running_loss

    def newest(self) -> Path | None:
        """Returns the folder of the newest complete checkpoint."""
        step = self.manager.latest_step()
        return None if step is None else self.folder / str(step)

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises:
            InputError: one cannot be written.
        """
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._unwritten(error) from None

    def _unwritten(self, error: Exception) -> InputError:
        # Orbax keeps the error until Python exits. Its frames would keep the stream of batches
        # alive, which TensorFlow cannot tear down that late: the process would hang.
        error.__traceback__ = None
        # TensorStore lists many paths before the system's reason.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else first_line(error)
        return InputError(
            f"{self.folder}: a checkpoint cannot be written ({reason}); free some "
            f"space and run the same command again to resume from the checkpoint before"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        finally:
            try:
                self.manager.close()
            except (OSError, ValueError) as failure:
                # After a second Ctrl-C during a save, Orbax removes files that its threads still
                # write. The run ends by the Ctrl-C, and the next start cleans up.
                if kind is None:
                    raise self._unwritten(failure) from None


class _Best:
    """Preservation policy for the best checkpoint, which changes over time."""

    def __init__(self, best_step: Callable[[], int | None]):
        self.best_step = best_step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = self.best_step()
        return [checkpoint.step == best for checkpoint in checkpoints]


@functools.cache
def _quiet_orbax() -> None:
    """Suppresses what is logged about a failed save, which an exception reports.

    Orbax logs a traceback in each of its threads, some after the exception was caught, and a
    warning when it removes an incomplete folder.
    """
    silence_tensorstore()
    logging.getLogger("absl").addFilter(
        lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname
    )


def _write_replicas_once() -> None:
    """Makes Orbax write a replicated array from one device.

    By default it slices the array over the devices, one operation per array and device, while
    training waits: over a second on eight devices, and as many compilations at the first save.
    """
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
