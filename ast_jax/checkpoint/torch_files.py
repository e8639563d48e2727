"""Reads PyTorch and safetensors files, which are untrusted input."""

import math
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ast_jax.checkpoint.torch_names import Tensors
from ast_jax.checkpoint.torch_state_dict import find_state_dict, is_beside_model
from ast_jax.errors import InputError, first_line, quoted
from ast_jax.io import check_readable, read_json
from ast_jax.npz import DAMAGED_ZIP

MAX_SIZE = 16 << 30  # bytes of a file; a base-size model with an optimizer's state takes 1 GiB
MAX_PICKLE = 64 << 20  # bytes at the start of a file that may be its pickles
MAX_DIMENSIONS = 8  # NumPy has 64 at most

INDEX_SUFFIX = ".index.json"  # of a checkpoint in several files, its shards
SHARD_NAME = re.compile(r"[\w.-]{1,200}\.(safetensors|bin)", re.ASCII)  # no path to other folders

# The NumPy reader of safetensors does not support BF16 in every version.
SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
TORCH_DTYPES = ("float64", "float32", "float16", "bfloat16")


class StateDict(NamedTuple):
    """The tensors of a file, by their names there.

    Attributes:
        tensors: the tensors.
        ignored: names of tensors left out, see `is_beside_model`.
        notes: what was chosen among several state dicts.
    """

    tensors: Tensors
    ignored: list[str]
    notes: list[str]


