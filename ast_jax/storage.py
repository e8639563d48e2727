"""Copies files between this machine and remote storage, gs:// and s3:// above all.

fsspec does the transfers: gcsfs for gs://, s3fs for s3://. Everything else in the package works on
local files. A remote checkpoint or data set is downloaded before use (`fetch`), and a remote run is
a local one that `ast_jax.runs.mirror` copies.

Names of remote files are not trusted: those that would leave the local folder are refused.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ast_jax.errors import InputError, first_line
from ast_jax.io import read_json, write_json

THREADS = 16  # that copy files, as one stream does not fill a network
EXTRAS = {"gs": "gcs", "s3": "s3"}  # of pyproject.toml, by scheme


class RemoteFile(NamedTuple):
    """A file of a listing.

    Attributes:
        size: bytes.
        version: another one each time that the file is written.
    """

    size: int
    version: str


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is a URL, even one that `Path` has merged the slashes of."""
    return re.match(r"[A-Za-z][\w.+-]+:/", os.fspath(path)) is not None


def check_local(path: str | os.PathLike[str]) -> None:
    """Raises `InputError` if an output is a URL."""
    if is_remote(path):
        raise InputError(
            f"{_normalize(path)}: is remote; write to a folder of this machine and copy it there"
        )


def cache_folder() -> Path:
    """Returns `~/.cache/ast_jax`, or `ast_jax` in `XDG_CACHE_HOME`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ast_jax"


def local_folder(url: str | os.PathLike[str], kind: str) -> Path:
    """Returns the folder that a URL is copied to, in the folder `kind` of the cache."""
    scheme, _, rest = _normalize(url).partition("://")
    parts = rest.split("/")
    if not all(map(_is_safe, parts)):
        raise InputError(f"{url}: is not the URL of a file or folder, such as gs://BUCKET/NAME")
    return cache_folder().joinpath(kind, scheme, *parts)


def fetch(path: str | os.PathLike[str]) -> Path:
    """Returns a local path: the same, or for a URL that of an up-to-date copy in the cache.

    Files that have not changed are not downloaded again. Several processes of a host share the
    copy. Downloads may be interrupted, and continue at the next call.

    Raises:
        InputError: there is no such file or folder, or it cannot be read.
    """
    if not is_remote(path):
        return Path(path)
    from filelock import FileLock

    target = local_folder(path, "downloads")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        listing = list_files(path)
        if not listing:
            raise InputError(f"{_normalize(path)}: no such file or folder")
        versions_file = target.with_name(f".{target.name}.versions.json")
        versions = read_json(versions_file) if versions_file.exists() else {}
        current = {name for name in listing if versions.get(name) == listing[name].version}
        for name in set(local_files(target)) - current:
            (target / name).unlink()
        current &= set(local_files(target))
        done = {name: listing[name].version for name in current}
        try:
            for name in download(path, target, listing, listing.keys() - current):
                done[name] = listing[name].version
        finally:
            write_json(versions_file, done)
    return target


def list_files(url: str | os.PathLike[str]) -> dict[str, RemoteFile]:
    """Lists a folder recursively, by names relative to it; a file is listed as ''.

    Raises:
        InputError: the storage cannot be read, or a name would leave a local folder.
    """
    system = _open(url)
    with storage_errors(url, "read"):
        system.fs.invalidate_cache()
        found = system.find("", detail=True)
    listing = {}
    for name, info in found.items():
        if name.endswith("/"):  # marks an empty folder
            continue
        if name and not all(map(_is_safe, name.split("/"))):
            raise InputError(f"{url}: holds {name!r}, which is no file name; rename it")
        version = hashlib.sha256(json.dumps(info, default=str, sort_keys=True).encode())
        listing[name] = RemoteFile(int(info["size"]), version.hexdigest())
    return listing


def read_bytes(url: str | os.PathLike[str], name: str) -> bytes | None:
    """Returns the content of a file below a URL; None if there is none."""
    system = _open(url)
    with storage_errors(url, "read"):
        try:
            return system.cat_file(name)
        except FileNotFoundError:
            return None


def download(
    url: str | os.PathLike[str],
    target: Path,
    listing: Mapping[str, RemoteFile],
    names: Collection[str],
) -> Iterator[str]:
    """Downloads files of a listing, and yields the name of each when it is complete.

    Raises:
        InputError: a file cannot be read, or not be written here.
    """
    from fsspec.callbacks import Callback
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    if not names:
        return
    system = _open(url)
    size = sum(listing[name].size for name in names)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"downloading {url}", total=size)

        class Report(Callback):
            def relative_update(self, inc: int = 1) -> None:
                progress.update(task, advance=inc)

        def copy(name: str) -> bool:
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
            try:
                system.get_file(name, str(temporary), callback=Report())
                if temporary.stat().st_size != listing[name].size:
                    raise OSError(f"{name} changed during the download")
                os.replace(temporary, file)
                return True
            finally:
                temporary.unlink(missing_ok=True)

        yield from _in_threads(url, "copied to this machine", copy, names)


def upload(url: str | os.PathLike[str], folder: Path, names: Collection[str]) -> Iterator[str]:
    """Uploads files of a folder, and yields the name of each when it is complete.

    A file that no longer exists is passed over: it is not yielded.

    Raises:
        InputError: a file cannot be written there.
    """
    system = _open(url)

    def copy(name: str) -> bool:
        try:
            system.put_file(str(folder / name), name)
        except FileNotFoundError:
            if (folder / name).exists():  # then it is the bucket that does not
                raise
            return False
        return True

    yield from _in_threads(url, "written", copy, names)


def delete(url: str | os.PathLike[str], names: Collection[str]) -> Iterator[str]:
    """Deletes files, which may be gone already, and yields the name of each.

    Raises:
        InputError: a file cannot be deleted.
    """
    system = _open(url)

    def remove(name: str) -> bool:
        with suppress(FileNotFoundError):
            system.rm_file(name)
        return True

    yield from _in_threads(url, "written", remove, names)


def local_files(folder: Path) -> dict[str, os.stat_result]:
    """Lists the files below a folder by relative name; a file is listed as ''."""
    if folder.is_file():
        return {"": folder.stat()}
    found = {}
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # removed during the listing
            if file.is_file():
                found[file.relative_to(folder).as_posix()] = file.stat()
    return found


def _in_threads(
    url: str | os.PathLike[str], what: str, copy: Callable[[str], bool], names: Iterable[str]
) -> Iterator[str]:
    """Calls `copy` for each name, and yields the names for which it returned True."""
    with storage_errors(url, what), ThreadPoolExecutor(THREADS) as threads:
        copies = {threads.submit(copy, name): name for name in names}
        try:
            for done in as_completed(copies):
                if done.result():
                    yield copies[done]
        finally:
            threads.shutdown(cancel_futures=True)


@contextmanager
def storage_errors(url: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Raises the many exceptions of storage libraries as `InputError`: "cannot be `what`"."""
    try:
        yield
    except (InputError, KeyboardInterrupt, GeneratorExit):
        raise
    except Exception as error:
        missing = isinstance(error, FileNotFoundError)  # with the message of gcsfs, a path
        reason = "there is no such bucket or file" if missing else first_line(error)
        raise InputError(
            f"{_normalize(url)}: cannot be {what} ({reason}); check its name, the "
            f"credentials and the network"
        ) from None


