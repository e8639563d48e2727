"""Adapts trained parameters to another input size or to other classes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx, traverse_util

from ast_jax.checkpoint.format import Checkpoint
from ast_jax.errors import InputError
from ast_jax.labels import label_fields
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig
from ast_jax.models.head import Classifier
from ast_jax.models.positions import resize_position_embeddings


def adapt_checkpoint(
    checkpoint: Checkpoint, changes: Mapping[str, Any], head_seed: int = 0
) -> Checkpoint:
    """Returns the checkpoint with changed configuration fields and adapted parameters.

    A checkpoint without a head gets one if `changes` has `num_labels`, `id2label` or `label2id`.
    The classes of a new head have no names unless one of the last two is given.

    Args:
        checkpoint: the checkpoint.
        changes: fields of `ASTConfig` and their new values.
        head_seed: the seed that initializes a new head.

    Raises:
        InputError: there is no such field, it cannot have that value, or see `adapt_params`.
    """
    old, params = checkpoint.config, checkpoint.params
    new = old.replace(**changes)
    headless = "classifier" not in params
    wants_head = bool(changes.keys() & {"num_labels", "id2label", "label2id"})
    new_head = (headless and wants_head) or new.num_labels != old.num_labels
    if new_head and "problem_type" not in changes:
        new = new.replace(problem_type=label_fields(new.num_labels)["problem_type"])
    extractor = dataclasses.replace(
        checkpoint.feature_extractor, max_length=new.max_length, num_mel_bins=new.num_mel_bins
    )
    if "mask_padding" in changes:
        extractor = dataclasses.replace(extractor, return_attention_mask=new.mask_padding)
    params = adapt_params(params, old, new, head_seed)
    if headless and not wants_head:
        del params["classifier"]
    return Checkpoint(new, extractor, params)


def adapt_params(
    params: dict[str, Any], old: ASTConfig, new: ASTConfig, seed: int = 0
) -> dict[str, Any]:
    """Adapts parameters of configuration `old` to `new`.

    A different grid of patches (strides, `max_length`, `num_mel_bins`) resizes the positional
    embedding as the original does. Different classes (another number, or other names if `old` had
    names), a head for another task (`frame_level`), or parameters without a head, get a head
    initialized from `seed`.

    Raises:
        InputError: another parameter changes its shape; the message names the first.
    """
    params = dict(params)
    if old.grid != new.grid:
        embeddings = dict(params["ast"]["embeddings"])
        embeddings["position_embeddings"] = resize_position_embeddings(
            embeddings["position_embeddings"], old.grid, new.grid
        )
        params["ast"] = params["ast"] | {"embeddings": embeddings}
    renamed = old.id2label is not None and old.id2label != new.id2label
    other_task = old.frame_level != new.frame_level
    if "classifier" not in params or renamed or other_task or old.num_labels != new.num_labels:
        head = Classifier(new, rngs=nnx.Rngs(seed))
        params["classifier"] = nnx.to_pure_dict(nnx.split(head)[1])
    expected = traverse_util.flatten_dict(param_shapes(new), sep="/")
    for name, array in traverse_util.flatten_dict(params, sep="/").items():
        if name not in expected or array.shape != expected[name].shape:
            raise InputError(
                f"parameter {name} of shape {array.shape} cannot become "
                f"{expected[name].shape if name in expected else 'absent'}; leave a trained "
                f"model's width, depth and patch size unchanged"
            )
    return params
