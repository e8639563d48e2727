"""A checkpoint: a folder that needs nothing else.

    PATH/params/             the parameters (Orbax)
    PATH/config/config.json  {"model": …, "feature_extractor": …}, either as Hugging Face's
                             config.json and preprocessor_config.json; labels are in "model"

A training run's steps are such folders too, with the optimizer's state beside.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.errors import InputError
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig, read_json

CONFIG_FILE = "config.json"


class Checkpoint(NamedTuple):
    """A model with all it takes to use it. `params` may lack the classifier."""

    config: ASTConfig
    feature_extractor: ASTFeatureExtractor
    params: dict[str, Any]


def describe(config: ASTConfig, feature_extractor: ASTFeatureExtractor) -> dict[str, Any]:
    """The JSON that makes a checkpoint describe itself."""
    return {"model": config.to_dict(), "feature_extractor": feature_extractor.to_dict()}


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a folder of ours."""
    return (path / "config" / CONFIG_FILE).is_file()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint folder, whole or not at all.

    Raises:
        InputError: `path` exists already.
    """
    path = Path(path).absolute()
    if path.exists():
        raise InputError(f"{path}: exists already; choose another output or remove it first")
    handler = ocp.CompositeCheckpointHandler(
        config=ocp.JsonCheckpointHandler(filename=CONFIG_FILE),
        params=ocp.StandardCheckpointHandler(),
    )
    description = describe(checkpoint.config, checkpoint.feature_extractor)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(
            path,
            args=ocp.args.Composite(
                config=ocp.args.JsonSave(description),
                params=ocp.args.StandardSave(checkpoint.params),
            ),
        )


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint folder; parameters come as NumPy arrays.

    Raises:
        InputError: the folder is no checkpoint, is damaged, or its parameters do not fit its
            configuration; the message names the file or the parameter.
    """
    path = Path(path).absolute()
    file = path / "config" / CONFIG_FILE
    description = read_json(file)
    for part in ("model", "feature_extractor"):
        if not isinstance(description, dict) or not isinstance(description.get(part), dict):
            raise InputError(f"{file}: '{part}' is missing; the checkpoint is damaged")
    config = ASTConfig.from_dict(description["model"], source=str(file))
    extractor = ASTFeatureExtractor.from_dict(description["feature_extractor"], source=str(file))
    return Checkpoint(config, extractor, _restore(path, config))


def _restore(path: Path, config: ASTConfig) -> dict[str, Any]:
    wanted = param_shapes(config)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    handler = ocp.CompositeCheckpointHandler(params=ocp.PyTreeCheckpointHandler())
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            metadata = checkpointer.metadata(path).item_metadata.params
            _check_shapes(path, dict(metadata.tree), wanted)
            arguments = ocp.args.PyTreeRestore(restore_args=as_numpy)
            return checkpointer.restore(path, args=ocp.args.Composite(params=arguments)).params
    except InputError:
        raise
    except Exception as error:
        # Orbax and TensorStore raise many kinds for a file cut short or missing.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: the checkpoint is damaged or incomplete ({reason})") from None


def _check_shapes(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = traverse_util.flatten_dict(found, sep="/")
    shapes = traverse_util.flatten_dict(wanted, sep="/")
    for name, array in shapes.items():
        if name not in found:
            raise InputError(f"{path}: parameter {name} is missing")
        if tuple(found[name].shape) != array.shape:
            raise InputError(
                f"{path}: parameter {name} has shape {tuple(found[name].shape)}; "
                f"its configuration asks for {array.shape}"
            )
    for name in found:
        if name not in shapes:
            raise InputError(f"{path}: parameter {name} has no place in the model")
