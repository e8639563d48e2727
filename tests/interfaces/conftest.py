"""A small checkpoint whose input is 50 frames, half a second."""

import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.inference.classifier import load
from ast_jax.models.config import ASTConfig
from tests.params import random_params

# 3 rows and 9 columns of patches, the last column of which has the frames 40 to 47.
CONFIG = ASTConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    patch_size=8,
    frequency_stride=4,
    time_stride=5,
    max_length=50,
    num_mel_bins=16,
    id2label={0: "rain", 1: "wind", 2: "owl"},
    num_labels=3,
)


@pytest.fixture(scope="session")
def save_small(tmp_path_factory):
    """Returns a function that saves the checkpoint with other fields of its extractor."""
    params = random_params(CONFIG, 0.3)

    def save(**changes):
        folder = tmp_path_factory.mktemp("checkpoints") / "small"
        extractor = ASTFeatureExtractor(max_length=50, num_mel_bins=16, **changes)
        save_checkpoint(folder, Checkpoint(CONFIG, extractor, params))
        return folder

    return save


@pytest.fixture(scope="session")
def folder(save_small):
    return save_small()


@pytest.fixture(scope="session")
def classifier(folder):
    return load(folder)
