"""Loads the checkpoint that a command uses."""

from typing import TYPE_CHECKING

from ast_jax.cli.arguments import Dtype, MaskPadding, dtype_change, mask_change
from ast_jax.errors import print_note

if TYPE_CHECKING:
    from ast_jax.inference.classifier import AudioClassifier


def load_classifier(
    checkpoint: str, dtype: Dtype = None, mask_padding: MaskPadding = None
) -> "AudioClassifier":
    """Loads a classifier, and prints what was assumed of its checkpoint.

    Args:
        checkpoint: as `read_checkpoint` takes it.
        dtype: of the encoder; None for the checkpoint's.
        mask_padding: whether to mask the padding of short sounds; None for the checkpoint's.

    Raises:
        InputError: the checkpoint cannot be used.
    """
    from ast_jax.checkpoint.load import read_checkpoint
    from ast_jax.cli.compilation_cache import enable_compilation_cache
    from ast_jax.inference.classifier import AudioClassifier

    enable_compilation_cache()
    guesses: list[str] = []
    changes = dtype_change(dtype) | mask_change(mask_padding)
    classifier = AudioClassifier(read_checkpoint(checkpoint, changes, guesses=guesses))
    for guess in guesses:
        print_note(f"{checkpoint}: {guess}")
    return classifier
