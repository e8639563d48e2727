"""Keeps the folder of a remote run: a local one, uploaded while it changes.

A training run reads and writes a folder of this machine. Where `workdir` is a URL, that is a folder
in the cache: `pull` makes it the remote one before the run, and `uploading` uploads what changes,
from the first process alone.

Object stores cannot rename. Therefore the innermost files are uploaded first and deleted last: a
checkpoint is complete once the file `LAST_FILE` at its top is there.
"""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ast_jax.checkpoint.load import complete_names, newest_step
from ast_jax.errors import InputError, print_note
from ast_jax.io import write_json
from ast_jax.storage import (
    delete,
    download,
    list_files,
    local_files,
    read_bytes,
    read_record,
    upload,
)
from ast_jax.urls import is_remote, local_copy, make_cache_folder, normalize

UPLOAD_INTERVAL = 30.0  # s

RUN_FILE = "run.json"
SESSIONS_FILE = "sessions.json"


def run_folder(workdir: str) -> Path:
    """Returns the local folder of a run: `workdir`, or its copy if that is a URL."""
    return local_copy(workdir, "runs") if is_remote(workdir) else Path(workdir).absolute()


def pull(url: str, folder: Path) -> None:
    """Downloads a remote run into its local folder, without incomplete checkpoints.

    The folder is left as it is where the run's last session was on this machine, as it may have
    more than the storage.

    Raises:
        InputError: the storage cannot be read or has something else there, or only this machine
            has the run.
    """
    url = normalize(url)
    listing = list_files(url)
    if listing and RUN_FILE not in listing:
        raise InputError(f"{url}: exists and is not a run of ast_jax; choose another folder")
    if _is_newer(folder, url, listing):
        return
    if not listing and newest_step(local_files(folder)):
        raise InputError(
            f"{url}: has no run any more, and this machine has its copy in {folder}; move that "
            f"away to start again, or copy it to the URL to resume"
        )
    make_cache_folder(folder.parent)
    if folder.exists():
        if newest_step(local_files(folder)):
            print_note(f"{url} was continued on another machine; downloading it again")
        shutil.rmtree(folder)
    # The next upload deletes what is not complete: a killed run left it.
    state = dict.fromkeys(name for name in listing if _is_content(name))
    write_json(_state_file(folder), state)
    files = {name: listing[name] for name in complete_names(listing)}
    last = files.pop(SESSIONS_FILE, None)  # without it an interrupted download starts again
    download(url, folder, files)
    write_json(_state_file(folder), state | _sizes_and_times(folder))
    if last:
        download(url, folder, {SESSIONS_FILE: last})


def _is_newer(folder: Path, url: str, listing: Collection[str]) -> bool:
    """Returns whether the local folder has all sessions and steps of the storage, or more."""
    file = folder / SESSIONS_FILE
    ours = _parse_sessions(file.read_bytes() if file.is_file() else None)
    theirs = _parse_sessions(read_bytes(url, SESSIONS_FILE))
    return (
        ours is not None
        and theirs is not None
        and ours[: len(theirs)] == theirs
        and newest_step(local_files(folder)) >= newest_step(listing)
    )


def _parse_sessions(content: bytes | None) -> list[Any] | None:
    """Returns the sessions in a `SESSIONS_FILE`, None if it is missing or damaged."""
    try:
        sessions = json.loads(content or b"")
    except ValueError:
        return None
    return sessions if isinstance(sessions, list) else None


def push(url: str, folder: Path, owner: bytes | None = None) -> None:
    """Uploads what has changed in the folder since the last time, and deletes what is gone.

    Args:
        url: of the run.
        folder: its local folder.
        owner: the content that `SESSIONS_FILE` must have at the URL; None for any.

    Raises:
        InputError: the storage cannot be written, or another run writes there.
    """
    url = normalize(url)
    uploaded = read_record(_state_file(folder))
    files = _sizes_and_times(folder)
    changed = {name for name, file in files.items() if uploaded.get(name) != file}
    removed = uploaded.keys() - files.keys()
    if owner is not None and read_bytes(url, SESSIONS_FILE) != owner:
        raise InputError(
            f"{url}: its {SESSIONS_FILE} is not that of this run: another run writes there, or it "
            f"was deleted; give each run its own workdir"
        )
    if not changed and not removed:
        return
    uploaded |= dict.fromkeys(changed)
    write_json(_state_file(folder), uploaded)  # an upload that is killed may have written some
    try:
        for names in _by_depth(changed):
            upload(url, folder, names, lambda name: uploaded.update({name: files[name]}))
        for names in reversed(_by_depth(removed)):
            delete(url, names, uploaded.pop)
    finally:
        write_json(_state_file(folder), uploaded)


def push_last(url: str, folder: Path, owner: bytes | None = None) -> None:
    """Uploads what has changed at the end of a run; arguments are those of `push`.

    Raises:
        InputError: as `push`; the message says where everything is.
    """
    try:
        push(url, folder, owner)
    except InputError as error:
        if not folder.exists():  # a new run that had no checkpoint
            raise
        hint = f"everything is in {folder}, and the same command uploads it"
        raise InputError(f"{error}; {hint}") from None


@contextmanager
def uploading(url: str, folder: Path, owner: bytes | None = None) -> Iterator[None]:
    """Uploads what has changed every `UPLOAD_INTERVAL` while the block runs, in a thread.

    Arguments are those of `push`.
    """
    ended = Event()

    def keep_uploading() -> None:
        failed = False
        while not ended.wait(UPLOAD_INTERVAL):
            try:
                push(url, folder, owner)
                failed = False
            except InputError as error:
                if not failed:
                    print_note(f"{error}; the run goes on and tries again")
                failed = True

    thread = Thread(target=keep_uploading, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _state_file(folder: Path) -> Path:
    """Returns the file that has size and time of each file at its upload, null if unfinished."""
    return folder.parent / "uploaded.json"


def _sizes_and_times(folder: Path) -> dict[str, list[int]]:
    """Lists the files of a run but temporary ones, with their sizes and times of modification."""
    return {
        name: [status.st_size, status.st_mtime_ns]
        for name, status in local_files(folder).items()
        if _is_content(name)
    }


def _is_content(name: str) -> bool:
    """Returns whether a file of a run's folder is neither temporary nor hidden."""
    return not any(
        part.startswith(".") or ".orbax-checkpoint-tmp" in part for part in name.split("/")
    )


def _by_depth(names: Collection[str]) -> list[list[str]]:
    """Returns groups of names, `RUN_FILE` first, then the innermost, so that a run is known."""

    def rank(name: str) -> int:
        return -1000 if name == RUN_FILE else -name.count("/")

    return [list(group) for _, group in groupby(sorted(names, key=rank), key=rank)]
