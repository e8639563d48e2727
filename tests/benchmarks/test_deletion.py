"""Relevance finds the patches that a class depends on; deleting them lowers its score fastest.

A small model learns two patterns, each in one patch of a clip or nowhere. A third, louder patch is
of no class. So the patch that each class depends on is known.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
import soundfile
from flax import nnx

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.config import ASTConfig

CONFIG = ASTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    patch_size=8,
    frequency_stride=8,
    time_stride=8,
    max_length=64,
    num_mel_bins=16,
    num_labels=2,
    id2label={0: "horizontal", 1: "vertical"},
    problem_type="multi_label_classification",
)
STRIPES = np.where(np.arange(8) % 4 < 2, 1.0, -1.0)
PATTERNS = (np.tile(STRIPES[:, None], 8), np.tile(STRIPES, (8, 1)), np.full((8, 8), 2.0))


class Clips(NamedTuple):
    """Model inputs (clips, frames, mel bins), their classes and the patches of the patterns."""

    inputs: np.ndarray
    targets: np.ndarray
    patches: np.ndarray


def make_clips(number, rng, targets=None):
    if targets is None:
        targets = rng.integers(0, 2, (number, 2))
    rows, columns = CONFIG.grid
    grid = 0.3 * rng.standard_normal((number, rows, columns, 8, 8))  # … mel bins, frames
    patches = np.stack([rng.permutation(rows * columns)[:3] for _ in range(number)])
    for i in range(number):
        for pattern, patch, present in zip(PATTERNS, patches[i], [*targets[i], 1], strict=True):
            grid[i, patch // columns, patch % columns] += present * pattern
    inputs = grid.transpose(0, 2, 4, 1, 3).reshape(number, 64, 16)
    return Clips(inputs.astype(np.float32), targets.astype(np.float32), patches)


@pytest.fixture(scope="module")
def classifier():
    """Returns the trained model."""
    graph, params = graphdef(CONFIG), init_params(CONFIG)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state, inputs, targets):
        def loss(params):
            logits = nnx.merge(graph, params)(inputs)
            return optax.sigmoid_binary_cross_entropy(logits, targets).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    rng, state = np.random.default_rng(0), optimizer.init(params)
    for _ in range(120):
        clips = make_clips(64, rng)
        params, state, value = step(params, state, clips.inputs, clips.targets)
    assert value < 0.05
    extractor = ASTFeatureExtractor(max_length=64, num_mel_bins=16)
    return AudioClassifier(Checkpoint(CONFIG, extractor, params))


@pytest.fixture(scope="module")
def both():
    """Returns clips with both patterns, which the model was not trained on."""
    return make_clips(20, np.random.default_rng(1), np.ones((20, 2)))


@pytest.fixture(scope="module")
def explain(classifier):
    def explain(inputs, method):
        return next(classifier.explain_inputs([inputs], classifier.labels, method=method))

    return explain


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks" / "deletion.py")


def test_the_most_relevant_patch_has_the_pattern_of_the_class(explain, both):
    found = [explain(each, "relevance").maps.reshape(2, -1).argmax(1) for each in both.inputs]
    right = np.array(found) == both.patches[:, :2]
    assert right.mean(axis=0).min() >= 0.9


def test_rollout_finds_the_patterns_but_not_their_class(explain, both):
    best = [np.argsort(-explain(each, "rollout").maps.ravel())[:2] for each in both.inputs]
    found = [len({*two} & {*patches[:2]}) for two, patches in zip(best, both.patches, strict=True)]
    assert np.mean(found) >= 1.6


def test_deleting_relevant_patches_lowers_the_score_faster_than_random_ones(
    classifier, explain, both, script
):
    rng = np.random.default_rng(2)
    found, random = [], []
    for inputs in both.inputs:
        explanation = explain(inputs, "relevance")
        for index in range(2):
            order = script.order_of(explanation.maps[index], explanation)
            for orders, areas in ((order, found), (rng.permutation(order), random)):
                curve = script.deletion_curve(classifier, inputs, orders, index, 0.0, steps=16)
                assert curve[0] > 0.9
                assert curve[-1] < 0.2
                areas.append(script.area(curve))
    assert np.mean(found) < 0.15 < 0.3 < np.mean(random)


def test_deleted_patches_have_the_fill_and_others_are_unchanged(script):
    config = CONFIG.replace(frequency_stride=4, time_stride=4)  # overlapping
    inputs = np.ones((64, 16), np.float32)
    rows, columns = config.grid
    order = np.array([columns + 2, 0])  # the second row from 4 to 12 mel bins, then the corner
    none, one, two = script.delete_patches(inputs, order, np.arange(3), config, 5.0)
    assert (none == 1).all()
    expected = np.ones((64, 16))
    expected[8:16, 4:12] = 5
    np.testing.assert_array_equal(one, expected)
    expected[:8, :8] = 5
    np.testing.assert_array_equal(two, expected)
    (every,) = script.delete_patches(inputs, np.arange(rows * columns), np.array([45]), config, 5.0)
    assert rows * columns == 45
    assert (every == 5).all()


def test_the_area_of_a_curve_is_that_of_its_line(script):
    assert script.area(np.array([1.0, 0.5, 0.0])) == 0.5
    assert script.area(np.array([1.0, 0.0, 0.0])) == 0.25


def test_prints_a_table_for_a_fold(classifier, script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script.ast_jax, "load", {"model": classifier}.get)
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    rows = ["filename,fold,target,category"]
    for i, samples in enumerate((11000, 5000, 9000)):
        noise = 0.1 * np.random.default_rng(i).standard_normal(samples)
        soundfile.write(tmp_path / "audio" / f"{i}.wav", noise, 16000)
        rows.append(f"{i}.wav,{1 + i // 2},0,dog")
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(rows))
    arguments = ["--checkpoint", "model", "--data", tmp_path, "--random-orders", 1]
    monkeypatch.setattr(sys, "argv", ["deletion.py", *map(str, arguments)])
    script.main()
    first, _, head, _, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("2 recordings")
    assert head.startswith("| order | area |")
    names = [row.split(" | ")[0].removeprefix("| ") for row in table]
    assert names == ["relevance", "rollout", "loudest first", "random"]
