"""Runs `ast-jax` as `python -m ast_jax`."""

from ast_jax.cli.main import run

if __name__ == "__main__":
    run()
