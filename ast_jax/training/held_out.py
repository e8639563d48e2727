"""How good a run's parameters are on clips that are held out."""

from collections.abc import Callable, Iterator
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np

from ast_jax.data.batches import Batch
from ast_jax.data.clips import Clips
from ast_jax.data.loader import stream
from ast_jax.errors import InputError
from ast_jax.evaluation.metrics import Metrics, compute_metrics
from ast_jax.io import atomic_write
from ast_jax.runs.plots import History
from ast_jax.training import step
from ast_jax.training.setup import Run, evaluation_batches


def predict_all(
    run: Run, params: step.Params, clips: Clips, stop: Callable[[], bool] = lambda: False
) -> np.ndarray:
    """Logits (clips, classes), on every process.

    Raises:
        KeyboardInterrupt: `stop`, asked before each batch, says so.
    """
    batches = evaluation_batches(run.config, clips, run.start.feature_extractor)
    with closing(stream(batches, range(len(batches)), run.config.data.workers)) as made:

        def until_stopped() -> Iterator[Batch]:
            for batch in made:
                if stop():
                    raise KeyboardInterrupt
                yield batch

        return predict_batches(
            run.compiled.predict, run.parallel, params, until_stopped(), len(clips.waveforms)
        )


def score(run: Run, logits: np.ndarray, clips: Clips) -> Metrics:
    """The metrics of (clips, classes) logits, with the training criterion as the loss.

    Raises:
        InputError: the logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise InputError(
            "the model's output is not finite: training diverged; lower "
            "--config.optimizer.learning_rate, and give another --config.workdir"
        )
    targets = clips.all_targets()
    loss = float(run.compiled.loss(jnp.asarray(logits), jnp.asarray(targets)))
    return compute_metrics(logits, targets, loss)


def cumulative_scores(
    run: Run, epoch: int, history: History, logits: np.ndarray
) -> dict[str, float | None]:
    """Metrics of the mean prediction of this epoch and those in the history before it.

    The original's cumulative ensemble (src/traintest.py). Each evaluation's predictions are
    kept in the run's folder; only the first process has them, and the others get nothing.
    """
    if jax.process_index():
        return {}
    folder = run.workdir / "predictions"
    folder.mkdir(exist_ok=True)
    probabilities = step.probabilities(run.start.config.problem_type, logits)
    with (
        atomic_write(folder / f"epoch-{epoch}.npy", replace=True) as place,
        place.open("wb") as file,
    ):
        np.save(file, probabilities)
    total = probabilities.astype(np.float64)
    for row in history:
        total += np.load(folder / f"epoch-{row['epoch']}.npy")
    scores = compute_metrics(total, run.data.evaluation.all_targets(), loss=0.0)
    return {
        f"cumulative_{name}": getattr(scores, name)
        for name in ("mean_average_precision", "mean_auc", "accuracy")
    }
