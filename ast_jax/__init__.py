"""The Audio Spectrogram Transformer in JAX and Flax.

Public names are imported on first use, so that `import ast_jax` is quick and needs neither
TensorFlow, librosa nor PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "ASTConfig": "ast_jax.models.config",
    "ASTFeatureExtractor": "ast_jax.audio.feature_extractor",
    "ASTForAudioClassification": "ast_jax.models.ast",
    "ASTForAudioFrameClassification": "ast_jax.models.frame_classification",
    "ASTModel": "ast_jax.models.ast",
    "Callback": "ast_jax.training.overrides",
    "FitResult": "ast_jax.training.overrides",
    "InputError": "ast_jax.errors",
    "StreamingClassifier": "ast_jax.inference.streaming",
    "Thresholds": "ast_jax.thresholds",
    "TrainConfig": "ast_jax.config",
    "choose_thresholds": "ast_jax.evaluation.choose_thresholds",
    "fbank": "ast_jax.audio.fbank",
    "fbank_jax": "ast_jax.audio.fbank_jax",
    "fit": "ast_jax.training.loop",
    "load_config": "ast_jax.config_files",
    "load": "ast_jax.inference.classifier",
    "load_audio": "ast_jax.audio.decode",
}

__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from ast_jax.audio.decode import load_audio as load_audio
    from ast_jax.audio.fbank import fbank as fbank
    from ast_jax.audio.fbank_jax import fbank_jax as fbank_jax
    from ast_jax.audio.feature_extractor import ASTFeatureExtractor as ASTFeatureExtractor
    from ast_jax.config import TrainConfig as TrainConfig
    from ast_jax.config_files import load_config as load_config
    from ast_jax.errors import InputError as InputError
    from ast_jax.evaluation.choose_thresholds import choose_thresholds as choose_thresholds
    from ast_jax.inference.classifier import load as load
    from ast_jax.inference.streaming import StreamingClassifier as StreamingClassifier
    from ast_jax.models.ast import ASTForAudioClassification as ASTForAudioClassification
    from ast_jax.models.ast import ASTModel as ASTModel
    from ast_jax.models.config import ASTConfig as ASTConfig
    from ast_jax.models.frame_classification import (
        ASTForAudioFrameClassification as ASTForAudioFrameClassification,
    )
    from ast_jax.thresholds import Thresholds as Thresholds
    from ast_jax.training.loop import fit as fit
    from ast_jax.training.overrides import Callback as Callback
    from ast_jax.training.overrides import FitResult as FitResult


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ast_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
