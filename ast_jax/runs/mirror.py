"""Keeps the folder of a remote run: a local one, uploaded while it changes.

A training run reads and writes a folder of this machine. Where `workdir` is a URL, that is a folder
in the cache: `pull` makes it the remote one before the run, and `mirrored` uploads what changes,
from the first process alone.

Object stores cannot rename. Therefore the innermost files are uploaded first, so that a checkpoint
is complete once the last file that it has at its top is there, and are deleted last.
"""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from threading import Event, Thread

from rich.console import Console

from ast_jax.checkpoint.load import complete_names
from ast_jax.errors import InputError
from ast_jax.io import read_json, write_json
from ast_jax.storage import (
    delete,
    download,
    is_remote,
    list_files,
    local_files,
    local_folder,
    read_bytes,
    upload,
)

SECONDS = 30.0  # between two uploads

RUN_FILE = "run.json"
SESSIONS_FILE = "sessions.json"


def run_folder(workdir: str) -> Path:
    """Returns the local folder of a run: `workdir`, or its copy if that is a URL."""
    return local_folder(workdir, "runs") if is_remote(workdir) else Path(workdir).absolute()


def pull(url: str, folder: Path) -> None:
    """Makes the local folder of a remote run what the storage has.

    If this machine had the run's last session the folder is left as it is, as it may have more.

    Raises:
        InputError: the storage cannot be read, or has something else there.
    """
    sessions = folder / SESSIONS_FILE
    if sessions.is_file() and sessions.read_bytes() == read_bytes(url, SESSIONS_FILE):
        return
    listing = list_files(url)
    if listing and RUN_FILE not in listing:
        raise InputError(f"{url}: exists and is not a run of ast_jax; choose another folder")
    if folder.exists():
        shutil.rmtree(folder)
    names = complete_names(listing)
    for _ in download(url, folder, listing, names):
        pass
    # What is not complete there is of a run that was killed. The next upload deletes it.
    state = dict.fromkeys(listing, None) | _sizes_and_times(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(_state_file(folder), state)


def push(url: str, folder: Path) -> None:
    """Uploads what has changed in the folder since the last time, and deletes what is gone.

    Raises:
        InputError: the storage cannot be written.
    """
    state_file = _state_file(folder)
    uploaded = read_json(state_file) if state_file.exists() else {}
    files = _sizes_and_times(folder)
    changed = {name for name, file in files.items() if uploaded.get(name) != file}
    gone = uploaded.keys() - files.keys()
    if not changed and not gone:
        return
    uploaded |= dict.fromkeys(changed)
    write_json(state_file, uploaded)  # a killed upload may have made these
    try:
        for names in _by_depth(changed, innermost_first=True):
            for name in upload(url, folder, names):
                uploaded[name] = files[name]
        for names in _by_depth(gone, innermost_first=False):
            for name in delete(url, names):
                del uploaded[name]
    finally:
        write_json(state_file, uploaded)


@contextmanager
def mirrored(url: str, folder: Path) -> Iterator[None]:
    """Uploads a run's folder every `SECONDS` while the block runs, and at its end.

    Raises:
        InputError: the last upload failed.
    """
    ended = Event()
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)

    def keep_uploading() -> None:
        failed = False
        while not ended.wait(SECONDS):
            try:
                push(url, folder)
                failed = False
            except InputError as error:
                if not failed:
                    console.print(f"note: {error}; the run goes on and tries again")
                failed = True

    thread = Thread(target=keep_uploading, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        try:
            push(url, folder)
        except InputError as error:
            hint = f"; everything is in {folder}, and the same command uploads it"
            raise InputError(f"{error}{hint}") from None


def _state_file(folder: Path) -> Path:
    """Returns the file that has size and time of each file at its upload, null if unfinished."""
    return folder.with_name(f".{folder.name}.uploaded.json")


def _sizes_and_times(folder: Path) -> dict[str, list[int]]:
    """Lists the files of a run but temporary ones, with their sizes and times of modification."""
    return {
        name: [status.st_size, status.st_mtime_ns]
        for name, status in local_files(folder).items()
        if not any(
            part.startswith(".") or ".orbax-checkpoint-tmp" in part for part in name.split("/")
        )
    }


def _by_depth(names: Collection[str], *, innermost_first: bool) -> Iterator[list[str]]:
    """Yields the names of each depth."""

    def depth(name: str) -> int:
        return name.count("/")

    ordered = sorted(names, key=depth, reverse=innermost_first)
    for _, group in groupby(ordered, key=depth):
        yield list(group)
