"""Tests the files in `configs/`: values, docstrings, and a small run of each recipe."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.config_files import load_config
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.sampler import steps_per_epoch
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig
from ast_jax.training.loop import fit
from ast_jax.training.optimizer import make_schedule

from .commands import parse_train, train_commands
from .raw_sets import write_audioset, write_clips, write_speech_commands

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))

DEIT = "checkpoints/deit_base_distilled_patch16_384-d0272ac0.pth"

# From the original's egs/*/run*.sh and src/traintest.py.
PUBLISHED = {
    "audioset_full": {
        "init_from": DEIT,
        "optimizer.learning_rate": 1e-5,
        "batch_size": 12,
        "num_epochs": 5,
        "optimizer.warmup_steps": 1000,
        "loss": "binary_cross_entropy",
        "augment.mixup": 0.5,
        "augment.frequency_mask": 48,
        "augment.time_mask": 192,
        "model.max_length": 1024,
        "frontend.mean": -4.2677393,
        "frontend.std": 4.5689974,
        "augment.noise": False,
        "augment.roll": 0,
        "data.name": "audioset",
        "data.train": "balanced+unbalanced",
        "data.evaluation": "eval",
        "data.test": "",
        "data.balanced": True,
        "average_from": 1,
        "average_to": 5,
        "metric": "mean_average_precision",
        "final_params": "average",
        "cumulative": True,
    },
    "audioset_balanced": {
        "init_from": DEIT,
        "optimizer.learning_rate": 5e-5,
        "batch_size": 12,
        "num_epochs": 25,
        "optimizer.warmup_steps": 1000,
        "loss": "binary_cross_entropy",
        "augment.mixup": 0.5,
        "augment.frequency_mask": 48,
        "augment.time_mask": 192,
        "model.max_length": 1024,
        "frontend.mean": -4.2677393,
        "frontend.std": 4.5689974,
        "augment.noise": False,
        "augment.roll": 0,
        "data.name": "audioset",
        "data.train": "balanced",
        "data.evaluation": "eval",
        "data.test": "",
        "data.balanced": False,
        "average_from": 6,
        "average_to": 25,
        "metric": "mean_average_precision",
        "final_params": "average",
        "cumulative": True,
    },
    "esc50": {
        "init_from": "checkpoints/ast-finetuned-audioset-10-10-0.4593",
        "optimizer.learning_rate": 1e-5,
        "batch_size": 48,
        "num_epochs": 25,
        "optimizer.warmup_steps": 0,
        "loss": "cross_entropy",
        "augment.mixup": 0.0,
        "augment.frequency_mask": 24,
        "augment.time_mask": 96,
        "model.max_length": 512,
        "frontend.mean": -6.6268077,
        "frontend.std": 5.358466,
        "augment.noise": False,
        "augment.roll": 0,
        "data.name": "esc50",
        "data.train": "",
        "data.evaluation": "",
        "data.test": "",
        "data.fold": 0,
        "data.balanced": False,
        "average_from": 0,
        "metric": "accuracy",
        "final_params": "last",
    },
    "speechcommands": {
        "init_from": DEIT,
        "optimizer.learning_rate": 2.5e-4,
        "batch_size": 128,
        "num_epochs": 30,
        "optimizer.warmup_steps": 0,
        "loss": "binary_cross_entropy",
        "augment.mixup": 0.6,
        "augment.frequency_mask": 48,
        "augment.time_mask": 48,
        "model.max_length": 128,
        "frontend.mean": -6.845978,
        "frontend.std": 5.5654526,
        "augment.noise": True,
        "augment.roll": 10,
        "data.name": "speech_commands",
        "data.train": "train",
        "data.evaluation": "validation",
        "data.test": "test",
        "data.balanced": False,
        "average_from": 0,
        "metric": "accuracy",
        "final_params": "best",
    },
}

# Common to all four.
COMMON = {
    "data.kind": "prepared",
    "optimizer.kind": "adam",
    "optimizer.b1": 0.95,
    "optimizer.b2": 0.999,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 5e-7,
    "optimizer.grad_clip_norm": 0.0,
    "optimizer.layer_decay": 1.0,
    "optimizer.ema_decay": 0.0,
    "optimizer.schedule": "multi_step",
    "label_smoothing": 0.0,
    "evaluate_every": 1,
    "grad_accum_steps": 1,
    "frontend.sampling_rate": 16000,
    "model.hidden_size": 768,
    "model.num_hidden_layers": 12,
    "model.num_attention_heads": 12,
    "model.intermediate_size": 3072,
    "model.patch_size": 16,
    "model.frequency_stride": 10,
    "model.time_stride": 10,
    "model.num_mel_bins": 128,
    "model.layer_norm_eps": 1e-6,
    "model.dtype": "float32",
}

# Training clips of the real sets: AudioSet's lists, four folds, the words that no list names.
CLIPS = {
    "audioset_full": 22_160 + 2_041_789,
    "audioset_balanced": 22_160,
    "esc50": 1_600,
    "speechcommands": 84_843,
}

# Learning rates after each epoch; the original's log has AudioSet's five.
RATES = {
    "audioset_full": [1e-5, 1e-5, 5e-6, 2.5e-6, 1.25e-6],
    "audioset_balanced": [5e-5] * 10 + [2.5e-5] * 5 + [1.25e-5] * 5 + [6.25e-6] * 5,
    "esc50": [1e-5] * 5 + [1e-5 * 0.85**n for n in range(1, 21)],
    "speechcommands": [2.5e-4] * 5 + [2.5e-4 * 0.85**n for n in range(1, 26)],
}

TOKENS = {
    "audioset_full": 2 + 12 * 101,
    "audioset_balanced": 2 + 12 * 101,
    "esc50": 2 + 12 * 50,
    "speechcommands": 2 + 12 * 12,
}

recipes = pytest.mark.parametrize("name", PUBLISHED)
files = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def load(name):
    return load_config(ROOT / "configs" / f"{name}.py")


def value(config, field):
    for name in field.split("."):
        config = getattr(config, name)
    return config


@files
def test_every_file_is_valid_from_any_working_directory(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = load_config(file)
    options = []
    if file.stem != "demo":
        config.data.dir, options = "somewhere", ["--data.dir", "somewhere"]
    config.validate()
    assert config.workdir.startswith("runs/")
    assert parse_train([file.stem, *options], capsys) == config
    (tmp_path / "saved.json").write_text(json.dumps(config.to_dict()))
    assert parse_train(["saved.json"], capsys) == config


@files
def test_docstrings_give_valid_commands(file, capsys):
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    commands = train_commands(text)
    assert commands[0][0] == file.stem
    for command in commands:
        parse_train(command, capsys)


@recipes
def test_recipes_have_the_published_values(name):
    config = load(name)
    expected = COMMON | PUBLISHED[name]
    assert {field: value(config, field) for field in expected} == expected
    assert config.model.num_tokens == TOKENS[name]


@recipes
def test_learning_rates_of_each_epoch_are_the_published_ones(name):
    config = load(name)
    epoch = steps_per_epoch(CLIPS[name], config.batch_size)
    schedule = make_schedule(config.optimizer, epoch * config.num_epochs, epoch)
    lasts = np.arange(1, config.num_epochs + 1) * epoch - 1
    rates = np.array([schedule(step) for step in lasts])
    np.testing.assert_allclose(rates, RATES[name], rtol=1e-5)
    # The rate is constant within an epoch, except during warm-up.
    rest = np.array([schedule(step) for step in lasts[:-1] + 1])
    np.testing.assert_allclose(rest, RATES[name][1:], rtol=1e-5)
    stairs = {0: 0, 49: 0, 50: 0.05, 99: 0.05, 999: 0.95, 1000: 1}
    stairs = stairs if config.optimizer.warmup_steps else {0: 1, epoch // 2: 1}
    for step, share in stairs.items():
        assert schedule(step) == pytest.approx(share * RATES[name][0], rel=1e-5)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Returns noise clips in the layouts of AudioSet, Speech Commands and a class folder."""
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    audioset, speech = folder / "audioset", folder / "speech"
    write_audioset(audioset, rng)
    write_speech_commands(speech, rng)
    write_clips(folder / "sounds", [f"{c}/{i}" for c in ("dog", "rain") for i in range(8)], rng)
    for name, source in (("audioset", audioset), ("speech_commands", speech)):
        prepare(name, source, folder / "prepared")
    return folder


