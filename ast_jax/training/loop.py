"""A run from its configuration to a trained checkpoint."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ast_jax.audio.augment import roll, spec_augment
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint import Checkpoint, describe
from ast_jax.config import TrainConfig
from ast_jax.data.clips import DataSet
from ast_jax.data.datasets import load_data, log_mel_statistics
from ast_jax.data.order import steps_per_epoch
from ast_jax.data.pipeline import Batch, evaluation_batches, train_batches
from ast_jax.data.synthetic import write_unseen
from ast_jax.errors import InputError
from ast_jax.inference.load import read_checkpoint
from ast_jax.models.ast import graphdef, init_params
from ast_jax.training import report, step
from ast_jax.training.checkpoint import Progress, RunCheckpoints, check_workdir, claim_workdir
from ast_jax.training.metrics import Scores, confusion_matrix, evaluate_scores
from ast_jax.training.optimizer import make_optimizer
from ast_jax.training.parallel import DataParallel
from ast_jax.training.progress import EpochBar

LOSSES = {
    "cross_entropy": step.cross_entropy,
    "binary_cross_entropy": step.binary_cross_entropy,
}


def fit(config: TrainConfig) -> Scores:
    """Trains as `config` says, or goes on with a run that was cut off.

    `workdir` then holds `checkpoints/`, which `ast_jax.load(workdir)` takes, `history.json`,
    `loss.png` and `confusion.png`.

    Returns:
        The metrics of the held-out clips after the last epoch.

    Raises:
        InputError: a field, a recording or the folder cannot be used, or the loss diverged.
    """
    config.validate()
    console = Console(soft_wrap=True)
    parallel = DataParallel(config.parallel)
    parallel.check_batch(config.batch_size)
    workdir = check_workdir(config)
    data = load_data(config)
    if len(data.train.waveforms) < config.batch_size:
        raise InputError(
            f"batch_size is {config.batch_size} and there are {len(data.train.waveforms)} "
            f"training clips; lower --config.batch_size"
        )
    start = initial_checkpoint(config, data)
    extractor = start.feature_extractor
    console.print(
        f"{len(data.train.waveforms)} clips to train on, {len(data.evaluation.waveforms)} held "
        f"out, {len(data.labels)} classes; {_size(start.params):,} parameters, "
        f"{start.config.num_tokens} tokens; {len(parallel.devices)} {jax.default_backend()} devices"
    )

    epoch_steps = steps_per_epoch(len(data.train.waveforms), config.batch_size)
    num_steps = epoch_steps * config.num_epochs
    optimizer = make_optimizer(config.optimizer, num_steps)
    graph, loss = graphdef(start.config), LOSSES[config.loss]
    gradient_fn = step.make_gradient_fn(graph, loss, make_augment(config, extractor))
    train_step = parallel.map(
        step.make_train_step(gradient_fn, optimizer, jax.random.key(config.seed)),
        split=(False, True),
        donate=(0,),
    )
    predict = parallel.map(step.make_predict(graph), split=(False, True), split_result=True)

    def evaluate(params: step.Params) -> tuple[Scores, np.ndarray]:
        batches = evaluation_batches(data.evaluation, extractor, config.batch_size)
        logits = predict_all(predict, params, batches, parallel)
        targets = data.evaluation.targets
        return evaluate_scores(
            logits, targets, float(loss(jnp.asarray(logits), jnp.asarray(targets)))
        ), logits

    claim_workdir(workdir, config)
    state = parallel.replicate(step.init_state(start.params, optimizer))
    checkpoints = RunCheckpoints(workdir, describe(start.config, extractor))
    state, progress = checkpoints.restore(state)
    if progress.epochs:
        console.print(f"going on after epoch {progress.epochs}")
    batches = train_batches(
        data.train,
        extractor,
        seed=config.seed,
        first_step=int(state.step),
        last_step=num_steps,
        batch_size=config.batch_size,
        mixup=config.augment.mixup,
    )
    losses: list[float] = []
    with EpochBar(console, config.num_epochs) as bar:
        for epoch in range(progress.epochs + 1, config.num_epochs + 1):
            bar.start(epoch, epoch_steps)
            state, epoch_losses = run_steps(
                train_step,
                state,
                islice(batches, epoch_steps),
                parallel,
                lambda loss: bar.step(loss, config.batch_size),
            )
            losses += epoch_losses
            rate = bar.end()
            if epoch % config.evaluate_every == 0 or epoch == config.num_epochs:
                scores, _ = evaluate(state.params)
                row = {"epoch": epoch, "training_loss": float(np.mean(losses)), **scores._asdict()}
                progress = Progress(epoch, [*progress.history, row])
                losses = []
                checkpoints.save(state, progress)
                console.print(
                    f"epoch {epoch}/{config.num_epochs}: training loss "
                    f"{row['training_loss']:.4f}, held out: loss {scores.loss:.4f}, accuracy "
                    f"{scores.accuracy:.1%}, mAP {scores.mean_average_precision:.3f} "
                    f"({rate:.1f} clips/s)"
                )
    checkpoints.close()
    scores, logits = evaluate(state.params)
    write_report(workdir, config, data, progress.history, logits, console)
    return scores


def initial_checkpoint(config: TrainConfig, data: DataSet) -> Checkpoint:
    """What training starts from: random parameters, or `init_from` with the data's classes."""
    model, frontend = config.model, config.frontend
    mean, std = frontend.mean, frontend.std
    if mean is None or std is None:
        mean, std = log_mel_statistics(data.train, frontend.sampling_rate, model.num_mel_bins)
    extractor = ASTFeatureExtractor(
        sampling_rate=frontend.sampling_rate,
        num_mel_bins=model.num_mel_bins,
        max_length=model.max_length,
        mean=mean,
        std=std,
    )
    kind = "single" if config.loss == "cross_entropy" else "multi"
    changes: dict[str, Any] = {
        "id2label": dict(enumerate(data.labels)),
        "num_labels": len(data.labels),
        "problem_type": f"{kind}_label_classification",
    }
    if not config.init_from:
        model = model.replace(**changes)
        return Checkpoint(model, extractor, init_params(model, config.seed))
    for name in ("frequency_stride", "time_stride", "max_length", "num_mel_bins", "dtype"):
        changes[name] = getattr(model, name)
    source = read_checkpoint(config.init_from, head_seed=config.seed, **changes)
    return source._replace(feature_extractor=extractor)


