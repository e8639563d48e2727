"""Evaluates frame-level checkpoints on recordings with strong labels."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.columns import Columns
from ast_jax.data.overlap import overlap_note, read_trained_clips
from ast_jax.data.sources.event_list import read_events
from ast_jax.data.strong_recordings import read_strong_inputs
from ast_jax.errors import InputError
from ast_jax.evaluation.checkpoints import predict_checkpoint
from ast_jax.evaluation.event_metrics import frame_metrics
from ast_jax.evaluation.event_report import EventResults, event_results
from ast_jax.evaluation.metrics import Metrics
from ast_jax.losses import binary_cross_entropy
from ast_jax.storage import fetch


class EventEvaluation(NamedTuple):
    """Metrics of a frame-level checkpoint.

    Attributes:
        labels: class names of the model.
        metrics: of the columns of sound.
        results: of the events.
        notes: sentences about the checkpoint and the recordings.
    """

    labels: list[str]
    metrics: Metrics
    results: EventResults
    notes: list[str]


def evaluate_events(
    path: str,
    file: str,
    folder: str = "",
    *,
    batch_size: int = 32,
    workers: int = 0,
    on_device: bool = False,
    **changes: Any,
) -> EventEvaluation:
    """Evaluates a frame-level checkpoint on a list of events.

    Args:
        path: the checkpoint.
        file: the list, see `read_events`; its classes are some of the model's.
        folder: of the recordings; '' for that of the list.
        batch_size: inputs that the devices compute at once.
        workers: processes that make batches; 0 uses threads.
        on_device: compute log-mels on the accelerator.
        **changes: fields of the checkpoint's `ASTConfig` to change.

    Raises:
        InputError: the checkpoint is clip-level, or it or the recordings cannot be used.
    """
    notes: list[str] = []
    checkpoint = read_checkpoint(path, changes, guesses=notes)
    config, extractor, _ = checkpoint
    notes = [f"{path}: {note}" for note in notes]
    if not config.frame_level:
        raise InputError(
            f"{path}: is clip-level, and {file} lists events; give a frame-level checkpoint, or "
            f"clips with classes"
        )
    events = read_events(fetch(file), fetch(folder) if folder else "")
    columns = Columns.of(config, extractor.sampling_rate)
    clips, found = read_strong_inputs(events, config.labels, columns, "recordings")
    notes += [*events.notes, *(f"{file}: {note}" for note in found)]
    if trained := read_trained_clips(path):
        notes.append(f"{path}: {overlap_note(clips, trained)}")
    outputs = predict_checkpoint(checkpoint, clips, batch_size, workers, on_device, "evaluating")
    logits, targets = clips.scored(outputs), clips.all_targets()
    if not np.isfinite(logits).all():
        raise InputError(f"{path}: the model's output is not finite; use another checkpoint")
    loss = float(binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets)))
    metrics = frame_metrics(logits, targets, loss)
    return EventEvaluation(config.labels, metrics, event_results(outputs, clips), notes)
