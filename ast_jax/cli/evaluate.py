"""`ast-jax evaluate`: scores checkpoints on labeled sounds."""

import argparse
import json
import sys
from pathlib import Path

from ast_jax.cli.command import add_dtype, dtype_change, non_negative, positive, print_escaped
from ast_jax.io import check_free
from ast_jax.storage import check_local


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `ast-jax evaluate`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="as for classify; several are scored as an ensemble too",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="a prepared set, the --output of prepare, or a folder with one folder per class",
    )
    parser.add_argument("--name", default="", help="the kind of source, if DIR holds several sets")
    parser.add_argument(
        "--split", default="", help="such as eval or validation+test (the held-out split)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="clips per batch (32)"
    )
    parser.add_argument(
        "--workers", type=non_negative, default=0, metavar="N", help="processes for batches (0)"
    )
    add_dtype(parser)
    parser.add_argument(
        "--on-device", action="store_true", help="compute log-mels on the accelerator"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="a new folder for scores, per-class scores and predictions"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, subject=lambda arguments: arguments.output or arguments.data)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates checkpoints, prints a table or JSON, and writes the results to `--output`."""
    from rich.console import Console

    from ast_jax.cli.compilation_cache import enable_compilation_cache
    from ast_jax.evaluation.checkpoints import evaluate_checkpoints
    from ast_jax.evaluation.report import results_json, results_table, write_results

    if arguments.output:
        check_local(arguments.output)
        check_free(Path(arguments.output))
    enable_compilation_cache()
    results = evaluate_checkpoints(
        arguments.checkpoints,
        arguments.data,
        name=arguments.name,
        split=arguments.split,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        on_device=arguments.on_device,
        **dtype_change(arguments),
    )
    if arguments.output:  # before printing, as the reader of a pipe may close it
        write_results(arguments.output, results)
    for path in results.unnamed:
        print(
            f"note: {path} does not name its classes; the order of the data's classes is used",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps(results_json(results), indent=2, allow_nan=False))
        return
    console = Console()
    with console.capture() as table:
        console.print(results_table(results))
    print_escaped(table.get().rstrip("\n"))
    if arguments.output:
        print_escaped(f"wrote {arguments.output}")
