"""From any PyTorch checkpoint to ours, with an account of what was done."""

from pathlib import Path
from typing import Any, NamedTuple

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint import Checkpoint
from ast_jax.convert.files import read_tensors, to_file_names
from ast_jax.convert.infer import GEOMETRY, infer_config, infer_encoder, label_fields, square_grid
from ast_jax.convert.names import Tensors, params_from_tensors
from ast_jax.errors import InputError
from ast_jax.labels import AUDIOSET, BY_NUM_LABELS
from ast_jax.models.adapt import resize_position_embeddings
from ast_jax.models.config import ASTConfig, read_json

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder


class Converted(NamedTuple):
    """A checkpoint read from PyTorch, and what a person should know about it."""

    checkpoint: Checkpoint
    notes: list[str]


def read_torch_checkpoint(
    path: str | Path,
    source_fields: dict[str, int] | None = None,
    target_fields: dict[str, Any] | None = None,
) -> Converted:
    """Reads an original `.pth`, a Hugging Face folder, a `.safetensors`, or a DeiT checkpoint.

    Args:
        path: the file or folder.
        source_fields: strides, `max_length` and `num_mel_bins` of a file that is ambiguous.
        target_fields: fields of the AST to make from an ImageNet checkpoint, which has none of
            its own; elsewhere unused.

    Raises:
        InputError: the checkpoint cannot be used; the message names the file or tensor.
    """
    path, source_fields = Path(path), dict(source_fields or {})
    folder = path.is_dir()
    file = _weights(path) if folder else path
    tensors, layout, imagenet = to_file_names(read_tensors(file), str(file))
    notes = [f"{file}: {len(tensors)} tensors, {'DeiT' if imagenet else layout} names"]
    if imagenet:
        config = _ast_from_imagenet(tensors, target_fields or {}, source_fields, str(file))
        notes.append("an ImageNet checkpoint, the start of a training: it has no classifier")
    elif folder:
        config = _config_of_folder(path, source_fields)
    else:
        config = infer_config(tensors, layout, source_fields, str(file))
        notes.append(f"inferred: {_summary(config)}")
    params, ignored = params_from_tensors(tensors, layout, config, str(file))
    notes.append(f"ignored: {', '.join(ignored) or 'nothing'}")
    if folder and (path / "preprocessor_config.json").exists():
        extractor = ASTFeatureExtractor.from_pretrained(path)
    else:
        extractor = _published_extractor(config, notes)
    for name in ("max_length", "num_mel_bins"):
        if getattr(extractor, name) != getattr(config, name):
            raise InputError(
                f"{path}: {name} is {getattr(config, name)} in config.json and "
                f"{getattr(extractor, name)} in preprocessor_config.json; correct one of them"
            )
    return Converted(Checkpoint(config, extractor, params), notes)


def _weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise InputError(f"{folder}: no checkpoint: it holds neither {' nor '.join(WEIGHTS)}")


def _config_of_folder(folder: Path, source_fields: dict[str, int]) -> ASTConfig:
    fields = read_json(folder / "config.json")
    config = ASTConfig.from_dict(fields, source=str(folder / "config.json"))
    for name, value in source_fields.items():
        if getattr(config, name) != value:
            raise InputError(
                f"{folder / 'config.json'}: {name} is {getattr(config, name)}, not {value}; "
                f"leave the flag out"
            )
    benchmark = label_fields(config.num_labels)
    # Hugging Face's files do not say that AudioSet's classes are not exclusive.
    if not fields.get("problem_type") and benchmark.get("id2label") == config.id2label:
        config = config.replace(problem_type=benchmark["problem_type"])
    return config


def _ast_from_imagenet(
    tensors: Tensors, target: dict[str, Any], source_fields: dict[str, int], source: str
) -> ASTConfig:
    """Makes the tensors those of an AST, in place: one channel, and the target's positions.

    As the original's `ASTModel.__init__`: the patch embedding is the sum over RGB.
    """
    config = ASTConfig().replace(
        **infer_encoder(tensors, "original", source) | source_fields | target
    )
    name = "v.patch_embed.proj.weight"
    if tensors[name].shape[1] != 3:
        raise InputError(
            f"{source}: tensor {name} has shape {tensors[name].shape}; an ImageNet checkpoint "
            f"has three channels"
        )
    tensors[name] = tensors[name].sum(axis=1, keepdims=True)
    grid = square_grid(tensors["v.pos_embed"].shape[1] - 2, source)
    tensors["v.pos_embed"] = resize_position_embeddings(tensors["v.pos_embed"], grid, config.grid)
    return config


def _published_extractor(config: ASTConfig, notes: list[str]) -> ASTFeatureExtractor:
    """The statistics a file without preprocessor_config.json was most likely trained with."""
    benchmark = BY_NUM_LABELS.get(config.num_labels, AUDIOSET)
    notes.append(
        f"no preprocessor_config.json: mean {benchmark.mean} and std {benchmark.std}, "
        f"those of {benchmark.class_list}"
    )
    return ASTFeatureExtractor(
        num_mel_bins=config.num_mel_bins,
        max_length=config.max_length,
        mean=benchmark.mean,
        std=benchmark.std,
    )


def _summary(config: ASTConfig) -> str:
    frequency, time = config.grid
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", *GEOMETRY, "num_labels")
    fields = ", ".join(f"{name} {getattr(config, name)}" for name in names)
    return f"{fields} ({frequency} x {time} patches)"
