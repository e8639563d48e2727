"""`ast-jax evaluate`: scores checkpoints on labeled sounds."""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ast_jax.cli.arguments import (
    Dtype,
    MaskPadding,
    NonNegative,
    Positive,
    check_given,
    dtype_change,
    mask_change,
)
from ast_jax.cli.command import naming, print_tables
from ast_jax.errors import InputError, print_note
from ast_jax.io import check_free
from ast_jax.urls import check_local

if TYPE_CHECKING:
    from ast_jax.evaluation.checkpoints import Results
    from ast_jax.evaluation.tuning import Tuned


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
    mask_padding: MaskPadding = None,
    on_device: bool = False,
    thresholds: str = "",
    tuning_split: str = "",
    min_precision: float | None = None,
    calibration: Literal["temperature", "platt"] | None = None,
    output: str = "",
    json: bool = False,
    recordings: str = "",
) -> int:
    """Score checkpoints, and their ensemble, on labeled sounds.

    Args:
        checkpoints: as for classify; several are scored as an ensemble too
        data: a prepared set, the --output of prepare, a folder with one folder per class, or one in
            the layout of ESC-50 or UrbanSound8K; for a frame-level checkpoint a CSV or TSV of
            events: filename, start, end, label
        name: the kind of source, if DATA holds several sets
        split: such as eval or validation+test; the held-out split if empty
        batch_size: clips per batch
        workers: processes for batches
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        mask_padding: mask the padding of short clips (as the checkpoint was trained)
        on_device: compute log-mels on the accelerator
        thresholds: a new .json for a threshold per class, of one checkpoint
        tuning_split: the split to choose them on; if empty SPLIT, by five-fold cross-fitting
        min_precision: choose the lowest threshold of this precision (the one of the best F1)
        calibration: fit the probabilities to frequencies before; platt is for multi-label models
        output: a new folder for scores, per-class scores and predictions
        json: print JSON
        recordings: the folder of the recordings that a list of events names; the list's if empty
    """
    from ast_jax.cli.compilation_cache import enable_compilation_cache
    from ast_jax.cli.evaluate_events import evaluate_list
    from ast_jax.data.sources.event_list import is_event_list
    from ast_jax.evaluation.checkpoints import evaluate_checkpoints
    from ast_jax.evaluation.report import results_json, results_table, write_results
    from ast_jax.evaluation.tuning import TuningOptions, tune
    from ast_jax.evaluation.tuning_report import tuning_tables
    from ast_jax.models.config import ASTConfig

    check_given(data=data)
    for path in filter(None, (output, thresholds)):
        check_local(path)
        check_free(Path(path))
    if is_event_list(Path(data)):
        others = (name, split, thresholds, tuning_split, min_precision, calibration)
        if len(checkpoints) != 1 or any(others):
            raise InputError(
                f"{data}: is a list of events, which goes with one checkpoint and without --split, "
                f"--name, --thresholds and their options"
            )
        settings = {"batch_size": batch_size, "workers": workers, "on_device": on_device}
        enable_compilation_cache()
        return evaluate_list(
            checkpoints[0], data, recordings, output, json, **settings, **dtype_change(dtype)
        )
    if recordings:
        raise InputError(f"--recordings is for a list of events, and {data} is none; leave it out")
    options = TuningOptions(min_precision, calibration)
    if thresholds:
        if Path(thresholds).suffix.lower() != ".json":
            raise InputError(f"{thresholds}: does not end in .json; choose a name that does")
        if len(checkpoints) != 1:
            raise InputError("--thresholds are those of one checkpoint; give one")
        options.check(ASTConfig.from_pretrained(checkpoints[0]).problem_type)
    elif tuning_split or options != TuningOptions():
        raise InputError(
            "--tuning-split, --min-precision and --calibration are for --thresholds; name its file"
        )
    enable_compilation_cache()
    results = evaluate_checkpoints(
        checkpoints,
        data,
        name=name,
        split=split,
        tuning_split=tuning_split,
        batch_size=batch_size,
        workers=workers,
        on_device=on_device,
        **dtype_change(dtype),
        **mask_change(mask_padding),
    )
    tuned = tune(results, options) if thresholds else None
    if output:  # before printing, as the reader of a pipe may close it
        with naming(output):
            write_results(output, results, tuned)
    if tuned:
        tuned.thresholds.write(thresholds)
    _print_notes(results, tuned)
    if json:
        print(json_module.dumps(results_json(results, tuned), indent=2, allow_nan=False))
        return 0
    print_tables(results_table(results), *(tuning_tables(results, tuned) if tuned else ()))
    for path in filter(None, (output, thresholds)):
        print(f"wrote {path}", flush=True)
    return 0


def _print_notes(results: "Results", tuned: "Tuned | None") -> None:
    """Prints what is unusual in the checkpoints, the data and the thresholds."""
    for path, guesses in results.guesses.items():
        for guess in guesses:
            print_note(f"{path}: {guess}")
    for note in results.data.notes:
        print_note(note)
    for path, note in results.trained.items():
        print_note(f"{path}: {note}")
    if results.tuning:
        for path, note in results.tuning.trained.items():
            print_note(f"{path}, {results.tuning.data.split}: {note}")
    for path in results.unnamed:
        print_note(f"{path} does not name its classes; the order of the data's classes is used")
    for note in tuned.notes if tuned else ():
        print_note(note)
