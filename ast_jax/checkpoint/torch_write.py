"""Writes checkpoints for PyTorch: the original's `.pth` or a Hugging Face folder."""

import io
import json
from pathlib import Path

from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.torch_files import import_torch
from ast_jax.checkpoint.torch_infer import HEAD_WIDTH, infer_config
from ast_jax.checkpoint.torch_names import tensors_from_params
from ast_jax.checkpoint.torch_read import published_extractor
from ast_jax.errors import InputError
from ast_jax.io import atomic_write
from ast_jax.labels import label_fields
from ast_jax.models.config import GEOMETRY


def write_original(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a `.pth` as the original saves it, with names prefixed by `module.`.

    The file lacks the two unused ImageNet heads; the original's class loads it with
    `strict=False`, as it loads its own AudioSet checkpoint. The file lacks the configuration too:
    that class has fixed epsilons, 1e-6 in the encoder and 1e-5 in the head.

    Raises:
        InputError: `path` exists or cannot be written, or PyTorch is not installed.
    """
    torch = import_torch(f"writing {path}")
    tensors = tensors_from_params(checkpoint.params, "original")
    content = {f"module.{k}": torch.from_numpy(v.copy()) for k, v in tensors.items()}
    with atomic_write(Path(path)) as temporary:
        # Serialized in memory, as torch.save to a full disk raises an error without the reason.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        temporary.write_bytes(buffer.getvalue())


def not_in_original(checkpoint: Checkpoint) -> str:
    """Lists what a `.pth` does not record and a reader would assume otherwise.

    Returns:
        Flags of convert_torch_weights.py with their values, and words where there is no flag; ""
        if nothing is missing.
    """
    config, extractor = checkpoint.config, checkpoint.feature_extractor
    unrecorded = {}
    if config.hidden_size != HEAD_WIDTH * config.num_attention_heads:
        unrecorded["num_attention_heads"] = config.num_attention_heads
    tensors = tensors_from_params(checkpoint.params, "original")
    geometry = {name: getattr(config, name) for name in GEOMETRY}
    try:
        inferred = infer_config(tensors, "original", dict(unrecorded), "the file")
        same_geometry = {name: getattr(inferred, name) for name in GEOMETRY} == geometry
    except InputError:
        same_geometry = False
    if not same_geometry:
        unrecorded |= geometry
    published, _ = published_extractor(config.replace(**label_fields(config.num_labels)))
    for name in ("mean", "std"):
        if getattr(extractor, name) != getattr(published, name):
            unrecorded[name] = getattr(extractor, name)
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in unrecorded.items())
    missing = [flags] if flags else []
    if config.id2label not in (None, label_fields(config.num_labels).get("id2label")):
        missing.append("the names of its classes")
    return " and ".join(missing)


def write_huggingface(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a folder that Hugging Face's `from_pretrained` loads, with config and extractor.

    Hugging Face's class uses the encoder's epsilon in the head too.

    Raises:
        InputError: `path` exists or cannot be written.
    """
    from safetensors.numpy import save

    tensors = tensors_from_params(checkpoint.params, "huggingface")
    # In transformers, dtype is the precision of the stored weights.
    config = checkpoint.config.to_dict() | {"dtype": "float32"}
    if "classifier" not in checkpoint.params:
        config["architectures"] = ["ASTModel"]
    with atomic_write(Path(path)) as folder:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        text = json.dumps(config, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        checkpoint.feature_extractor.save_pretrained(folder)
