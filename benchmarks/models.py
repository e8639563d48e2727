"""Models for several benchmarks: sizes, equal random weights, a batch, FLOP."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.models.config import NUM_PREFIX_TOKENS, SIZES, ASTConfig

TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 128,
    "max_length": 128,
}
PADDING = 24  # frames; 10 s are 1,000 frames of 160 samples, and the model takes 1,024
DISTINCT = 16  # clips per batch; larger batches repeat them, as computing log-mels takes time


def model_fields(size: str, tiny: bool) -> dict[str, Any]:
    """Returns the model's size as fields that our and Hugging Face's configurations share."""
    return TINY if tiny else SIZES[size]


def make_weights(fields: dict[str, Any]) -> tuple[ASTConfig, dict[str, Any], dict[str, Any]]:
    """Draws random weights. Needs torch and transformers.

    Returns:
        The configuration, Hugging Face's tensors, and the same weights as our parameters.
    """
    import torch
    import transformers

    from ast_jax.checkpoint.torch_names import params_from_tensors
    from ast_jax.checkpoint.torch_state_dict import normalize_names

    torch.manual_seed(0)
    their_config = transformers.ASTConfig(**fields, num_labels=527)
    model = transformers.ASTForAudioClassification(their_config)
    with torch.no_grad():  # Hugging Face initializes tokens and positions with zeros
        for name, parameter in model.named_parameters():
            if "embeddings" in name:
                parameter.normal_(std=0.3)
            elif "classifier.dense" in name:  # so that the loss depends on all layers
                parameter.normal_(std=0.1)
    config = ASTConfig.from_dict(their_config.to_dict())
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors, checkpoint_format, _ = normalize_names(tensors, "the random model")
    params, _ = params_from_tensors(tensors, checkpoint_format, config, "the random model")
    return config, model.state_dict(), params


def make_extractor(config: ASTConfig) -> ASTFeatureExtractor:
    """Returns an extractor with AudioSet's statistics for the model's input size."""
    return ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)


def make_batch(config: ASTConfig, batch_size: int) -> dict[str, np.ndarray]:
    """Returns clips of noise with varying loudness and spectrum, 10 s long for 1,024 frames.

    Returns:
        int16 `waveforms` and their `lengths`, `input_values` that the NumPy frontend computes from
        them, and `targets` with two or three labels per clip. Clips repeat after the 16th; targets
        do not.
    """
    rng = np.random.default_rng(1)
    samples = 160 * (config.max_length - PADDING)
    targets = rng.random((batch_size, config.num_labels)) < 2.5 / config.num_labels
    distinct = min(batch_size, DISTINCT)
    noise = rng.standard_normal((distinct, samples), dtype=np.float32)
    noise[:, 1:] += rng.uniform(-0.9, 0.9, (distinct, 1)).astype(np.float32) * noise[:, :-1]
    waveforms = (10 ** rng.uniform(1, 3.5, (distinct, 1)) * noise).astype(np.int16)
    indices = np.arange(batch_size) % distinct
    return {
        "waveforms": waveforms[indices],
        "lengths": np.full(batch_size, samples, np.int32),
        "input_values": make_extractor(config)(list(waveforms / 2**15), 16000)[indices],
        "targets": targets.astype(np.float32),
    }


def forward_flop(config: ASTConfig, tokens: int = 0) -> int:
    """Returns the FLOP of the matrix products in one clip's forward pass.

    Counts the paper's model, with all tokens in the last layer; ours computes only the first there.

    Args:
        config: of the model.
        tokens: the number of tokens in the encoder; all if 0.
    """
    tokens, width = tokens or config.num_tokens, config.hidden_size
    patches = 2 * (tokens - NUM_PREFIX_TOKENS) * config.patch_size**2 * width
    projections = 2 * tokens * width * (4 * width + 2 * config.intermediate_size)
    attention = 2 * 2 * tokens**2 * width
    head = 2 * width * config.num_labels
    return patches + config.num_hidden_layers * (projections + attention) + head


def training_flop(config: ASTConfig, tokens: int = 0) -> int:
    """Returns a training step's FLOP: the backward pass has two products per forward product."""
    return 3 * forward_flop(config, tokens)
