"""The checkpoint format: a folder that needs nothing else.

    PATH/params/             the parameters (Orbax)
    PATH/config/config.json  {"model": …, "feature_extractor": …}, the fields of Hugging Face's
                             config.json (labels included) and preprocessor_config.json
    PATH/checksums/          see `ast_jax.checkpoint.checksums`

Each step of a training run is such a folder with the optimizer's state beside the parameters.
"""

import functools
import glob
import logging
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.checksums import (
    CHECKSUMS_FILE,
    CHECKSUMS_FOLDER,
    array_checksums,
    find_change,
    read_checksums,
)
from ast_jax.errors import InputError, first_line
from ast_jax.io import MAX_JSON, atomic_write, check_readable, json_checksum, read_json
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig

CONFIG_FILE = "config.json"

Result = TypeVar("Result")


class Checkpoint(NamedTuple):
    """A model's configuration, feature extractor and parameters.

    `params` may lack the classifier, as in a checkpoint to start a training from.
    """

    config: ASTConfig
    feature_extractor: ASTFeatureExtractor
    params: dict[str, Any]


def checkpoint_description(
    config: ASTConfig, feature_extractor: ASTFeatureExtractor
) -> dict[str, Any]:
    """Returns the content of a checkpoint's config.json."""
    return {"model": config.to_dict(), "feature_extractor": feature_extractor.to_dict()}


def is_checkpoint(path: Path) -> bool:
    """Returns whether `path` is a folder in this format."""
    return (path / "config" / CONFIG_FILE).is_file()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint folder atomically, from this process alone.

    Raises:
        InputError: `path` exists or cannot be written.
    """
    silence_orbax()
    this_process = jax.process_index()
    # By default Orbax waits for the other processes, which do not save.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this_process, active_processes={this_process}
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        config=ocp.JsonCheckpointHandler(filename=CONFIG_FILE, multiprocessing_options=alone),
        checksums=ocp.JsonCheckpointHandler(filename=CHECKSUMS_FILE, multiprocessing_options=alone),
        params=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
    )
    description = checkpoint_description(checkpoint.config, checkpoint.feature_extractor)
    params = {"params": checkpoint.params}
    checksums = array_checksums(params) | {"config": json_checksum(description)}
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
    with atomic_write(Path(path).absolute()) as temporary, checkpointer:
        try:
            checkpointer.save(
                temporary,
                args=ocp.args.Composite(
                    config=ocp.args.JsonSave(description),
                    checksums=ocp.args.JsonSave(checksums),
                    params=ocp.args.StandardSave(checkpoint.params),
                ),
            )
        except (OSError, ValueError) as error:
            wait_for_writers(temporary)
            raise OSError(system_reason(error)) from error  # TensorStore raises ValueError


def wait_for_writers(path: Path) -> None:
    """Waits until the files below `path` stop changing, ten seconds at most.

    TensorStore raises the first failed write while other threads still write, and those would
    create the folder again after its removal.
    """
    before = None
    for _ in range(20):
        now = None  # if a file disappears during the listing
        with suppress(OSError):
            files = path.parent.glob(f"{glob.escape(path.name)}*/**/*")
            now = sorted((file, file.stat().st_size) for file in files)
        if now is not None and now == before:
            return
        before = now
        time.sleep(0.5)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Loads a checkpoint folder, its parameters as NumPy arrays.

    Raises:
        InputError: the folder is not a checkpoint, is damaged, differs from its checksums, or its
            parameters do not match its configuration; the message names the file or the parameter.
    """
    path = Path(path).absolute()
    config, extractor = load_description(path)
    # The moving average of the parameters, if the run kept one, is the model to use.
    part = "ema" if (path / "ema").is_dir() else "params"
    if part == "params" and any(name.startswith("ema/") for name in read_checksums(path) or ()):
        raise InputError(f"{path / 'ema'}: no such folder; restore the checkpoint from a copy")
    return Checkpoint(config, extractor, _load_params(path, part, config))


def check_files(path: Path, shapes: Any) -> None:
    """Checks the files of a checkpoint before Orbax reads them.

    TensorStore would wait for a pipe, and aborts if a file is larger than memory.

    Args:
        path: the checkpoint folder.
        shapes: trees of the arrays that it must hold.

    Raises:
        InputError: a file is a pipe or a device, or is far larger than all arrays.
    """
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    for file in path.rglob("*"):
        try:
            check_readable(file, 2 * size + MAX_JSON)
        except OSError as error:
            raise InputError(
                f"{file}: cannot be read ({error.strerror}); restore the checkpoint from a copy"
            ) from None


