"""Compiled programs are kept between one start of a command and the next."""

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Has JAX keep what it compiles in the user's cache folder, and take it from there.

    That is `~/.cache/ast_jax`, or `ast_jax` under `XDG_CACHE_HOME`. JAX's own settings come
    first: `JAX_COMPILATION_CACHE_DIR` names another folder, and
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing. Nor is anything kept where the folder
    cannot be written to.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ast_jax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter: there is no home
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A classifier compiles in about a second on a CPU, which by default is too little to keep.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
