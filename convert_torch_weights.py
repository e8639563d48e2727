"""Converts checkpoints: from PyTorch to ast_jax, and back.

    python convert_torch_weights.py SOURCE OUTPUT
    python convert_torch_weights.py SOURCE OUTPUT --to-huggingface

SOURCE is an original `.pth`, a distilled DeiT's `.pth`, a Hugging Face folder, a
`.safetensors`, or a checkpoint of ast_jax.
"""

import argparse
import sys
from collections.abc import Sequence

from ast_jax.cli import convert
from ast_jax.cli.command import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    convert.add_arguments(parser)
    arguments = parser.parse_args(argv)
    return run_command("convert_torch_weights.py", lambda: convert.run(arguments), arguments.output)


if __name__ == "__main__":
    sys.exit(main())
