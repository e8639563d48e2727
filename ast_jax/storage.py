"""Copies files between this machine and buckets, gs:// and s3://.

fsspec does the transfers: gcsfs for gs://, s3fs for s3://. Everything else in the package works on
local files. A remote checkpoint or data set is downloaded before use (`fetch`), and a remote run is
a local one that `ast_jax.runs.mirror` copies.

Names of remote files are not trusted: those that would leave the local folder are refused.
"""

import errno
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ast_jax.errors import InputError, first_line
from ast_jax.io import check_regular, read_json, write_json
from ast_jax.urls import (
    SCHEMES,
    cache_folder,
    is_remote,
    is_safe,
    local_copy,
    make_cache_folder,
    normalize,
)

NUM_THREADS = 16  # that copy files, as one stream does not fill a network

OnDone = Callable[[str], object]


class RemoteFile(NamedTuple):
    """A file of a listing.

    Attributes:
        size: bytes.
        version: changes with every write.
    """

    size: int
    version: str


def fetch(path: str | os.PathLike[str]) -> Path:
    """Returns a local path: the same, or for a URL that of an up-to-date copy in the cache.

    Files that have not changed are not downloaded again. Processes of a host share the copy.
    Downloads may be interrupted, and continue at the next call.

    Raises:
        InputError: there is no such file or folder, or it cannot be read.
    """
    if not is_remote(path):
        return Path(path)
    from filelock import FileLock

    url = normalize(path)
    target = local_copy(url, "downloads")
    make_cache_folder(target.parent)
    with FileLock(target.parent / "lock"):
        listing = list_files(url)
        if not listing:
            raise InputError(f"{url}: no such file or folder")
        versions_file = target.parent / "versions.json"
        versions = read_record(versions_file)
        sizes = {name: status.st_size for name, status in local_files(target).items()}
        unchanged = {
            name
            for name, file in listing.items()
            if versions.get(name) == file.version and sizes.get(name) == file.size
        }
        _remove_all_but(target, unchanged)
        downloaded = {name: listing[name].version for name in unchanged}
        try:
            download(
                url,
                target,
                {name: file for name, file in listing.items() if name not in unchanged},
                lambda name: downloaded.update({name: listing[name].version}),
            )
        finally:
            write_json(versions_file, downloaded)
    return target


def read_record(file: Path) -> dict[str, Any]:
    """Returns what was recorded of files copied; nothing if it is damaged: all is copied again."""
    try:
        record = read_json(file)
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}


def list_files(url: str) -> dict[str, RemoteFile]:
    """Lists a folder recursively, by names relative to it; a file is listed as ''.

    Raises:
        InputError: the storage cannot be read, or a name would leave a local folder.
    """
    system, root = _open(url)
    with _storage_errors(url, "read"):
        system.invalidate_cache()
        found = system.find(root, detail=True)
    listing = {}
    for path, info in found.items():
        if path.endswith("/"):  # what consoles create as an empty folder
            continue
        name = path.removeprefix(root).removeprefix("/")
        if not name and len(found) > 1:
            raise InputError(f"{url}: is a file and a folder; remove one of them")
        if name and not all(map(is_safe, name.split("/"))):
            raise InputError(f"{url}: holds {name!r}, which is no file name; rename it")
        version = hashlib.sha256(json.dumps(info, default=str, sort_keys=True).encode())
        listing[name] = RemoteFile(int(info["size"]), version.hexdigest())
    return listing


def read_bytes(url: str, name: str) -> bytes | None:
    """Returns the content of a file below a URL; None if there is none.

    Raises:
        InputError: the storage cannot be read.
    """
    system, root = _open(url)
    with _storage_errors(url, "read"):
        try:
            return system.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None


def read_run_file(checkpoint: str | os.PathLike[str], name: str) -> bytes | None:
    """Returns the content of a file of the run that a checkpoint is of; None for no run or file.

    Args:
        checkpoint: a run, a checkpoint in it, or the URL of a run.
        name: of the file in the run's folder.

    Raises:
        InputError: the storage or file cannot be read.
    """
    if is_remote(checkpoint):
        return read_bytes(normalize(checkpoint), name)
    path = Path(os.path.abspath(checkpoint))
    for folder in (path, *path.parents[:2]):  # RUN, RUN/model, RUN/checkpoints/STEP
        if (folder / "run.json").is_file():
            file = folder / name
            try:
                if not file.exists():
                    return None
                check_regular(file)
                return file.read_bytes()
            except OSError as error:
                raise InputError(
                    f"{file}: cannot be read ({error.strerror}); make it readable"
                ) from None
    return None


