"""Reads PyTorch and safetensors files, which are untrusted input."""

import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ast_jax.checkpoint.torch_names import Tensors
from ast_jax.checkpoint.torch_state_dict import find_state_dict, is_beside_model
from ast_jax.errors import InputError, first_line, quoted
from ast_jax.io import read_json

INDEX_SUFFIX = ".index.json"  # of a checkpoint in several files, its shards
SHARD_NAME = re.compile(r"[\w.-]{1,200}\.(safetensors|bin)", re.ASCII)  # no path to other folders

# The NumPy reader of safetensors does not support BF16 in every version.
SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}


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
    if not path.is_file():
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
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
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
        data = np.frombuffer(entry["data"], SAFETENSORS_DTYPES[entry["dtype"]])
        tensors[name] = data.reshape(entry["shape"])
    return StateDict(tensors, ignored, [])


def _read_torch(path: Path) -> StateDict:
    torch = import_torch(f"reading {path}")
    import pickle

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
        raise InputError(
            f"{path}: not a complete PyTorch file ({first_line(error)}); download or save it again"
        ) from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: holds a {type(content).__name__}, not a dict of tensors; save the model's "
            f"state_dict()"
        )
    state_dict, notes = find_state_dict(content, torch.Tensor)
    tensors: Tensors = {}
    ignored = []
    for name, tensor in state_dict.items():
        if isinstance(tensor, torch.Tensor) and is_beside_model(str(name)):
            ignored.append(str(name))
            continue
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"{path}: entry {name!r} is a {type(tensor).__name__}, not a tensor; save the "
                f"model's state_dict() alone"
            )
        if not tensor.is_floating_point() or tensor.layout is not torch.strided:
            raise _not_floating(path, name, f"{tensor.dtype}, {tensor.layout}")
        # float32 holds half precisions exactly, and NumPy has no bfloat16.
        tensors[str(name)] = tensor.detach().float().contiguous().numpy()
    return StateDict(tensors, ignored, notes)


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
