"""The dict that the feature extractor returns for `return_tensors`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ast_jax.errors import InputError


class BatchFeature(dict[str, Any]):
    """The model input by name, for `model(**inputs)`; Hugging Face's libraries return such a dict.

    Attributes:
        input_values: (batch, max_length, mel_bins), an array of the library that was asked for.
            There may be an entry `num_frames` (batch,), too.
    """

    @property
    def input_values(self) -> Any:
        """Returns the entry of this name."""
        return self["input_values"]


def batch_feature(arrays: Mapping[str, np.ndarray], return_tensors: str) -> BatchFeature:
    """Returns the model input by name, as arrays of the library that `return_tensors` names.

    Args:
        arrays: the model input.
        return_tensors: "np", "jax" or "pt".

    Raises:
        InputError: `return_tensors` has another value, or PyTorch is not installed.
    """
    match return_tensors:
        case "np":
            return BatchFeature(arrays)
        case "jax":
            import jax.numpy as jnp

            return BatchFeature({name: jnp.asarray(array) for name, array in arrays.items()})
        case "pt":
            try:
                import torch
            except ImportError as error:
                raise InputError(
                    "return_tensors is 'pt' and PyTorch is not installed: install it, or give 'np'"
                ) from error
            return BatchFeature({name: torch.from_numpy(array) for name, array in arrays.items()})
    raise InputError(
        f"return_tensors is {return_tensors!r}: give 'np', 'jax' or 'pt', or leave it out"
    )
