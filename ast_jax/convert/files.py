"""Reading and writing PyTorch and safetensors files, which are hostile until checked."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ast_jax.convert.names import Layout, Tensors
from ast_jax.errors import InputError

# transformers 5 calls its modules in memory by other names than it writes to files; a
# `torch.save(model.state_dict())` bears these. Left: in memory; right: in files.
HF_IN_MEMORY = (
    (r"(^|\.)layers\.(\d+)\.attention\.q_proj\.", r"\1encoder.layer.\2.attention.attention.query."),
    (r"(^|\.)layers\.(\d+)\.attention\.k_proj\.", r"\1encoder.layer.\2.attention.attention.key."),
    (r"(^|\.)layers\.(\d+)\.attention\.v_proj\.", r"\1encoder.layer.\2.attention.attention.value."),
    (r"(^|\.)layers\.(\d+)\.attention\.o_proj\.", r"\1encoder.layer.\2.attention.output.dense."),
    (r"(^|\.)layers\.(\d+)\.mlp\.fc1\.", r"\1encoder.layer.\2.intermediate.dense."),
    (r"(^|\.)layers\.(\d+)\.mlp\.fc2\.", r"\1encoder.layer.\2.output.dense."),
    (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
)


def read_tensors(path: Path) -> Tensors:
    """The tensors of a `.safetensors` file or of a `.pth`, `.pt` or `.bin` PyTorch file.

    PyTorch files are read with `weights_only=True`, which runs no code that is in them. A
    dict of tensors may sit under `model` or `state_dict`, as DeiT's files have it.

    Raises:
        InputError: the file is missing, truncated, holds code, or holds no tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not tensors:
        raise InputError(f"{path}: holds no tensors")
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


def _read_torch(path: Path) -> Tensors:
    torch = import_torch(f"reading {path}")
    import pickle

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds more than tensors (pickled code, or damage), and is not loaded: "
            f"save the model's state_dict() alone"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a whole PyTorch file ({reason})") from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a dict of tensors")
    tensors = {}
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{path}: entry {name!r} is a {type(tensor).__name__}, not a tensor")
        # bfloat16 is no NumPy type; its values fit float32 exactly.
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        tensors[str(name)] = tensor.detach().contiguous().numpy()
    return tensors


def import_torch(purpose: str) -> ModuleType:
    """PyTorch, or an `InputError` that says how to get it."""
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{purpose} needs PyTorch, which is not installed: pip install 'ast-jax[convert]'"
        ) from None
    return torch


def to_file_names(tensors: Tensors, source: str) -> tuple[Tensors, Layout, bool]:
    """Brings the names of any known checkpoint to those of the table.

    Returns:
        The tensors, their layout, and whether they are an ImageNet (DeiT) checkpoint, whose
        patch embedding has three channels and whose names lack the original's `v.`.

    Raises:
        InputError: these are no AST's or distilled DeiT's tensors.
    """
    names = {name: name.removeprefix("module.") for name in tensors}
    if "v.cls_token" in names.values():
        return _renamed(tensors, names), "original", False
    if "blocks.0.attn.qkv.weight" in names.values():
        if "dist_token" not in names.values():
            raise InputError(
                f"{source}: tensor dist_token is missing: AST starts from a *distilled* DeiT"
            )
        return _renamed(tensors, {k: f"v.{name}" for k, name in names.items()}), "original", True
    for pattern, replacement in HF_IN_MEMORY:
        names = {k: re.sub(pattern, replacement, name) for k, name in names.items()}
    prefix = "audio_spectrogram_transformer."
    if "embeddings.cls_token" in names.values():  # a bare ASTModel, without its classifier
        names = {k: prefix + name for k, name in names.items()}
    if prefix + "embeddings.cls_token" not in names.values():
        raise InputError(
            f"{source}: neither an AST nor a distilled DeiT: no class token among its "
            f"{len(tensors)} tensors (the first is {next(iter(tensors))})"
        )
    return _renamed(tensors, names), "huggingface", False


def _renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    return {names[name]: tensor for name, tensor in tensors.items()}


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a place beside `path` to write a file or folder to, renamed to `path` at the end.

    Raises:
        InputError: `path` exists already. Whatever fails, nothing half-written is left.
    """
    if path.exists():
        raise InputError(f"{path}: exists already; choose another output or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield place
        place.rename(path)
    finally:
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