def download(
    url: str, target: Path, files: Mapping[str, RemoteFile], on_done: OnDone = lambda name: None
) -> None:
    """Downloads files of a listing and shows the progress.

    Args:
        url: of the folder, or of the file ''.
        target: the local folder or file.
        files: part of the listing.
        on_done: called with the name of each file once it is complete.

    Raises:
        InputError: a file cannot be read, or not be written here.
    """
    from fsspec.callbacks import Callback
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    system, root = _open(url)
    stopped = threading.Event()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    console = Console(stderr=True)
    hidden = not console.is_terminal or not files
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        total = sum(file.size for file in files.values())
        task = progress.add_task(f"downloading {url}", total=total)

        class Report(Callback):
            def relative_update(self, inc: int = 1) -> None:
                if stopped.is_set():
                    raise InterruptedError
                progress.update(task, advance=inc)

        def copy(name: str) -> None:
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{os.getpid()}.{threading.get_ident()}.tmp")
            try:
                source = f"{root}/{name}" if name else root
                system.get_file(source, str(temporary), callback=Report())
                if temporary.stat().st_size != files[name].size:
                    raise OSError(f"{name or url} changed during the download")
                os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)

        _in_threads(url, "copied to this machine", copy, files.keys(), on_done, stopped)


def upload(
    url: str, folder: Path, names: Collection[str], on_done: OnDone = lambda name: None
) -> None:
    """Uploads files of a folder; those that no longer exist are passed over.

    Args:
        url: of the remote folder.
        folder: the local one.
        names: of the files.
        on_done: called with the name of each file once it is complete.

    Raises:
        InputError: a file cannot be written there.
    """
    system, root = _open(url)
    removed = set()

    def copy(name: str) -> None:
        try:
            system.put_file(str(folder / name), f"{root}/{name}")
        except FileNotFoundError:
            if (folder / name).exists():  # then it is the bucket that does not
                raise
            removed.add(name)

    def report(name: str) -> None:
        if name not in removed:
            on_done(name)

    _in_threads(url, "written", copy, names, report)


def delete(url: str, names: Collection[str], on_done: OnDone = lambda name: None) -> None:
    """Deletes files, which may be gone already.

    Args:
        url: of the remote folder.
        names: of the files.
        on_done: called with the name of each file once it is gone.

    Raises:
        InputError: a file cannot be deleted.
    """
    system, root = _open(url)

    def remove(name: str) -> None:
        with suppress(FileNotFoundError):
            system.rm_file(f"{root}/{name}")

    _in_threads(url, "written", remove, names, on_done)


def local_files(folder: Path) -> dict[str, os.stat_result]:
    """Lists the files below a folder by relative name; a file is listed as ''."""
    if folder.is_file():
        return {"": folder.stat()}
    found = {}
    for parent, _, names in os.walk(folder):  # passes over folders that disappear meanwhile
        for name in names:
            file = Path(parent, name)
            with suppress(FileNotFoundError):
                found[file.relative_to(folder).as_posix()] = file.stat()
    return found


def _remove_all_but(target: Path, names: Collection[str]) -> None:
    """Removes the other files of a copy, and folders that are empty then."""
    if target.is_file():
        if "" not in names:
            target.unlink()
        return
    for parent, folders, files in os.walk(target, topdown=False):
        for name in files:
            file = Path(parent, name)
            if file.relative_to(target).as_posix() not in names:
                file.unlink()
        for name in folders:
            with suppress(OSError):  # not empty
                Path(parent, name).rmdir()
    if target.exists() and not any(target.iterdir()):
        target.rmdir()  # it may be a file now


def _in_threads(
    url: str,
    participle: str,
    act: Callable[[str], None],
    names: Collection[str],
    on_done: OnDone,
    stopped: threading.Event | None = None,
) -> None:
    """Calls `act` for each name, and `on_done` after it; sets `stopped` at the first error."""
    with _storage_errors(url, participle), ThreadPoolExecutor(NUM_THREADS) as threads:
        acts = {threads.submit(act, name): name for name in names}
        try:
            for done in as_completed(acts):
                done.result()
                on_done(acts[done])
        except BaseException:
            if stopped:
                stopped.set()
            threads.shutdown(cancel_futures=True)
            raise


@contextmanager
def _storage_errors(url: str, participle: str) -> Iterator[None]:
    """Raises the many exceptions of storage libraries as `InputError`: "cannot be `participle`"."""
    try:
        yield
    except (InputError, AttributeError, TypeError, NameError, AssertionError):
        raise
    except Exception as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        if isinstance(error, OSError) and error.errno in full:
            raise InputError(
                f"{url}: cannot be {participle} ({error.strerror}); free some space in "
                f"{cache_folder()}, or set XDG_CACHE_HOME to another folder"
            ) from None
        missing = isinstance(error, FileNotFoundError)  # with the message of gcsfs, a path
        reason = "there is no such bucket or file" if missing else first_line(error)
        raise InputError(
            f"{url}: cannot be {participle} ({reason}); check its name, the credentials and the "
            f"network"
        ) from None


def _open(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL and the path in it, without reading anything.

    Raises:
        InputError: the library for its scheme is not installed, or it is not a URL.
    """
    import fsspec

    logger = logging.getLogger("gcsfs")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)  # it logs what it raises, with tracebacks
    try:
        # Without a cache of listings, as other machines write too.
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError:
        extra = SCHEMES[url.partition(":")[0]]
        raise InputError(f"{url}: cannot be opened; pip install 'ast-jax[{extra}]'") from None
    except Exception as error:
        raise InputError(
            f"{url}: cannot be opened ({first_line(error)}); give a URL such as gs://BUCKET/NAME"
        ) from None
