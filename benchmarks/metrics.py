"""Times the per-class metrics against the original AST's loop over scikit-learn.

    python benchmarks/metrics.py

The scores have the size of an AudioSet evaluation: 19,185 clips with about two labels each and 527
classes, most of which have a few dozen clips. Each round times all implementations in turn; the
printed ratio is the median of the rounds' ratios.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
from common import cpu_name, quartiles, versions
from sklearn import metrics as sklearn_metrics

sys.path.insert(0, str(Path(__file__).parent.parent))

from ast_jax.evaluation.metrics import per_class_metrics

TOLERANCE = 1e-9


def make_scores(clips: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities and targets, float32 (clips, classes).

    No class has all clips or none, as scikit-learn has no ROC curve for such a class.
    """
    rng = np.random.default_rng(0)
    frequencies = 1 / np.arange(1, classes + 1)
    labels = rng.choice(classes, (clips, 2), p=frequencies / frequencies.sum())
    targets = np.zeros((clips, classes), np.float32)
    targets[np.arange(clips)[:, None], labels] = 1
    targets[np.arange(classes), np.arange(classes)] = 1
    targets[-1] = 0
    logits = rng.normal(-7, 2, targets.shape) + targets * rng.uniform(1, 8, classes)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), targets


def areas(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns scikit-learn's average precision and area under the ROC curve of each class."""
    precisions, aucs = [], []
    for k in range(targets.shape[1]):
        target, score = targets[:, k], scores[:, k]
        precisions.append(sklearn_metrics.average_precision_score(target, score, average=None))
        aucs.append(sklearn_metrics.roc_auc_score(target, score, average=None))
    return np.array(precisions), np.array(aucs)


def original(scores: np.ndarray, targets: np.ndarray) -> None:
    """Computes the areas and both curves, as the original's `src/utilities/stats.py` does."""
    areas(scores, targets)
    for k in range(targets.shape[1]):
        sklearn_metrics.precision_recall_curve(targets[:, k], scores[:, k])
        sklearn_metrics.roc_curve(targets[:, k], scores[:, k])


def main() -> None:
    """Checks that all implementations agree, times them and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=19185, help="more than --classes")
    parser.add_argument("--classes", type=int, default=527)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{cpu_name()}; {os.cpu_count()} cores; Python {platform.python_version()}")
    print(versions(["numpy", "scipy", "scikit-learn"]))

    scores, targets = make_scores(arguments.clips, arguments.classes)
    expected = areas(scores, targets)
    found = per_class_metrics(scores, targets)
    errors = [
        np.abs(ours - theirs).max()
        for ours, theirs in zip((found.average_precision, found.auc), expected, strict=True)
    ]
    print(f"they agree: AP to {errors[0]:.0e}, AUC to {errors[1]:.0e}, in every class")
    assert max(errors) <= TOLERANCE, "our metrics differ from scikit-learn's"

    contenders = {
        "the original's loop": original,
        "the same without the curves": areas,
        "ours": per_class_metrics,
    }
    times = {name: np.empty(arguments.rounds) for name in contenders}
    for i in range(arguments.rounds):
        for name, compute in contenders.items():
            start = time.perf_counter()
            compute(scores, targets)
            times[name][i] = time.perf_counter() - start

    print(
        f"\n{f'{arguments.clips} clips, {arguments.classes} classes':30} {'median':>10}"
        f" {'speed-up (quartiles)':>26}"
    )
    for name, seconds in times.items():
        speed_up = quartiles(times["the original's loop"] / seconds, "x")
        print(f"{name:30} {np.median(seconds):8.3f} s {speed_up:>26}")


if __name__ == "__main__":
    main()
