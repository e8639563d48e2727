"""JAX's persistent compilation cache, enabled for the commands."""

import os
import warnings

import jax

from ast_jax.urls import cache_folder


def enable_compilation_cache() -> None:
    """Makes JAX cache compiled programs in the user's cache folder.

    The folder is `~/.cache/ast_jax`, or `ast_jax` in `XDG_CACHE_HOME`; it may be deleted at any
    time. JAX's own settings take precedence: `JAX_COMPILATION_CACHE_DIR` names another folder, and
    `JAX_ENABLE_COMPILATION_CACHE=false` disables the cache. A folder that is not writable, or that
    other users can write to, is not used, because its content is executed.
    """
    # JAX's default does not cache a classifier, which compiles in about a second on a CPU.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # A program truncated by a full disk is compiled again; no warning is needed.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return
    if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
