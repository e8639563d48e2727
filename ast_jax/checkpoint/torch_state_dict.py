"""Finds a model's tensors in what people save, and renames them as in `torch_names.TABLE`.

A state dict may be nested in the dict of a training script, and its names have prefixes of
DataParallel, torch.compile, Lightning or averaged copies.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from ast_jax.checkpoint.torch_names import HUGGINGFACE_PREFIX, CheckpointFormat, Tensors
from ast_jax.errors import InputError

# Keys under which training scripts save a state dict, in order of preference.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module", "net")
EMA_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema")
MAX_NESTING = 8  # real files have two levels

# Modules that wrap a model; no tensor of an AST or DeiT has a name with such a part.
WRAPPERS = {
    *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    *("model", "net", "online_model"),
}
EMA_WRAPPERS = {"ema_model", "model_ema", "ema"}

# Tensors beside the model: counters of AveragedModel and of ema_pytorch, and the weights of losses.
COUNTERS = {"n_averaged", "initted", "step"}
LOSS_WEIGHTS = {"pos_weight", "class_weight", "class_weights"}
LOSS_MODULE = re.compile(r"(\w+_)?(loss|criterion)(_\w+)?")

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


def find_state_dict(content: dict[Any, Any], tensor_type: type) -> tuple[dict[Any, Any], list[str]]:
    """Finds the dict of tensors in the content of a file, which may be nested under known keys.

    Where several are found, a plain one is preferred to an EMA copy.

    Returns:
        The dict, empty if there are no tensors; and notes about the choice among several.
    """
    found = _state_dicts(content, tensor_type, (), set())
    if not found:
        return {}, []
    found.sort(key=lambda entry: _is_ema_path(entry[0]))  # stable
    (path, state_dict), *others = found
    notes = []
    if others:
        unused = " and ".join(_describe_path(other) for other, _ in others)
        notes.append(f"{_describe_path(path)} is used, and {unused} is not")
    elif _is_ema_path(path):
        notes.append(f"{_describe_path(path)} is used, as the file has no plain weights")
    return state_dict, notes


def _state_dicts(
    content: dict[Any, Any], tensor_type: type, path: tuple[str, ...], seen: set[int]
) -> list[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Returns the innermost dicts of tensors, each with the keys that lead to it."""
    if id(content) in seen or len(path) > MAX_NESTING:  # a pickled dict may contain itself
        return []
    seen.add(id(content))
    nested = [
        entry
        for key in (*STATE_DICT_KEYS, *EMA_KEYS)
        if isinstance(content.get(key), dict)
        for entry in _state_dicts(content[key], tensor_type, (*path, key), seen)
    ]
    # A scalar beside them, such as the loss, is no state dict.
    if nested or not any(isinstance(value, tensor_type) for value in content.values()):
        return nested
    return [(path, content)]


def _is_ema_path(path: tuple[str, ...]) -> bool:
    return any(key in EMA_KEYS for key in path)


def _describe_path(path: tuple[str, ...]) -> str:
    return f"'{'.'.join(path)}'" + (" (an EMA copy)" if _is_ema_path(path) else "")


def is_beside_model(name: str) -> bool:
    """Returns whether a tensor is, by its name, a counter or belongs to a loss."""
    *modules, last = name.split(".")
    return last in COUNTERS | LOSS_WEIGHTS or any(map(LOSS_MODULE.fullmatch, modules))


class NamedTensors(NamedTuple):
    """A checkpoint's tensors with the names in `torch_names.TABLE`.

    Attributes:
        tensors: the tensors.
        checkpoint_format: the format of their names.
        notes: what was chosen among several copies of the weights.
    """

    tensors: Tensors
    checkpoint_format: CheckpointFormat
    notes: list[str]


def normalize_names(tensors: Tensors, source: str) -> NamedTensors:
    """Renames the tensors of any supported checkpoint to the names in `torch_names.TABLE`.

    Raises:
        InputError: the tensors are neither an AST's nor a distilled DeiT's.
    """
    names, notes = _select_copy({name: _strip_wrappers(name) for name in tensors})
    if _any_startswith(names, "v."):
        return NamedTensors(_rename(tensors, names, source), "original", notes)
    if _any_startswith(names, "blocks.", "patch_embed."):
        if "dist_token" not in names.values():
            raise InputError(
                f"{source}: tensor dist_token is missing; AST starts from a *distilled* DeiT"
            )
        return NamedTensors(_rename(tensors, names, source), "deit", notes)
    for pattern, replacement in HF_IN_MEMORY:
        names = {old: re.sub(pattern, replacement, name) for old, name in names.items()}
    if not _any_startswith(names, HUGGINGFACE_PREFIX):  # an ASTModel, without its classifier
        if not _any_startswith(names, "embeddings.", "encoder.layer."):
            raise InputError(
                f"{source}: neither an AST nor a distilled DeiT by the names of its "
                f"{len(tensors)} tensors (the first is {next(iter(tensors))}); give another file"
            )
        names = {old: f"{HUGGINGFACE_PREFIX}.{name}" for old, name in names.items()}
    return NamedTensors(_rename(tensors, names, source), "huggingface", notes)


def _strip_wrappers(name: str) -> str:
    """Removes the names of wrapping modules, wherever they are in a tensor's name."""
    *modules, last = name.split(".")
    return ".".join([m for m in modules if m not in WRAPPERS | EMA_WRAPPERS] + [last])


def _is_ema_name(name: str) -> bool:
    """Returns whether the innermost wrapper of a tensor is an EMA copy's.

    ema_pytorch keeps both copies: `ema.online_model` and `ema.ema_model`.
    """
    wrappers = [m for m in name.split(".")[:-1] if m in EMA_WRAPPERS | {"online_model"}]
    return bool(wrappers) and wrappers[-1] in EMA_WRAPPERS


def _select_copy(names: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Leaves an EMA copy of the weights out if there is a plain one too; returns notes as well.

    Args:
        names: names without wrappers by names in the file.
    """
    ema = {name for name in names if _is_ema_name(name)}
    plain = {old: new for old, new in names.items() if old not in ema}
    if not ema:
        return names, []
    if not any(new.endswith("cls_token") for new in plain.values()):  # every format has one
        return names, [f"an EMA copy ({min(ema)}, …) is used, as the file has no plain weights"]
    return plain, [f"the plain weights are used, and the EMA copy ({min(ema)}, …) is not"]


def _any_startswith(names: dict[str, str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names.values())


def _rename(tensors: Tensors, names: dict[str, str], source: str) -> Tensors:
    """Returns the tensors by new names; a module saved under two names gives each tensor once."""
    old_names: dict[str, str] = {}
    for old, new in names.items():
        first = old_names.setdefault(new, old)
        if first != old and not np.array_equal(tensors[first], tensors[old]):
            raise InputError(
                f"{source}: tensors {first} and {old} are the same parameter and differ; remove one"
            )
    return {new: tensors[old] for new, old in old_names.items()}
