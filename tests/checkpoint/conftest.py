"""Small checkpoints with the names that published ones have."""

import numpy as np
import pytest
import rule

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.torch_names import params_from_tensors
from ast_jax.models.config import ASTConfig

# The golden tiny224's widths to those of something smaller still.
SMALLER = {192: 64, 576: 192, 768: 128, 1000: 10}


def _layer(name):
    parts = name.split(".")
    return int(parts[parts.index("blocks") + 1]) if "blocks" in parts else 0


def _small(shapes, layers, patches, classes, seed):
    tensors = {}
    for name, shape in shapes.items():
        if _layer(name) >= layers:
            continue
        shape = [SMALLER.get(size, size) for size in shape]
        if name.endswith("pos_embed"):
            shape[1] = 2 + patches
        if name.startswith("mlp_head.1."):
            shape[0] = classes
        tensors[name] = rule.tensor(name, tuple(shape), seed)
    return tensors


@pytest.fixture(scope="session")
def original_tensors(golden):
    """Makes an original checkpoint's tensors: the published names, small widths."""
    (tiny,) = (entry for entry in golden["models"] if entry["name"] == "tiny224_esc")

    def make(layers=2, patches=144, classes=5, imagenet_heads=True, seed=3):
        tensors = _small(tiny["tensors"], layers, patches, classes, seed)
        if not imagenet_heads:
            return {k: v for k, v in tensors.items() if not k.startswith("v.head")}
        return tensors

    return make


@pytest.fixture(scope="session")
def deit_tensors(golden):
    """Makes a distilled DeiT's tensors: timm's names, small widths, 7 x 7 patches."""
    (tiny,) = (entry for entry in golden["imagenet_init"] if entry["key"].startswith("tiny224"))

    def make(layers=2, patches=49, seed=4):
        return _small(tiny["tensors"], layers, patches, None, seed)

    return make


@pytest.fixture(scope="session")
def small_config():
    """The configuration of what `original_tensors` makes."""
    return ASTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=128,
        max_length=128,
        num_labels=5,
    )


@pytest.fixture(scope="session")
def small_checkpoint(original_tensors, small_config):
    """What `original_tensors` makes as a checkpoint of ours, with named classes."""
    names = dict(enumerate(["rain", "wind", "sea", "bird", "owl"]))
    params, _ = params_from_tensors(original_tensors(), "original", small_config, "rule")
    extractor = ASTFeatureExtractor(max_length=128, mean=-3.0, std=2.0)
    return Checkpoint(small_config.replace(id2label=names), extractor, params)


@pytest.fixture(scope="session")
def save_torch():
    """Saves a dict of NumPy tensors as `torch.save` does, names behind a prefix."""
    import torch

    def save(tensors, path, prefix="", wrap=None, **options):
        content = {prefix + name: torch.from_numpy(np.array(t)) for name, t in tensors.items()}
        torch.save({wrap: content} if wrap else content, path, **options)
        return path

    return save