def make_augment(config: TrainConfig, extractor: ASTFeatureExtractor) -> step.Augment:
    """The configuration's augmentation as a function of (key, input values)."""

    def augment(key: jax.Array, input_values: jax.Array) -> jax.Array:
        mask_key, roll_key = jax.random.split(key)
        masked = spec_augment(
            mask_key,
            input_values,
            frequency_mask=config.augment.frequency_mask,
            time_mask=config.augment.time_mask,
            fill=-extractor.mean / (2 * extractor.std),
        )
        return roll(roll_key, masked, config.augment.roll)

    return augment


def run_steps(
    train_step: Callable,
    state: step.TrainState,
    batches: Iterable[Batch],
    parallel: DataParallel,
    on_loss: Callable[[float], None],
) -> tuple[step.TrainState, list[float]]:
    """Takes a step for each batch and tells `on_loss` of each step's loss, as it returns them.

    A loss is read once the next step is under way, so that the devices need not wait.

    Raises:
        InputError: a loss is not a finite number.
    """
    losses: list[float] = []

    def read(pending: jax.Array) -> None:
        losses.append(float(pending))
        if not math.isfinite(losses[-1]):
            raise InputError(
                f"the loss is {losses[-1]} after {len(losses)} steps of this epoch; lower "
                f"--config.optimizer.learning_rate"
            )
        on_loss(losses[-1])

    pending = None
    for batch in batches:
        state, loss = train_step(state, parallel.put(batch))
        if pending is not None:
            read(pending)
        pending = loss
    if pending is not None:
        read(pending)
    return state, losses


def predict_all(
    predict: Callable, params: step.Params, batches: Iterator[Batch], parallel: DataParallel
) -> np.ndarray:
    """Logits (clips, classes) of evaluation batches, without the clips that fill up the last."""
    logits = []
    for batch in batches:
        values = np.asarray(predict(params, parallel.put(batch["input_values"])))
        logits.append(values[batch["mask"] > 0])
    return np.concatenate(logits)


def write_report(
    workdir: Path,
    config: TrainConfig,
    data: DataSet,
    history: report.History,
    logits: np.ndarray,
    console: Console,
) -> None:
    """Prints the results and writes them to the run's folder, with two pictures."""
    (workdir / "history.json").write_text(json.dumps(history, indent=2) + "\n", encoding="utf-8")
    report.print_table(console, history)
    report.draw_loss(history, workdir / "loss.png")
    matrix = confusion_matrix(logits, data.evaluation.targets)
    report.draw_confusion(matrix, data.labels, workdir / "confusion.png")
    sounds = "FILE..."
    if config.data.kind == "synthetic":
        write_unseen(workdir / "unseen", config.seed)
        sounds = f"{config.workdir}/unseen/*.wav"
    console.print(f"loss.png, confusion.png and checkpoints are in {config.workdir}")
    console.print(f"to use it: ast-jax classify {sounds} --checkpoint {config.workdir}")


def _size(params: step.Params) -> int:
    return sum(array.size for array in jax.tree.leaves(params))
