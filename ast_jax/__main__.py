"""Runs `ast-jax` as `python -m ast_jax`."""

import sys

from ast_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
