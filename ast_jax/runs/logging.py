"""What a run says of itself: where it ran, and its scalars for TensorBoard."""

import math
import os
import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import jax

from ast_jax.errors import InputError, first_line
from ast_jax.tensorflow import import_tensorflow

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
GIT_SECONDS = 5  # a checkout on a slow disk must not hold up a run


def describe_run() -> dict[str, Any]:
    """Where and with what this process runs, as JSON takes it. Starts JAX's backend.

    Returns:
        `started` (UTC, ISO 8601), `hostname`, `versions` by package, `backend`, `device_kind`,
        `device_count` and `process_count` (of all processes), `git_commit` and `git_dirty` (of
        the checkout that ast_jax runs from). What cannot be known is None.
    """
    import ast_jax

    commit, dirty = git_state(Path(ast_jax.__file__))
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "hostname": socket.gethostname(),
        "versions": {
            "python": platform.python_version(),
            "ast_jax": ast_jax.__version__,
            **{name: _version(name) for name in PACKAGES},
        },
        "backend": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def git_state(file: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout that tracks `file`, and whether tracked files are changed.

    (None, None) where git is missing, fails or is slow, or where no repository tracks the file:
    a package installed in an environment inside another project is not of that project.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None, None
    # Any tag is excluded, so that a commit is called by its hash.
    state = _git(file.parent, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    if state is None:
        return None, None
    return state.removesuffix("-dirty"), state.endswith("-dirty")


class ScalarWriter:
    """Writes scalars for TensorBoard to a folder, an event file for each writer.

    TensorFlow, imported here and not before, writes them; it is kept off the accelerator.
    """

    def __init__(self, folder: str | Path):
        self._tf = tf = import_tensorflow()
        self._folder = folder
        self._writer = tf.summary.create_file_writer(str(folder))
        # tf.summary.scalar would write the same, and wants the tensorboard package to do it.
        self._metadata = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
        self._metadata.plugin_data.plugin_name = "scalars"

    def write(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Adds values by name at a step; those that are None or not finite are left out.

        Raises:
            InputError: they cannot be written.
        """
        with self._told_in_one_sentence(), self._writer.as_default():
            for name, value in scalars.items():
                if value is not None and math.isfinite(value):
                    number = self._tf.constant(value, self._tf.float32)
                    self._tf.summary.write(name, number, step, self._metadata)

    def close(self) -> None:
        """Writes what is still in memory; the writer takes nothing more."""
        with self._told_in_one_sentence():
            self._writer.close()

    @contextmanager
    def _told_in_one_sentence(self) -> Iterator[None]:
        try:
            yield
        except self._tf.errors.OpError as error:
            raise InputError(
                f"{self._folder}: scalars cannot be written ({first_line(error)}); free some "
                f"space, and the same command goes on"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None if it cannot or fails."""
    # Started from a git hook, these name the hook's repository; and reading must lock no one out.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
