"""Trains a model: python train.py CONFIG [--FIELD VALUE ...], as `ast-jax train` does."""

from ast_jax.cli.main import run

if __name__ == "__main__":
    run("train")
