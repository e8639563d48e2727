"""Converts checkpoints from PyTorch, and back, as `ast-jax convert` does.

python convert_torch_weights.py SOURCE OUTPUT
python convert_torch_weights.py SOURCE OUTPUT --to-huggingface
"""

from ast_jax.cli.main import run

if __name__ == "__main__":
    run("convert")
