"""Logs of a run: the environment of each start, and scalars for TensorBoard."""

import math
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import jax

from ast_jax.errors import InputError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
FLUSH_SECONDS = 30  # a flush waits for the disk
GIT_SECONDS = 5  # timeout, for checkouts on slow disks


def describe_run() -> dict[str, Any]:
    """Returns where and with what this process runs, for JSON. Initializes JAX's backend.

    Returns:
        `started` (UTC, ISO 8601), `hostname`, `versions` by package, `backend`, `device_kind`,
        `device_count` and `process_count` (of all processes), `git_commit` and `git_dirty` (of
        the checkout that ast_jax is imported from). Unknown values are None.
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
    """Returns the commit of the checkout that tracks `file`, and whether tracked files changed.

    Returns (None, None) where git is missing, fails or is slow, or no repository tracks the file,
    such as for a package installed in an environment inside another project.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None, None
    # Tags are excluded, so that the commit is described by its hash.
    state = _git(file.parent, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    if state is None:
        return None, None
    return state.removesuffix("-dirty"), state.endswith("-dirty")


class ScalarWriter:
    """Writes scalars for TensorBoard to a folder, one event file per writer.

    It writes in the caller's thread: errors in the thread of tensorboardX's `SummaryWriter` do not
    reach the caller.
    """

    def __init__(self, folder: str | Path):
        from tensorboardX.event_file_writer import EventsWriter

        self._folder = Path(folder)
        # By default two writers that start within a second share a file name.
        suffix = f".{os.getpid()}.{time.time_ns()}"
        with self._one_sentence():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(self._folder / "events"), suffix)
        self._flush_at = time.monotonic() + FLUSH_SECONDS

    def write(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Adds values by name at a step; None and non-finite values are omitted.

        Raises:
            InputError: they cannot be written.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with self._one_sentence():
            for name, value in scalars.items():
                if value is not None and math.isfinite(value):
                    event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                    self._writer.write_event(event)
            if time.monotonic() > self._flush_at:
                self._writer.flush()
                self._flush_at = time.monotonic() + FLUSH_SECONDS

    def close(self) -> None:
        """Closes the event file."""
        with self._one_sentence():
            self._writer.close()

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._folder}: scalars cannot be written ({error.strerror or error}); free "
                f"some space and run the same command again to resume"
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
    """Returns what git prints, or None if it fails."""
    # A git hook sets these to its own repository. Reading must not take locks.
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
