"""The part of `ast-jax evaluate` for lists of events."""

import json as json_module
from pathlib import Path
from typing import Any

from ast_jax.cli.command import naming, print_tables
from ast_jax.errors import print_note


def evaluate_list(
    checkpoint: str, data: str, recordings: str, output: str, json: bool, **options: Any
) -> int:
    """Scores a frame-level checkpoint on a list of events, and prints the result.

    Args:
        checkpoint: the checkpoint.
        data: the list.
        recordings: folder of the recordings; '' for that of the list.
        output: folder to write; '' for none.
        json: whether to print JSON.
        **options: those of `evaluate_events`.
    """
    from ast_jax.evaluation.event_checkpoints import evaluate_events
    from ast_jax.evaluation.event_report import (
        WITHOUT_PSDS,
        events_json,
        events_table,
        write_event_results,
    )

    labels, metrics, results, notes = evaluate_events(checkpoint, data, recordings, **options)
    about = {"data": data, "checkpoint": checkpoint, "recordings": len(results.recordings)}
    content = events_json(labels, metrics, results, about)
    if output:
        with naming(output):
            write_event_results(Path(output), labels, content, results)
    for note in notes:
        print_note(note)
    if "psds1" not in content:
        print_note(WITHOUT_PSDS)
    if json:
        print(json_module.dumps(content, indent=2, allow_nan=False))
        return 0
    print_tables(events_table(content))
    if output:
        print(f"wrote {output}", flush=True)
    return 0
