"""Trained parameters for another input size or other classes."""

import dataclasses
from typing import Any

from flax import nnx, traverse_util

from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.torch_infer import label_fields
from ast_jax.errors import InputError
from ast_jax.models.ast import Classifier, param_shapes
from ast_jax.models.config import ASTConfig
from ast_jax.models.positions import resize_position_embeddings


def adapt_checkpoint(
    checkpoint: Checkpoint, changes: dict[str, Any], head_seed: int = 0
) -> Checkpoint:
    """The checkpoint with other configuration fields, its parameters adapted to them.

    A checkpoint without a head gets one where `num_labels` or `id2label` asks for it. A new
    head's classes have the names that `id2label` gives them, or none.

    Raises:
        InputError: there is no such field, or it cannot have that value.
    """
    old, params = checkpoint.config, checkpoint.params
    new = old.replace(**changes)
    headless = "classifier" not in params
    if (headless or new.num_labels != old.num_labels) and "problem_type" not in changes:
        new = new.replace(problem_type=label_fields(new.num_labels)["problem_type"])
    extractor = dataclasses.replace(
        checkpoint.feature_extractor, max_length=new.max_length, num_mel_bins=new.num_mel_bins
    )
    params = adapt_params(params, old, new, head_seed)
    if headless and not changes.keys() & {"num_labels", "id2label"}:
        del params["classifier"]
    return Checkpoint(new, extractor, params)


def adapt_params(
    params: dict[str, Any], old: ASTConfig, new: ASTConfig, seed: int = 0
) -> dict[str, Any]:
    """Fits parameters of configuration `old` to `new`.

    Another grid of patches (strides, `max_length`, `num_mel_bins`) resizes the positional
    embedding as the original does. Other classes (another number, or other names where `old`
    had names), or parameters without a classification head, get a head initialised from `seed`.

    Raises:
        InputError: `new` differs in more than that; the message names the first parameter.
    """
    params = dict(params)
    if old.grid != new.grid:
        embeddings = dict(params["ast"]["embeddings"])
        embeddings["position_embeddings"] = resize_position_embeddings(
            embeddings["position_embeddings"], old.grid, new.grid
        )
        params["ast"] = params["ast"] | {"embeddings": embeddings}
    renamed = old.id2label is not None and old.id2label != new.id2label
    if "classifier" not in params or renamed or old.num_labels != new.num_labels:
        head = Classifier(new, rngs=nnx.Rngs(seed))
        params["classifier"] = nnx.to_pure_dict(nnx.split(head)[1])
    wanted = traverse_util.flatten_dict(param_shapes(new), sep="/")
    for name, array in traverse_util.flatten_dict(params, sep="/").items():
        if name not in wanted or array.shape != wanted[name].shape:
            raise InputError(
                f"parameter {name} of shape {array.shape} cannot become "
                f"{wanted[name].shape if name in wanted else 'absent'}: a trained model's width, "
                f"depth and patch size stay as they are"
            )
    return params