def shrunk(name, workdir, sets):
    """Returns the recipe with a tiny model and one epoch of one or two steps."""
    config = load(name)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    size |= {"intermediate_size": 16, "frequency_stride": 16, "time_stride": 16}
    size |= {"max_length": 48, "num_mel_bins": 32}
    config.model = config.model.replace(**size)
    start = ASTConfig().replace(**size | {"max_length": 64, "num_labels": 7})
    extractor = ASTFeatureExtractor(max_length=64, num_mel_bins=32)
    config.init_from = str(workdir.parent / "start")
    save_checkpoint(config.init_from, Checkpoint(start, extractor, init_params(start, 0)))
    config.workdir = str(workdir)
    config.data.dir = str(sets / "prepared")
    if config.data.kind == "folder":
        config.data.dir = str(sets / "sounds")
    config.augment.frequency_mask = min(8, config.augment.frequency_mask)
    config.augment.time_mask = min(16, config.augment.time_mask)
    config.optimizer.warmup_interval = min(2, config.optimizer.warmup_steps) or 1
    config.optimizer.warmup_steps = 0 if name == "finetune" else config.optimizer.warmup_steps
    config.batch_size = 8
    config.num_epochs = 1
    config.average_from, config.average_to = min(1, config.average_from), 0
    return config


@pytest.mark.parametrize(
    ("name", "train", "held_out", "labels"),
    [
        pytest.param("audioset_full", 16, 3, 527, marks=pytest.mark.slow),
        ("speechcommands", 9, 2, 35),
        pytest.param("finetune", 13, 3, 2, marks=pytest.mark.slow),
    ],
)
def test_a_small_run_of_each_recipe_finishes(
    name, train, held_out, labels, prepared, tmp_path, no_plots
):
    config = shrunk(name, tmp_path / "run", prepared)
    scores = fit(config).scores
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["data"]["train"]["clips"] == train
    assert run["data"]["evaluation"]["clips"] == held_out
    assert len(run["data"]["labels"]) == labels
    (row,) = json.loads((tmp_path / "run" / "history.json").read_text())
    assert np.isfinite([row["training_loss"], row["loss"], scores.loss]).all()
    assert ("cumulative_mean_average_precision" in row) == name.startswith("audioset")
    assert (tmp_path / "run" / "test" / "results.json").exists() == (name == "speechcommands")
