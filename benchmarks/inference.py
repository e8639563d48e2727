"""Times base384 on one clip or several against Hugging Face's AST with SDPA, in one process.

    python benchmarks/inference.py [--batch 1 4] [--rounds 7] [--tiny]

needs torch and transformers (the extra `test`). Both have the same random weights, and their
logits are compared before anything is timed. A round times one call of each in turn; the ratio
is the median of the rounds' ratios. With `--dtype int8` theirs computes in bfloat16, which is its
fastest.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent.parent))

from ast_jax.convert.files import to_file_names
from ast_jax.convert.names import params_from_tensors
from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.models.config import ASTConfig

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "max_length": 128}
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "int8": 5e-2}  # of the logits' range


def make_models(fields: dict, dtype: str) -> tuple[Callable, Callable]:
    """Ours and Hugging Face's with the same weights: input values → logits, both NumPy."""
    torch.manual_seed(0)
    their_config = transformers.ASTConfig(**fields, num_labels=527, attn_implementation="sdpa")
    theirs = transformers.ASTForAudioClassification(their_config).eval()
    with torch.no_grad():  # Hugging Face starts tokens and positions at zero
        for name, parameter in theirs.named_parameters():
            if "embeddings" in name:
                parameter.normal_(std=0.3)
    config = ASTConfig.from_dict(their_config.to_dict()).replace(dtype=dtype)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    tensors, layout = to_file_names(tensors, "the random model")
    params, _ = params_from_tensors(tensors, layout, config, "the random model")
    graphdef, params = nnx.split(ASTForAudioClassification.from_params(config, params))
    forward = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x))
    theirs = theirs.to(torch.float32 if dtype == "float32" else torch.bfloat16)

    @torch.inference_mode()
    def run_theirs(x: np.ndarray) -> np.ndarray:
        return theirs(torch.from_numpy(x).to(theirs.dtype)).logits.float().numpy()

    return lambda x: np.asarray(forward(params, x)), run_theirs


def main() -> None:
    """Checks that both agree, times them and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    arguments = parser.parse_args()
    fields = TINY if arguments.tiny else {}
    print(
        f"{jax.devices()[0].device_kind}, {torch.get_num_threads()} torch threads; "
        f"Python {platform.python_version()}, jax {jax.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; {arguments.dtype}"
    )
    ours, theirs = make_models(fields, arguments.dtype)
    rng = np.random.default_rng(0)
    print(f"\n{'batch':>5} {'ours':>9} {'SDPA':>9} {'SDPA / ours (quartiles)':>26}")
    for batch in arguments.batch:
        shape = (batch, fields.get("max_length", 1024), 128)
        x = rng.standard_normal(shape, dtype=np.float32) * 0.5
        expected = theirs(x)
        error = np.abs(ours(x) - expected).max() / np.ptp(expected)
        assert error < TOLERANCE[arguments.dtype], f"logits differ by {error} of their range"
        times = np.empty((arguments.rounds, 2))
        for i in range(arguments.rounds):
            for j, model in enumerate((ours, theirs)):
                start = time.perf_counter()
                model(x)
                times[i, j] = time.perf_counter() - start
        low, middle, high = np.percentile(times[:, 1] / times[:, 0], [25, 50, 75])
        mine, peer = np.median(times, axis=0)
        print(f"{batch:5} {mine:7.3f} s {peer:7.3f} s {middle:12.2f}x ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
