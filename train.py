"""Trains a model: python train.py CONFIG [--FIELD VALUE ...], as `ast-jax train` does."""

import sys

from ast_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