def load_description(path: Path) -> tuple[ASTConfig, ASTFeatureExtractor]:
    """Loads the configuration and the feature extractor of a checkpoint folder.

    Raises:
        InputError: the file is missing or malformed, differs from its checksum, or the two do not
            match.
    """
    file = path / "config" / CONFIG_FILE
    description = read_json(file)
    for part in ("model", "feature_extractor"):
        if not isinstance(description, dict) or not isinstance(description.get(part), dict):
            raise InputError(f"{file}: '{part}' is missing; restore the checkpoint from a copy")
    config = ASTConfig.from_dict(description["model"], source=str(file))
    extractor = ASTFeatureExtractor.from_dict(description["feature_extractor"], source=str(file))
    check_agreement(config, extractor, str(file))
    if find_change(path, texts={"config": description}):
        raise InputError(
            f"{file}: is not what was saved (its checksum differs); restore the checkpoint from a "
            f"copy, or remove {path / CHECKSUMS_FOLDER} if you changed it on purpose"
        )
    return config, extractor


def check_agreement(config: ASTConfig, extractor: ASTFeatureExtractor, source: str) -> None:
    """Raises `InputError` if the extractor's output does not have the model's input shape."""
    for name in ("max_length", "num_mel_bins"):
        if getattr(extractor, name) != getattr(config, name):
            raise InputError(
                f"{source}: {name} is {getattr(config, name)} for the model and "
                f"{getattr(extractor, name)} for the feature extractor; correct one of them"
            )


def _load_params(folder: Path, part: str, config: ASTConfig) -> dict[str, Any]:
    path = folder / part
    expected = param_shapes(config)
    check_files(folder / part, expected)

    def read() -> dict[str, Any]:
        handler = ocp.PyTreeCheckpointHandler()
        found = dict(handler.metadata(path).tree)
        if "classifier" not in found:
            del expected["classifier"]
        _check_shapes(path, found, expected)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), expected)
        return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))

    params, reason = call_orbax(read)
    if reason:
        raise InputError(
            f"{path}: damaged or incomplete ({reason}); restore the checkpoint from a copy"
        )
    if changed := find_change(folder, {part: params}):
        raise InputError(
            f"{path}: parameter {changed.removeprefix(f'{part}/')} is not what was saved (its "
            f"checksum differs); restore the checkpoint from a copy"
        )
    flat = traverse_util.flatten_dict(params, sep="/")
    flat = {name: _finite_float32(path, name, array) for name, array in flat.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def call_orbax(read: Callable[[], Result]) -> tuple[Result, str]:
    """Calls a function that reads with Orbax, which raises many types for a damaged file.

    Returns:
        The result, and "" or the reason of a failure.
    """
    silence_tensorstore()
    with warnings.catch_warnings():
        # A failure leaves coroutines that were never awaited; they are gone when this block ends.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return read(), ""
        except (InputError, MemoryError):
            raise
        except Exception as error:
            reason = first_line(error)
    return cast(Result, None), reason


def system_reason(error: Exception) -> str:
    """Returns the system's reason of a failed write, before which TensorStore lists many paths."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return os.strerror(int(code[1])) if code else first_line(error)


@functools.cache
def silence_orbax() -> None:
    """Suppresses what Orbax logs about a failed save, which an exception reports.

    It logs a traceback in each of its threads, some after the exception was caught, and a warning
    when it removes an incomplete folder.
    """
    silence_tensorstore()
    logging.getLogger("absl").addFilter(
        lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname
    )


@functools.cache
def silence_tensorstore() -> None:
    """Suppresses tracebacks about further arrays after one could not be read or written.

    Orbax awaits many arrays in one event loop and closes it at the first error. For the other
    arrays TensorStore then prints "RuntimeError: Event loop is closed" and asyncio logs "exception
    was never retrieved", some of it after the caller has handled the error. Therefore the hook and
    the filter stay installed.
    """
    logging.getLogger("asyncio").addFilter(
        lambda record: not re.search("OCDBT|orbax", record.getMessage())
    )
    previous_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        message = str(unraisable.exc_value)
        if unraisable.object is not None or message != "Event loop is closed":
            previous_hook(unraisable)

    sys.unraisablehook = hook


def _check_shapes(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    found = traverse_util.flatten_dict(found, sep="/")
    expected = traverse_util.flatten_dict(expected, sep="/")
    for name, array in expected.items():
        if name not in found:
            raise InputError(
                f"{path}: parameter {name} is missing; restore the checkpoint from a copy"
            )
        if tuple(found[name].shape) != array.shape:
            raise InputError(
                f"{path}: parameter {name} has shape {tuple(found[name].shape)}, and the "
                f"configuration requires {array.shape}; restore the checkpoint from a copy"
            )
        storage = found[name].storage
        chunk = (storage and storage.chunk_shape) or array.shape
        if math.prod(chunk) > math.prod(array.shape):  # a whole chunk is decoded into memory
            raise InputError(
                f"{path}: parameter {name} of shape {array.shape} is stored in chunks of shape "
                f"{tuple(chunk)}; restore the checkpoint from a copy"
            )
    for name in found:
        if name not in expected:
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