def read_state_dict(path: Path) -> StateDict:
    """Reads a `.safetensors`, a PyTorch file (`.pth`, `.pt`, `.bin`), or the shards of an index.

    PyTorch files are loaded with `weights_only=True`, which executes no code in them. The dict of
    tensors may be nested, see `find_state_dict`.

    Args:
        path: the file, or the `.index.json` of a checkpoint in several files.

    Raises:
        InputError: the file is missing, truncated, contains code, or contains anything but
            floating-point tensors.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; give the path of a checkpoint")
    is_index = path.name.endswith(INDEX_SUFFIX)
    state_dict = _read_shards(path) if is_index else _read_file(path)
    if not state_dict.tensors:
        raise InputError(f"{path}: holds no tensors; give the file of a trained model")
    return state_dict


def _read_shards(index: Path) -> StateDict:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: has no weight_map of tensors to files; download it again")
    shards: dict[str, StateDict] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
            raise InputError(
                f"{index}: maps tensor {name} to {quoted(file)}, not to a .safetensors or .bin "
                f"file of its folder; download it again"
            )
        if file not in shards:
            if not (index.parent / file).is_file():
                raise InputError(
                    f"{index.parent / file}: no such file, and {index.name} lists it; download or "
                    f"save the checkpoint again"
                )
            shards[file] = _read_file(index.parent / file)
        if name not in shards[file].tensors and name not in shards[file].ignored:
            raise InputError(
                f"{index.parent / file}: tensor {name} is missing, and {index.name} lists it; "
                f"download or save the checkpoint again"
            )
    merged = StateDict({}, [], [])
    for file, shard in shards.items():
        for name in merged.tensors.keys() & shard.tensors.keys():
            raise InputError(
                f"{index.parent / file}: tensor {name} is in another shard too; save the "
                f"checkpoint again"
            )
        merged.tensors.update(shard.tensors)
        merged.ignored.extend(shard.ignored)
        merged.notes.extend(shard.notes)
    return merged


def _read_file(path: Path) -> StateDict:
    check_readable(path, MAX_SIZE)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the file of a trained model")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        with safe_open(path, "np"):  # checks the header before the file is in memory
            pass
        entries = deserialize(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a complete safetensors file ({first_line(error)}); download or save it "
            f"again"
        ) from None
    tensors, ignored = {}, []
    for name, entry in entries:
        if is_beside_model(name):
            ignored.append(name)
            continue
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            raise _not_floating(path, name, entry["dtype"])
        _check_shape(path, name, entry["shape"])
        data = np.frombuffer(entry["data"], SAFETENSORS_DTYPES[entry["dtype"]])
        tensors[name] = data.reshape(entry["shape"])
    return StateDict(tensors, ignored, [])


def _read_torch(path: Path) -> StateDict:
    torch = import_torch(f"reading {path}")
    import pickle

    size = _content_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the InputError below is enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds more than tensors (pickled code, or damage) and is not loaded; "
            f"save the model's state_dict() alone"
        ) from None
    except Exception as error:  # the unpickler raises any type for a damaged file
        raise _incomplete(path, error) from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: holds a {type(content).__name__}, not a dict of tensors; save the model's "
            f"state_dict()"
        )
    state_dict, notes = find_state_dict(content, torch.Tensor)
    tensors: Tensors = {}
    ignored, numbers = [], 0
    dtypes = {getattr(torch, dtype) for dtype in TORCH_DTYPES}
    for name, tensor in state_dict.items():
        if isinstance(tensor, torch.Tensor) and is_beside_model(str(name)):
            ignored.append(str(name))
            continue
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"{path}: entry {name!r} is a {type(tensor).__name__}, not a tensor; save the "
                f"model's state_dict() alone"
            )
        kind = f"{tensor.dtype}, {tensor.layout}"
        dense = tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_nested)
        if not dense or tensor.dtype not in dtypes:
            raise _not_floating(path, name, kind)
        _check_shape(path, name, tensor.shape)
        # As float32, four times the file is more than any dtype and shared storage takes. A view
        # may repeat the same numbers without end.
        numbers += tensor.numel()
        if 4 * numbers > 4 * size + 2**20:
            raise InputError(
                f"{path}: tensor {name} has {tensor.numel()} numbers, more than the file has bytes "
                f"for; save the model's state_dict() again"
            )
        try:
            # float32 holds half precisions exactly, and NumPy has no bfloat16.
            tensors[str(name)] = tensor.detach().float().contiguous().numpy()
        except (RuntimeError, TypeError):  # of a tensor's subclass
            raise _not_floating(path, name, kind) from None
    return StateDict(tensors, ignored, notes)


def _content_size(path: Path) -> int:
    """Returns the size of a PyTorch file's content in bytes, before PyTorch reads it.

    Raises:
        InputError: the content would take far more memory than the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # as PyTorch tells the formats apart
            file.seek(0)
            head = file.read(MAX_PICKLE)
        else:
            try:
                with zipfile.ZipFile(file) as archive:
                    entries = archive.infolist()
                    size = sum(entry.file_size for entry in entries)
                    if size > 4 * path.stat().st_size + 2**20:  # weights barely compress
                        raise InputError(
                            f"{path}: holds {size} bytes in a file of {path.stat().st_size}; save "
                            f"the model's state_dict() again, uncompressed"
                        )
                    head = b"".join(
                        archive.read(entry)
                        for entry in entries
                        if entry.filename.endswith("data.pkl")
                    )
            except (*DAMAGED_ZIP, ValueError, OSError) as error:
                if isinstance(error, InputError):
                    raise
                raise _incomplete(path, error) from None
    # The only type that the weights-only unpickler lets allocate and fill any size.
    if b"\nbytearray\n" in head:
        raise InputError(
            f"{path}: holds more than tensors (a bytearray) and is not loaded; save the model's "
            f"state_dict() alone"
        )
    return size


def _incomplete(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: not a complete PyTorch file ({first_line(error)}); download or save it again"
    )


def _check_shape(path: Path, name: object, shape: Sequence[int]) -> None:
    if len(shape) > MAX_DIMENSIONS:
        what = f"{len(shape)} dimensions"
    elif math.prod(max(n, 1) for n in shape) > 2**60:  # NumPy refuses it even if one is 0
        what = f"shape {tuple(shape)}"
    else:
        return
    raise InputError(f"{path}: tensor {name} has {what}; give the file of an AST")


def _not_floating(path: Path, name: object, kind: str) -> InputError:
    return InputError(
        f"{path}: tensor {name} holds {kind}, not dense floating-point numbers; save it as float32"
    )


def import_torch(purpose: str) -> ModuleType:
    """Imports PyTorch, or raises an `InputError` with the command that installs it."""
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{purpose} needs PyTorch, which is not installed; pip install torch"
        ) from None
    return torch