def _open(url: str | os.PathLike[str]) -> Any:
    """Returns a fsspec file system of paths relative to a URL, without reading anything.

    Raises:
        InputError: the library for its scheme is not installed, or does not exist.
    """
    import fsspec
    from fsspec.implementations.dirfs import DirFileSystem

    url = _normalize(url)
    scheme = url.partition("://")[0]
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # logs what it raises, with tracebacks
    try:
        # What a listing has must be true now, and not at an earlier call.
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError:
        hint = f"pip install 'ast-jax[{EXTRAS.get(scheme)}]'"
        if scheme not in EXTRAS:
            hint = "install the library of fsspec for it"
        raise InputError(f"{url}: cannot be opened; {hint}") from None
    except Exception as error:
        raise InputError(
            f"{url}: cannot be opened ({first_line(error)}); give a URL such as gs://BUCKET/NAME"
        ) from None
    return DirFileSystem(root, system)


def _normalize(url: str | os.PathLike[str]) -> str:
    """Returns a URL with the two slashes that `Path` merges, and none at its end."""
    scheme, rest = os.fspath(url).split(":", 1)
    return f"{scheme}://{rest.strip('/')}"


def _is_safe(part: str) -> bool:
    """Returns whether a part of a remote name can be a file name in a local folder."""
    return part not in ("", ".", "..") and not re.search(r"[\\\0]", part)
