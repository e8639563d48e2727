"""A checkpoint: a folder that needs nothing else.

    PATH/params/             the parameters (Orbax)
    PATH/config/config.json  {"model": …, "feature_extractor": …}, either as Hugging Face's
                             config.json and preprocessor_config.json; labels are in "model"

A training run's steps are such folders too, with the optimizer's state beside.
"""

import glob
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax import traverse_util

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.errors import InputError, first_line
from ast_jax.io import atomic_write, read_json
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig

CONFIG_FILE = "config.json"


class Checkpoint(NamedTuple):
    """A model with all it takes to use it.

    `params` may lack the classifier: such a checkpoint is where a training starts.
    """

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
    """Writes a checkpoint folder from this process, whole or not at all.

    Raises:
        InputError: `path` exists already or cannot be made.
    """
    me = jax.process_index()
    # Orbax would wait for the others, who have nothing to write.
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        config=ocp.JsonCheckpointHandler(filename=CONFIG_FILE, multiprocessing_options=alone),
        params=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
    )
    description = describe(checkpoint.config, checkpoint.feature_extractor)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
    with atomic_write(Path(path).absolute()) as place, checkpointer:
        try:
            checkpointer.save(
                place,
                args=ocp.args.Composite(
                    config=ocp.args.JsonSave(description),
                    params=ocp.args.StandardSave(checkpoint.params),
                ),
            )
        except (OSError, ValueError) as error:
            _wait_for_writers(place)
            if isinstance(error, OSError):
                raise
            raise OSError(first_line(error)) from error  # TensorStore's, for a full disk too


def _wait_for_writers(place: Path) -> None:
    """Waits until no file at `place` comes, goes or grows any more, ten seconds at most.

    TensorStore reports the first write that fails while its other threads go on with theirs,
    and they make a folder that was removed under them anew.
    """
    before = None
    for _ in range(20):
        now = None  # a file that goes while they are counted
        with suppress(OSError):
            files = place.parent.glob(f"{glob.escape(place.name)}*/**/*")
            now = sorted((file, file.stat().st_size) for file in files)
        if now is not None and now == before:
            return
        before = now
        time.sleep(0.5)


def check_agreement(config: ASTConfig, extractor: ASTFeatureExtractor, source: str) -> None:
    """Raises `InputError` if the feature extractor's inputs are not of the model's shape."""
    for name in ("max_length", "num_mel_bins"):
        if getattr(extractor, name) != getattr(config, name):
            raise InputError(
                f"{source}: {name} is {getattr(config, name)} for the model and "
                f"{getattr(extractor, name)} for the feature extractor; correct one of them"
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
            raise InputError(
                f"{file}: '{part}' is missing and the checkpoint damaged; restore it from a copy"
            )
    config = ASTConfig.from_dict(description["model"], source=str(file))
    extractor = ASTFeatureExtractor.from_dict(description["feature_extractor"], source=str(file))
    check_agreement(config, extractor, str(file))
    # A run that keeps a moving average of its parameters is for that.
    part = "ema" if (path / "ema").is_dir() else "params"
    return Checkpoint(config, extractor, _restore(path / part, config))


def _restore(path: Path, config: ASTConfig) -> dict[str, Any]:
    wanted = param_shapes(config)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        read_through(path)
        found = dict(handler.metadata(path).tree)
        if "classifier" not in found:
            del wanted["classifier"]
        _check_shapes(path, found, wanted)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        params = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except InputError:
        raise
    except Exception as error:
        # Orbax and TensorStore raise many kinds for a file cut short or missing.
        raise InputError(
            f"{path}: damaged or incomplete ({first_line(error)}); restore the checkpoint from a "
            f"copy"
        ) from None
    flat = traverse_util.flatten_dict(params, sep="/")
    flat = {name: _finite_float32(path, name, array) for name, array in flat.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def read_through(path: Path) -> None:
    """Raises TensorStore's error if a file of the parameters is cut short or missing.

    Orbax reads many arrays at a time, and where one fails leaves the others to write
    tracebacks to the terminal.
    """
    if not (path / "manifest.ocdbt").exists():
        raise FileNotFoundError("manifest.ocdbt is missing")
    base = {"driver": "file", "path": f"{path}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    for key in store.list().result():
        if store.read(key).result().state != "value":  # which is how it reads from a missing file
            raise FileNotFoundError(f"the file with {key.decode()} is missing")


def _check_shapes(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = traverse_util.flatten_dict(found, sep="/")
    shapes = traverse_util.flatten_dict(wanted, sep="/")
    for name, array in shapes.items():
        if name not in found:
            raise InputError(
                f"{path}: parameter {name} is missing; restore the checkpoint from a copy"
            )
        if tuple(found[name].shape) != array.shape:
            raise InputError(
                f"{path}: parameter {name} has shape {tuple(found[name].shape)}, and a model of "
                f"its configuration takes {array.shape}; restore the checkpoint from a copy"
            )
    for name in found:
        if name not in shapes:
            raise InputError(
                f"{path}: parameter {name} has no place in the model; restore the checkpoint "
                f"from a copy"
            )


def _finite_float32(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"{path}: parameter {name} holds {array.dtype}, not floating-point numbers; restore "
            f"the checkpoint from a copy"
        )
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InputError(
            f"{path}: parameter {name} holds NaN or infinite values; use an earlier checkpoint"
        )
    return array
