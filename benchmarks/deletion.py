"""Deletes patches in the order of their relevance: the score falls faster than at random.

    python benchmarks/deletion.py --checkpoint runs/esc10 --data ESC-50-master --fold 1

Patches of each recording are replaced by the mean of its log-mel, a twentieth of them at a time,
most relevant first. The table has the area under the curve of the predicted class's probability,
averaged over recordings: lower is better. "loudest first" needs no model, "random" is the mean of
several orders. After ± is the standard error of the mean; differences from random are paired by
recording.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import ast_jax
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.explain import Explanation
from ast_jax.models.config import ASTConfig

STEPS = 20


def delete_patches(
    input_values: np.ndarray, order: np.ndarray, counts: np.ndarray, config: ASTConfig, fill: float
) -> np.ndarray:
    """Returns copies of an input without the first patches of an order, one for each count.

    Args:
        input_values: (max_length, mel_bins).
        order: indices into the grid of patches, frequency-major.
        counts: how many patches to replace, rising.
        config: of the model.
        fill: the value that replaces them.
    """
    copies = np.repeat(input_values[None], len(counts), axis=0)
    for i, patch in enumerate(order):
        row, column = divmod(int(patch), config.grid[1])
        frame, mel_bin = column * config.time_stride, row * config.frequency_stride
        size = config.patch_size
        copies[counts > i, frame : frame + size, mel_bin : mel_bin + size] = fill
    return copies


def deletion_curve(
    classifier: AudioClassifier,
    input_values: np.ndarray,
    order: np.ndarray,
    index: int,
    fill: float,
    steps: int = STEPS,
) -> np.ndarray:
    """Returns the probabilities (steps + 1,) of a class as patches are deleted in an order."""
    counts = np.linspace(0, len(order), steps + 1).round().astype(int)
    inputs = delete_patches(input_values, order, counts, classifier.config, fill)
    return np.asarray(classifier.probabilities(inputs))[:, index]


def area(curve: np.ndarray) -> float:
    """Returns the area under a curve from 0 to 1, by the trapezoidal rule."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


def order_of(values: np.ndarray, explanation: Explanation) -> np.ndarray:
    """Returns the patches of the sound, those with the highest of (rows, columns) values first."""
    patches = np.arange(values.size).reshape(values.shape)[:, : explanation.num_columns].ravel()
    return patches[np.argsort(-values.ravel()[patches], kind="stable")]


def loudness(explanation: Explanation) -> np.ndarray:
    """Returns the mean log-mel of each patch, (rows, columns)."""
    config, log_mel = explanation.config, explanation.log_mel
    size = config.patch_size
    return np.array(
        [
            [
                log_mel[
                    column * config.time_stride : column * config.time_stride + size,
                    row * config.frequency_stride : row * config.frequency_stride + size,
                ].mean()
                if column < explanation.num_columns
                else -np.inf
                for column in range(config.grid[1])
            ]
            for row in range(config.grid[0])
        ]
    )


def areas(
    classifier: AudioClassifier, sound: str | Path, rng: np.random.Generator, random_orders: int
) -> dict[str, float]:
    """Returns the area under the predicted class's curve for each way to order the patches."""
    relevance = classifier.explain(sound, top_k=1, method="relevance")
    rollout = classifier.explain(sound, top_k=1, method="rollout")
    input_values = classifier.preprocess(sound)
    index = classifier.labels.index(relevance.labels[0])
    fill = float(input_values[: len(relevance.log_mel)].mean())
    orders = {
        "relevance": order_of(relevance.maps[0], relevance),
        "rollout": order_of(rollout.maps, rollout),
        "loudest first": order_of(loudness(relevance), relevance),
    }
    found = {
        name: area(deletion_curve(classifier, input_values, order, index, fill))
        for name, order in orders.items()
    }
    shuffled = [rng.permutation(orders["relevance"]) for _ in range(random_orders)]
    found["random"] = float(
        np.mean(
            [
                area(deletion_curve(classifier, input_values, order, index, fill))
                for order in shuffled
            ]
        )
    )
    return found


def main() -> None:
    """Prints the table for the recordings of a fold of ESC-50 or ESC-10."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="in the layout of the ESC-50 repository")
    parser.add_argument("--fold", default="1", help="that the checkpoint was not trained on")
    parser.add_argument("--clips", type=int, default=80)
    parser.add_argument("--random-orders", type=int, default=5)
    arguments = parser.parse_args()
    classifier = ast_jax.load(arguments.checkpoint)
    folder = Path(arguments.data)
    with open(folder / "meta" / "esc50.csv", encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["fold"] == arguments.fold]
    rng = np.random.default_rng(0)
    found = [
        areas(classifier, folder / "audio" / row["filename"], rng, arguments.random_orders)
        for row in rows[: arguments.clips]
    ]
    print(f"{len(found)} recordings, {STEPS} steps\n")
    print("| order | area | minus random | recordings with less than random |")
    print("| --- | --- | --- | --- |")
    random = np.array([each["random"] for each in found])
    for name in found[0]:
        values = np.array([each[name] for each in found])
        difference = values - random
        error = difference.std(ddof=1) / len(found) ** 0.5
        text = "–" if name == "random" else f"{difference.mean():+.3f} ± {error:.3f}"
        share = "–" if name == "random" else f"{(difference < 0).mean():.0%}"
        print(f"| {name} | {values.mean():.3f} | {text} | {share} |")


if __name__ == "__main__":
    main()
