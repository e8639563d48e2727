"""The model for sound event detection, named as Hugging Face's Wav2Vec2ForAudioFrameClassification.

A column of patches is its frame: `config.time_stride` log-mel frames, 100 ms with a stride of 10.
"""

from pathlib import Path
from typing import Any

from flax import nnx

from ast_jax.errors import InputError
from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.models.config import ASTConfig


class ASTForAudioFrameClassification(ASTForAudioClassification):
    """AST with its head on each column of patches: (batch, columns, classes) logits.

    The head's layer norm and linear classify the mean over frequency of a column's patches, after
    the encoder's final layer norm. `ast_jax.columns.Columns` has the times of the columns.

    Args:
        config: the architecture; `frame_level` is True.
        rngs: for the initial weights.
        attn_implementation: as for `ASTForAudioClassification`.
    """

    def __init__(
        self, config: ASTConfig, *, rngs: nnx.Rngs, attn_implementation: str | None = None
    ):
        if not config.frame_level:
            raise InputError("config.frame_level is False; set it to True for a frame-level model")
        super().__init__(config, rngs=rngs, attn_implementation=attn_implementation)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, attn_implementation: str | None = None, **changes: Any
    ) -> "ASTForAudioFrameClassification":
        """Loads a frame-level checkpoint, or any other with a new head and a warning.

        Arguments and errors are those of `ASTForAudioClassification.from_pretrained`.
        """
        from ast_jax.checkpoint.load import read_checkpoint

        checkpoint = read_checkpoint(path, {"frame_level": True} | changes)
        return cls.from_params(checkpoint.config, checkpoint.params, attn_implementation)
