"""Reads PyTorch and safetensors files, which are untrusted input."""

import re
import warnings
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np

from ast_jax.checkpoint.torch_names import HUGGINGFACE_PREFIX, CheckpointFormat, Tensors
from ast_jax.errors import InputError, first_line

# transformers 5 renames its modules in memory but not in the files it saves. A plain
# `torch.save(model.state_dict())` has the names in memory. Left: in memory; right: in files.
HF_IN_MEMORY = (
    (r"(^|\.)layers\.(\d+)\.attention\.q_proj\.", r"\1encoder.layer.\2.attention.attention.query."),
    (r"(^|\.)layers\.(\d+)\.attention\.k_proj\.", r"\1encoder.layer.\2.attention.attention.key."),
    (r"(^|\.)layers\.(\d+)\.attention\.v_proj\.", r"\1encoder.layer.\2.attention.attention.value."),
    (r"(^|\.)layers\.(\d+)\.attention\.o_proj\.", r"\1encoder.layer.\2.attention.output.dense."),
    (r"(^|\.)layers\.(\d+)\.mlp\.fc1\.", r"\1encoder.layer.\2.intermediate.dense."),
    (r"(^|\.)layers\.(\d+)\.mlp\.fc2\.", r"\1encoder.layer.\2.output.dense."),
    (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
)

# The NumPy reader of safetensors does not support BF16 in every version.
SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}


def read_tensors(path: Path) -> Tensors:
    """Reads the tensors of a `.safetensors` file or of a PyTorch file (`.pth`, `.pt`, `.bin`).

    PyTorch files are loaded with `weights_only=True`, which executes no code in them. The dict of
    tensors may be nested under `model` or `state_dict`, as in DeiT's files.

    Raises:
        InputError: the file is missing, truncated, contains code, or contains anything but
            floating-point tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a checkpoint")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not tensors:
        raise InputError(f"{path}: holds no tensors; give the file of a trained model")
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a complete safetensors file ({first_line(error)}); download or save it "
            f"again"
        ) from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            raise _not_floating(path, name, entry["dtype"])
        data = np.frombuffer(entry["data"], SAFETENSORS_DTYPES[entry["dtype"]])
        tensors[name] = data.reshape(entry["shape"])
    return tensors


def _read_torch(path: Path) -> Tensors:
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
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: holds a {type(content).__name__}, not a dict of tensors; save the model's "
            f"state_dict()"
        )
    tensors: Tensors = {}
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"{path}: entry {name!r} is a {type(tensor).__name__}, not a tensor; save the "
                f"model's state_dict() alone"
            )
        if not tensor.is_floating_point() or tensor.layout is not torch.strided:
            raise _not_floating(path, name, f"{tensor.dtype}, {tensor.layout}")
        # float32 holds half precisions exactly, and NumPy has no bfloat16.
        tensors[str(name)] = tensor.detach().float().contiguous().numpy()
    return tensors


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


def normalize_names(tensors: Tensors, source: str) -> tuple[Tensors, CheckpointFormat]:
    """Renames the tensors of any supported checkpoint to the names in `torch_names.TABLE`.

    Returns:
        The renamed tensors and their format.

    Raises:
        InputError: the tensors are neither an AST's nor a distilled DeiT's.
    """
    names = {name: name.removeprefix("module.") for name in tensors}
    if _any_startswith(names, "v."):
        return _rename(tensors, names, source), "original"
    if _any_startswith(names, "blocks.", "patch_embed."):
        if "dist_token" not in names.values():
            raise InputError(
                f"{source}: tensor dist_token is missing; AST starts from a *distilled* DeiT"
            )
        return _rename(tensors, names, source), "deit"
    for pattern, replacement in HF_IN_MEMORY:
        names = {old: re.sub(pattern, replacement, name) for old, name in names.items()}
    if not _any_startswith(names, HUGGINGFACE_PREFIX):  # an ASTModel, without its classifier
        if not _any_startswith(names, "embeddings.", "encoder.layer."):
            raise InputError(
                f"{source}: neither an AST nor a distilled DeiT by the names of its "
                f"{len(tensors)} tensors (the first is {next(iter(tensors))}); give another file"
            )
        names = {old: f"{HUGGINGFACE_PREFIX}.{name}" for old, name in names.items()}
    return _rename(tensors, names, source), "huggingface"


def _any_startswith(names: dict[str, str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names.values())


def _rename(tensors: Tensors, names: dict[str, str], source: str) -> Tensors:
    old_names: dict[str, str] = {}
    for old, new in names.items():
        if new in old_names:
            raise InputError(
                f"{source}: tensors {old_names[new]} and {old} are the same parameter; remove one"
            )
        old_names[new] = old
    return {new: tensors[old] for new, old in old_names.items()}
