"""Tells URLs of buckets, gs:// and s3://, from paths, and finds the places of their copies."""

import hashlib
import os
import re
from pathlib import Path

from ast_jax.errors import InputError

SCHEMES = {"gs": "gcs", "s3": "s3", "memory": ""}  # and their extras; memory is that of tests


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is a URL, also with the slashes merged by `Path`."""
    return re.match(r"[A-Za-z][\w.+:-]+:/", os.fspath(path)) is not None


def check_local(path: str | os.PathLike[str]) -> None:
    """Raises `InputError` if an output is a URL, or no path at all."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InputError(f"the output is {path!r}; give the path of a file or folder")
    if is_remote(path):
        raise InputError(
            f"{normalize(path)}: is remote; write to a folder of this machine and copy it there"
        )


def normalize(url: str | os.PathLike[str]) -> str:
    """Returns a URL with the two slashes that `Path` merges, and none at its end.

    Raises:
        InputError: its scheme is not supported, or it names nothing.
    """
    scheme, rest = os.fspath(url).split(":/", 1)
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        raise InputError(f"{url}: is a {scheme}: URL; give a path, or a gs:// or s3:// URL")
    if not rest.strip("/"):
        raise InputError(f"{url}: names no bucket; give a URL such as {scheme}://BUCKET/NAME")
    return f"{scheme}://{rest.strip('/')}"


def cache_folder() -> Path:
    """Returns `~/.cache/ast_jax`, or `ast_jax` in `XDG_CACHE_HOME`.

    Raises:
        RuntimeError: there is no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "ast_jax"


def local_copy(url: str | os.PathLike[str], kind: str) -> Path:
    """Returns the path that a URL is copied to: in the cache's folder `kind`, a folder of its own.

    Raises:
        InputError: there is no home folder.
    """
    url = normalize(url)
    digest = hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()[:16]
    name = url.rpartition("/")[2]
    try:
        cache = cache_folder()
    except RuntimeError as error:
        raise InputError(f"{url}: has no place here ({error}); set XDG_CACHE_HOME") from None
    return cache / kind / digest / (name if is_safe(name) and len(name) < 100 else "copy")


def make_cache_folder(folder: Path) -> None:
    """Creates a folder in the cache.

    Raises:
        InputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be created ({error.strerror}); set XDG_CACHE_HOME to a folder that "
            f"can be written"
        ) from None


def is_safe(part: str) -> bool:
    """Returns whether a part of a remote name can be a file name in a local folder."""
    return part not in ("", ".", "..") and not re.search(r"[\\\0]", part)
