"""Checkpoints of a run. Each is a folder that `ast_jax.load` takes.

The first process alone writes and reads them, so that a pod needs no shared disk: a state is 1.4 GB
at most (base384 with a moving average), which takes seconds to gather and to broadcast.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from ast_jax.checkpoint.checksums import (
    CHECKSUMS_FILE,
    NO_CHECKSUMS,
    array_checksums,
    find_change,
    read_checksums,
)
from ast_jax.checkpoint.format import (
    CONFIG_FILE,
    call_orbax,
    check_files,
    silence_orbax,
    system_reason,
)
from ast_jax.errors import InputError
from ast_jax.io import json_checksum, read_json
from ast_jax.multihost import broadcast_arrays, call_on_first
from ast_jax.training.step import TrainState

JSON_FILES = {"config": CONFIG_FILE, "progress": None, "checksums": CHECKSUMS_FILE}
PARTS = ("params", "opt_state", "ema", "average")  # fields of `TrainState` saved as items


class RunningLoss(NamedTuple):
    """Losses, time and skipped steps, accumulated between two evaluations.

    Attributes:
        loss_sum: sum of the training losses since the last evaluation.
        loss_steps: number of those losses.
        skipped: steps skipped so far because their loss or gradient was not finite.
        learning_rate: of the last step; None before the first since the last evaluation.
        seconds: time since the last evaluation, without that between sessions.
    """

    loss_sum: float = 0.0
    loss_steps: int = 0
    skipped: int = 0
    learning_rate: float | None = None
    seconds: float = 0.0

    @property
    def mean_loss(self) -> float | None:
        """The mean training loss since the last evaluation."""
        return self.loss_sum / self.loss_steps if self.loss_steps else None

    def with_loss(self, loss: float) -> Self:
        """Returns the sums after another step."""
        return self._replace(loss_sum=self.loss_sum + loss, loss_steps=self.loss_steps + 1)


class RunCheckpoints:
    """Context that saves a run's newest checkpoints and its best; exits when all are written.

    Every process must call each method; `save` and `wait` do nothing but on the first.

    Args:
        folder: has one checkpoint folder per step.
        description: the JSON that makes a checkpoint self-describing.
        max_to_keep: number of newest checkpoints to keep.
        best_step: returns the step of the best so far, or None.
        note: prints a sentence for the user.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        max_to_keep: int,
        best_step: Callable[[], int | None],
        note: Callable[[str], object],
    ):
        self.folder = folder
        self.description = description
        self.note = note
        self.shapes: dict[str, Any] = {}  # of the parts of a state, once `restore` has run
        self.manager: ocp.CheckpointManager | None = None
        if jax.process_index() == 0:
            silence_orbax()
            self.manager = _new_manager(folder, max_to_keep, best_step)

    def save(self, step: int, state: TrainState, running_loss: RunningLoss) -> None:
        """Writes a checkpoint in the background.

        Args:
            step: the state's number of steps.
            state: whole arrays of the host, as `DataParallel.to_host` returns them.
            running_loss: since the last evaluation.

        Raises:
            InputError: this checkpoint or the one before cannot be written.
        """
        if self.manager is None:
            return
        parts = _parts(state)
        progress = running_loss._asdict()
        checksums = array_checksums(parts) | {
            "config": json_checksum(self.description),
            "progress": json_checksum(progress),
        }
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    config=ocp.args.JsonSave(self.description),
                    progress=ocp.args.JsonSave(progress),
                    checksums=ocp.args.JsonSave(checksums),
                    **{name: ocp.args.StandardSave(part) for name, part in parts.items()},
                ),
            )
        except (OSError, ValueError) as error:  # ValueError: TensorStore, even for a full disk
            raise self._unwritten(error) from None

    def restore(
        self, like: TrainState, step: int | None = None
    ) -> tuple[TrainState, RunningLoss] | None:
        """Restores a checkpoint, by default the newest, on every process; None if there is none.

        If the newest is damaged, the newest sound one is restored and a note says so. The damaged
        are renamed, as training writes those steps again. Collective: each process must call it.

        Args:
            like: has the shapes and dtypes of the state.
            step: of the checkpoint.

        Returns:
            The state as whole arrays of the host, and the losses since the last evaluation.

        Raises:
            InputError: the checkpoint is damaged, or each is.
        """
        restored = _parts(like)
        self.shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), restored)

        def read() -> dict[str, Any] | None:
            nonlocal restored
            found = self._newest_sound() if step is None else self._at(step)
            if found is None:
                return None
            chosen, restored, running_loss = found
            return {"step": chosen, "running_loss": running_loss._asdict()}

        found = call_on_first(read)
        if found is None:
            return None
        parts = broadcast_arrays(restored)
        state = like._replace(step=jnp.asarray(found["step"], jnp.int32), **parts)
        return state, RunningLoss(**found["running_loss"])

    def _newest_sound(self) -> tuple[int, dict[str, Any], RunningLoss] | None:
        """Reads the newest checkpoint that is not damaged; None if there is none at all."""
        assert self.manager is not None
        damaged: list[InputError] = []
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                parts, running_loss = self._read(step)
            except InputError as error:
                damaged.append(error)
                continue
            if damaged:
                self._set_aside(step, damaged)
            self._check_run(self.folder / str(step))
            return step, parts, running_loss
        if damaged:
            others = ", and so are all others" if damaged[1:] else ""
            what = "all" if damaged[1:] else "it"
            raise InputError(
                f"{damaged[0]}{others}; restore it from a copy, or remove {what} to start again"
            )
        return None

    def _check_run(self, checkpoint: Path) -> None:
        """Raises `InputError` unless the run's extractor is that of a checkpoint with checksums."""
        if read_checksums(checkpoint) is None:
            self.note(f"note: {checkpoint}: {NO_CHECKSUMS}")
            return
        saved = read_json(checkpoint / "config" / CONFIG_FILE)
        if saved.get("feature_extractor") != self.description.get("feature_extractor"):
            raise InputError(
                f"{self.folder.parent / 'run.json'}: its feature_extractor is not that of "
                f"{checkpoint}; restore the file from a copy"
            )

    def _at(self, step: int) -> tuple[int, dict[str, Any], RunningLoss]:
        """Reads the checkpoint of a step: the best, when all steps are taken."""
        assert self.manager is not None
        try:
            return step, *self._read(step)
        except InputError as error:
            last = self.folder / str(self.manager.latest_step())
            raise InputError(
                f"{error}; restore it from a copy, or load the run's last one, {last}, instead"
            ) from None

    def _set_aside(self, sound: int, damaged: list[InputError]) -> None:
        """Renames the checkpoints after step `sound`, which are damaged."""
        assert self.manager is not None
        steps = sorted((step for step in self.manager.all_steps() if step > sound), reverse=True)
        for step, error in zip(steps, damaged, strict=True):
            new = self.folder / f"damaged.{step}"
            shutil.rmtree(new, ignore_errors=True)
            (self.folder / str(step)).rename(new)
            self.note(f"note: {error}; renamed to {new.name}, and step {sound} is used instead")
        self.manager.reload()

    def _read(self, step: int) -> tuple[dict[str, Any], RunningLoss]:
        """Returns the parts of a checkpoint as NumPy's, and its losses, after checking both.

        Raises:
            InputError: the checkpoint is damaged.
        """
        folder = self.folder / str(step)
        as_numpy = jax.tree.map(lambda array: np.empty(array.shape, array.dtype), self.shapes)
        check_files(folder, self.shapes)

        def read() -> Any:
            assert self.manager is not None
            return self.manager.restore(
                step,
                args=ocp.args.Composite(
                    config=ocp.args.JsonRestore(),
                    progress=ocp.args.JsonRestore(),
                    **{name: ocp.args.StandardRestore(part) for name, part in as_numpy.items()},
                ),
            )

        restored, reason = call_orbax(read)
        if not reason:
            parts = {name: restored[name] for name in self.shapes}
            texts = {name: restored[name] for name in ("config", "progress")}
            if changed := find_change(folder, parts, texts):
                reason = f"{changed} is not what was saved: its checksum differs"
            elif not restored.progress.keys() <= set(RunningLoss._fields):
                reason = "progress has unknown fields"
        if reason:
            raise InputError(f"{folder}: damaged or incomplete ({reason})")
        return parts, RunningLoss(**restored.progress)

    def newest(self) -> str | None:
        """Returns the path of the newest complete checkpoint that is not damaged. Collective."""

        def find() -> str | None:
            found = self._newest_sound()
            return None if found is None else str(self.folder / str(found[0]))

        self.wait()
        return call_on_first(find)

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises:
            InputError: one cannot be written.
        """
        if self.manager is None:
            return
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._unwritten(error) from None

    def _unwritten(self, error: Exception) -> InputError:
        # Orbax keeps the error until Python exits. Its frames would keep the stream of batches
        # alive, which TensorFlow cannot tear down that late: the process would hang.
        error.__traceback__ = None
        return InputError(
            f"{self.folder}: a checkpoint cannot be written ({system_reason(error)}); free some "
            f"space and run the same command again to resume from the checkpoint before"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.manager is None:
            return
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


def _parts(state: TrainState) -> dict[str, Any]:
    """Returns the parts of a state that are saved, by name."""
    parts = {name: getattr(state, name) for name in PARTS}
    return {name: part for name, part in parts.items() if part is not None}


class _Best:
    """Preservation policy for the best checkpoint, which changes over time."""

    def __init__(self, best_step: Callable[[], int | None]):
        self.best_step = best_step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = self.best_step()
        return [checkpoint.step == best for checkpoint in checkpoints]


def _new_manager(
    folder: Path, max_to_keep: int, best_step: Callable[[], int | None]
) -> ocp.CheckpointManager:
    # By default Orbax copies arrays before it writes them, as they may change: 0.7 s for base384,
    # while training waits. What `DataParallel.to_host` returns does not change.
    uncopied = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    ocp.type_handlers.register_type_handler(np.ndarray, uncopied, override=True)
    # By default it also waits for the other processes, which do not save.
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    handlers = ocp.DefaultCheckpointHandlerRegistry()
    for part, file in JSON_FILES.items():
        content = ocp.JsonCheckpointHandler(file, multiprocessing_options=alone)
        handlers.add(part, ocp.args.JsonSave, content)
        handlers.add(part, ocp.args.JsonRestore, content)
    for part in PARTS:
        arrays = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
        handlers.add(part, ocp.args.StandardSave, arrays)
        handlers.add(part, ocp.args.StandardRestore, arrays)
    folder.mkdir(parents=True, exist_ok=True)
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            create=False,
            preservation_policy=AnyPreservationPolicy([LatestN(max_to_keep), _Best(best_step)]),
            cleanup_tmp_directories=True,  # left by a killed run
            multiprocessing_options=alone,
        ),
        handler_registry=handlers,
    )
