"""Fixtures: a checkpoint in each format, sounds to classify, a prepared set."""

import shutil
import signal

import numpy as np
import pytest
import soundfile

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, load_checkpoint, save_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface, write_original
from ast_jax.cli.main import main
from ast_jax.models.config import ASTConfig
from tests.params import random_params

CONFIG = ASTConfig(
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=32,
    max_length=128,
    num_labels=4,
    id2label={0: "rain", 1: "wind", 2: "café", 3: "owl"},
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Returns a folder with one checkpoint in each format."""
    params = random_params(CONFIG, 0.1)
    folder = tmp_path_factory.mktemp("checkpoints")
    whole = Checkpoint(CONFIG, ASTFeatureExtractor(max_length=128), params)
    save_checkpoint(folder / "ours", whole)
    write_huggingface(folder / "huggingface", whole)
    shutil.copy(folder / "huggingface" / "model.safetensors", folder / "x.safetensors")
    return folder


@pytest.fixture(scope="session")
def pth(checkpoint):
    pytest.importorskip("torch")
    path = checkpoint / "x.pth"
    write_original(path, load_checkpoint(checkpoint / "ours"))
    return path


@pytest.fixture
def sounds(tmp_path):
    """Returns the paths of two valid sound files."""
    rng = np.random.default_rng(1)
    for name, rate in [("a.wav", 16000), ("b.flac", 44100)]:
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(rate), rate)
    return [str(tmp_path / "a.wav"), str(tmp_path / "b.flac")]


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Returns a folder with two classes of short clips and one damaged file."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for label in ("bark", "meow"):
        (folder / label).mkdir()
        for i in range(6):
            waveform = 0.1 * rng.standard_normal(8000)
            soundfile.write(folder / label / f"{i}.wav", waveform, 8000)
    (folder / "meow" / "broken.wav").write_bytes(b"RIFF and no more")
    return folder


@pytest.fixture(scope="session")
def prepared(source, tmp_path_factory):
    """Prepares `source` with `ast-jax prepare` and returns the output folder."""
    output = tmp_path_factory.mktemp("prepared")
    arguments = ["folder", "--source", source, "--output", output, "--max-damaged", 1]
    assert main(["prepare", *map(str, arguments), "--processes", "1"]) == 0
    return output


@pytest.fixture
def handled():
    """Handles SIGINT as Python does, where a background job ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, previous)
