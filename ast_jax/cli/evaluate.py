"""`ast-jax evaluate`: scores checkpoints on labeled sounds."""

import json as json_module
from pathlib import Path
from typing import Annotated

import tyro

from ast_jax.cli.arguments import Dtype, NonNegative, Positive, check_given, dtype_change
from ast_jax.cli.command import naming
from ast_jax.errors import print_note
from ast_jax.io import check_free
from ast_jax.urls import check_local


def evaluate(
    checkpoints: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT ...")
    ],
    *,
    data: str,
    name: str = "",
    split: str = "",
    batch_size: Positive = 32,
    workers: NonNegative = 0,
    dtype: Dtype = None,
    on_device: bool = False,
    output: str = "",
    json: bool = False,
) -> int:
    """Score checkpoints, and their ensemble, on labeled sounds.

    Args:
        checkpoints: as for classify; several are scored as an ensemble too
        data: a prepared set, the --output of prepare, or a folder with one folder per class
        name: the kind of source, if DATA holds several sets
        split: such as eval or validation+test; the held-out split if empty
        batch_size: clips per batch
        workers: processes for batches
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        on_device: compute log-mels on the accelerator
        output: a new folder for scores, per-class scores and predictions
        json: print JSON
    """
    from rich.console import Console

    from ast_jax.cli.compilation_cache import enable_compilation_cache
    from ast_jax.evaluation.checkpoints import evaluate_checkpoints
    from ast_jax.evaluation.report import results_json, results_table, write_results

    check_given(data=data)
    if output:
        check_local(output)
        check_free(Path(output))
    enable_compilation_cache()
    results = evaluate_checkpoints(
        checkpoints,
        data,
        name=name,
        split=split,
        batch_size=batch_size,
        workers=workers,
        on_device=on_device,
        **dtype_change(dtype),
    )
    if output:  # before printing, as the reader of a pipe may close it
        with naming(output):
            write_results(output, results)
    for path, guesses in results.guesses.items():
        for guess in guesses:
            print_note(f"{path}: {guess}")
    for note in results.data.notes:
        print_note(note)
    for path, note in results.trained.items():
        print_note(f"{path}: {note}")
    for path in results.unnamed:
        print_note(f"{path} does not name its classes; the order of the data's classes is used")
    if json:
        print(json_module.dumps(results_json(results), indent=2, allow_nan=False))
        return 0
    console = Console()
    with console.capture() as table:
        console.print(results_table(results))
    print(table.get().rstrip("\n"), flush=True)
    if output:
        print(f"wrote {output}", flush=True)
    return 0
