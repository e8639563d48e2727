"""Compiled programs are kept between one start of a command and the next."""

import os
import warnings
from pathlib import Path

import jax


def enable_compilation_cache() -> None:
    """Has JAX keep what it compiles in the user's cache folder, and take it from there.

    That is `~/.cache/ast_jax`, or `ast_jax` under `XDG_CACHE_HOME`; it may be deleted at any time.
    JAX's own settings come first: `JAX_COMPILATION_CACHE_DIR` names another folder, and
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing. Nor is anything kept where the folder
    cannot be written to or where others may write: what is in it will be run.
    """
    # A classifier compiles in about a second on a CPU, which by default is too little to keep.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # A program that was cut short on a full disk is compiled anew, which needs no telling.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ast_jax"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # the latter: there is no home
        return
    if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
