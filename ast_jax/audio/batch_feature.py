"""The dict that the feature extractor returns for `return_tensors`."""

from typing import Any

import numpy as np
from jaxtyping import Float32

from ast_jax.errors import InputError


class BatchFeature(dict[str, Any]):
    """The model input by name, for `model(**inputs)`; Hugging Face's libraries return such a dict.

    Attributes:
        input_values: (batch, max_length, mel_bins), an array of the library that was asked for.
    """

    @property
    def input_values(self) -> Any:
        """Returns the entry of this name."""
        return self["input_values"]


def batch_feature(
    inputs: Float32[np.ndarray, "batch max_length mel_bins"], return_tensors: str
) -> BatchFeature:
    """Returns the model input by name, as an array of the library that `return_tensors` names.

    Args:
        inputs: the model input.
        return_tensors: "np", "jax" or "pt".

    Raises:
        InputError: `return_tensors` has another value, or PyTorch is not installed.
    """
    match return_tensors:
        case "np":
            return BatchFeature(input_values=inputs)
        case "jax":
            import jax.numpy as jnp

            return BatchFeature(input_values=jnp.asarray(inputs))
        case "pt":
            try:
                import torch
            except ImportError as error:
                raise InputError(
                    "return_tensors is 'pt' and PyTorch is not installed: install it, or give 'np'"
                ) from error
            return BatchFeature(input_values=torch.from_numpy(inputs))
    raise InputError(
        f"return_tensors is {return_tensors!r}: give 'np', 'jax' or 'pt', or leave it out"
    )
