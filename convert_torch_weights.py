"""Converts checkpoints from PyTorch, and back, as `ast-jax convert` does.

python convert_torch_weights.py SOURCE OUTPUT
python convert_torch_weights.py SOURCE OUTPUT --to-huggingface
"""

import sys

from ast_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
