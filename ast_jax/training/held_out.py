"""Evaluation on held-out clips during and after training."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ast_jax.data.batches import Batch
from ast_jax.data.clips import Clips
from ast_jax.data.loader import stream
from ast_jax.errors import InputError, first_line
from ast_jax.evaluation.event_metrics import frame_metrics
from ast_jax.evaluation.event_report import event_results
from ast_jax.evaluation.metrics import Metrics, compute_metrics, ranking_scores
from ast_jax.evaluation.predict import predict_batches
from ast_jax.io import atomic_write
from ast_jax.losses import LOSSES, chance_loss, probabilities
from ast_jax.runs.history import History, kept_epochs, write_history
from ast_jax.training.metrics_log import MetricsLog
from ast_jax.training.setup import Run
from ast_jax.training.step import Params, TrainState


def evaluate_epoch(
    run: Run,
    step: int,
    state: TrainState,
    history: History,
    log: MetricsLog,
    stop: Callable[[], bool],
) -> np.ndarray:
    """Evaluates after `step` steps, and appends a row to the history.

    Args:
        run: the run.
        step: the number of steps taken, which ends an epoch.
        state: after that step.
        history: of the earlier evaluations.
        log: has the training loss and speed of the epoch.
        stop: whether the run was asked to stop; called before each batch.

    Returns:
        The logits (clips, classes) of the held-out clips.

    Raises:
        InputError: the logits are not finite, or a file cannot be written.
        KeyboardInterrupt: the run was asked to stop.
    """
    epoch = step // run.length.steps_per_epoch
    logits = predict_clips(run, state.eval_params, run.data.evaluation, stop)
    metrics = score(run, logits, run.data.evaluation)
    log.flush()
    row = {
        "epoch": epoch,
        "training_loss": log.running_loss.mean_loss,
        "learning_rate": log.running_loss.learning_rate,
        "seconds": round(log.running_loss.seconds, 3),
        **metrics._asdict(),
    }
    if run.data.evaluation.strong is not None:
        row |= event_results(logits, run.data.evaluation).summary()
    if run.config.cumulative:
        row |= score_cumulative(run, epoch, history, logits)
    history.append(row)
    log.reset_loss()
    if jax.process_index() == 0:
        chance = None
        if run.overrides.loss is None:
            targets = run.data.evaluation.all_targets()
            chance = chance_loss(run.initial.config.problem_type, targets)
        write_history(run.workdir, history, chance, kept_epochs(run.config, history))
    scores = row.keys() - {"epoch", "learning_rate", "seconds"}
    log.write_scalars(step, {f"evaluation/{name}": row[name] for name in scores})
    log.print_row(row)
    for callback in run.overrides.callbacks:
        callback.on_evaluation(dict(row))  # its own, as it may change it
    return logits


def predict_clips(
    run: Run, params: Params, clips: Clips, stop: Callable[[], bool] = lambda: False
) -> np.ndarray:
    """Returns the logits (clips, classes), on every process.

    Raises:
        KeyboardInterrupt: `stop`, called before each batch, returns True.
    """
    batches = run.evaluation_batches(clips)
    with closing(
        stream(batches, range(len(batches)), run.config.data.workers)
    ) as stream_of_batches:

        def until_stopped() -> Iterator[Batch]:
            for batch in stream_of_batches:
                if stop():
                    raise KeyboardInterrupt
                yield batch

        return predict_batches(
            run.functions.predict, run.parallel, params, until_stopped(), len(clips.waveforms)
        )


def score(run: Run, logits: np.ndarray, clips: Clips) -> Metrics:
    """Computes the metrics of the clips' logits, with the training criterion as the loss.

    Those of a frame-level model count its columns: its loss is that of the sounds, without padding.

    Raises:
        InputError: the logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise InputError(
            "the model's output is not finite: training diverged; lower "
            "optimizer.learning_rate, and give another workdir"
        )
    logits, targets = clips.scored(logits), clips.all_targets()
    criterion = run.overrides.loss or LOSSES[run.config.loss]
    loss = float(criterion(jnp.asarray(logits), jnp.asarray(targets)))
    if clips.strong is not None:
        return frame_metrics(logits, targets, loss)
    return compute_metrics(ranking_scores(run.initial.config.problem_type, logits), targets, loss)


def score_cumulative(
    run: Run, epoch: int, history: History, logits: np.ndarray
) -> dict[str, float | None]:
    """Computes the metrics of the mean prediction of this epoch and of those in the history.

    The original's cumulative ensemble (src/traintest.py). The first process keeps the predictions
    of each evaluation in the run's folder; the others return nothing.
    """
    if jax.process_index():
        return {}
    folder = run.workdir / "predictions"
    clips = run.data.evaluation
    predictions = probabilities(run.initial.config.problem_type, clips.scored(logits))
    file = folder / f"epoch-{epoch}.npy"
    with atomic_write(file, replace=True) as temporary, temporary.open("wb") as out:
        np.save(out, predictions)
    total = predictions.astype(np.float64)
    for row in history:
        total += _read_predictions(folder / f"epoch-{row['epoch']}.npy", total.shape)
    metrics = compute_metrics(total, clips.all_targets(), loss=0.0)
    return {
        f"cumulative_{name}": getattr(metrics, name)
        for name in ("mean_average_precision", "mean_auc", "accuracy")
    }


def _read_predictions(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads the predictions of an earlier evaluation.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        predictions = np.load(file, mmap_mode="r")  # a false shape takes no memory
    except (OSError, ValueError, EOFError) as error:
        reason = first_line(error)
    else:
        if predictions.shape == shape:
            return predictions
        reason = f"it has the shape {predictions.shape} instead of {shape}"
    raise InputError(
        f"{file}: cannot be read ({reason}); restore it from a copy, or remove history.json beside "
        f"its folder to go on without the earlier evaluations"
    )
