"""The models that several benchmarks run: sizes, equal random weights, a batch, FLOP."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.models.config import SIZES, ASTConfig

TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 128,
    "max_length": 128,
}
UNFILLED = 24  # frames: 10 s are 160 samples for each of 1,000, where the model takes 1,024
DISTINCT = 16  # clips of a batch; their log-mels take time, and what follows is the same for all


def model_fields(size: str, tiny: bool) -> dict[str, Any]:
    """The model's size, in fields that both configurations have."""
    return TINY if tiny else SIZES[size]


def make_weights(fields: dict[str, Any]) -> tuple[ASTConfig, dict[str, Any], dict[str, Any]]:
    """Random ones: the configuration, Hugging Face's tensors and the same as our parameters.

    Needs torch and transformers.
    """
    import torch
    import transformers

    from ast_jax.checkpoint.torch_files import normalize_names
    from ast_jax.checkpoint.torch_names import params_from_tensors

    torch.manual_seed(0)
    their_config = transformers.ASTConfig(**fields, num_labels=527)
    model = transformers.ASTForAudioClassification(their_config)
    with torch.no_grad():  # Hugging Face starts tokens and positions at zero
        for name, parameter in model.named_parameters():
            if "embeddings" in name:
                parameter.normal_(std=0.3)
            elif "classifier.dense" in name:  # so that the loss depends on all before
                parameter.normal_(std=0.1)
    config = ASTConfig.from_dict(their_config.to_dict())
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors, checkpoint_format = normalize_names(tensors, "the random model")
    params, _ = params_from_tensors(tensors, checkpoint_format, config, "the random model")
    return config, model.state_dict(), params


def make_extractor(config: ASTConfig) -> ASTFeatureExtractor:
    """The extractor of AudioSet's models, for this one's input."""
    return ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)


def make_batch(config: ASTConfig, batch_size: int) -> dict[str, np.ndarray]:
    """Noise of different loudness and spectrum: 10 s a clip where the model takes 1,024 frames.

    Returns:
        What steps take: int16 `waveforms` and their `lengths`, `input_values` computed of them by
        the NumPy frontend, and `targets` of two or three labels a clip. From the 17th on clips
        are the first again.
    """
    rng = np.random.default_rng(1)
    samples = 160 * (config.max_length - UNFILLED)
    targets = rng.random((batch_size, config.num_labels)) < 2.5 / config.num_labels
    distinct = min(batch_size, DISTINCT)
    noise = rng.standard_normal((distinct, samples), dtype=np.float32)
    noise[:, 1:] += rng.uniform(-0.9, 0.9, (distinct, 1)).astype(np.float32) * noise[:, :-1]
    waveforms = (10 ** rng.uniform(1, 3.5, (distinct, 1)) * noise).astype(np.int16)
    which = np.arange(batch_size) % distinct
    return {
        "waveforms": waveforms[which],
        "lengths": np.full(batch_size, samples, np.int32),
        "input_values": make_extractor(config)(waveforms / 2**15, 16000)[which],
        "targets": targets.astype(np.float32),
    }


def forward_flop(config: ASTConfig, tokens: int = 0) -> int:
    """FLOP of the matrix products of one clip's forward pass, with all tokens or so many.

    They are the paper's model's: what ours leaves out of the last layer counts as done.
    """
    tokens, width = tokens or config.num_tokens, config.hidden_size
    patches = 2 * (tokens - 2) * config.patch_size**2 * width
    projections = 2 * tokens * width * (4 * width + 2 * config.intermediate_size)
    attention = 2 * 2 * tokens**2 * width
    head = 2 * width * config.num_labels
    return patches + config.num_hidden_layers * (projections + attention) + head


def training_flop(config: ASTConfig, tokens: int = 0) -> int:
    """The same of a training step: the backward pass has two products for each of the forward's."""
    return 3 * forward_flop(config, tokens)
