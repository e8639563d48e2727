"""From our checkpoint back to PyTorch: the original's `.pth` or a Hugging Face folder."""

import io
import json
from pathlib import Path

from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.torch_files import import_torch
from ast_jax.checkpoint.torch_infer import HEAD_WIDTH, infer_config, label_fields
from ast_jax.checkpoint.torch_names import tensors_from_params
from ast_jax.checkpoint.torch_read import published_extractor
from ast_jax.errors import InputError
from ast_jax.io import atomic_write
from ast_jax.models.config import GEOMETRY


def write_original(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a `.pth` as the original saves it, every name behind `module.`.

    The two unused ImageNet heads are not in it: the original's class loads it with
    `strict=False`, as it loads its own AudioSet checkpoint. Nor is the configuration: that
    class has its own epsilons, 1e-6 in the encoder and 1e-5 in the head.

    Raises:
        InputError: `path` exists or cannot be made, or PyTorch is not installed.
    """
    torch = import_torch(f"writing {path}")
    tensors = tensors_from_params(checkpoint.params, "original")
    content = {f"module.{k}": torch.from_numpy(v.copy()) for k, v in tensors.items()}
    with atomic_write(Path(path)) as place:
        # By way of memory, as its own writing ends a full disk in an error that hides the cause.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        place.write_bytes(buffer.getvalue())


def not_in_original(checkpoint: Checkpoint) -> list[str]:
    """What a reader of the `.pth` takes otherwise, as the file does not say it.

    They are the flags of convert_torch_weights.py that tell, and words where there is none.
    """
    config, extractor = checkpoint.config, checkpoint.feature_extractor
    told = {}
    if config.hidden_size != HEAD_WIDTH * config.num_attention_heads:
        told["num_attention_heads"] = config.num_attention_heads
    tensors = tensors_from_params(checkpoint.params, "original")
    geometry = {name: getattr(config, name) for name in GEOMETRY}
    try:
        found = infer_config(tensors, "original", dict(told), "the file")
        known = {name: getattr(found, name) for name in GEOMETRY} == geometry
    except InputError:
        known = False
    if not known:
        told |= geometry
    published, _ = published_extractor(config)
    for name in ("mean", "std"):
        if getattr(extractor, name) != getattr(published, name):
            told[name] = getattr(extractor, name)
    missing = [f"--{name.replace('_', '-')} {value}" for name, value in told.items()]
    if config.id2label not in (None, label_fields(config.num_labels).get("id2label")):
        missing.append("the names of its classes")
    return missing


def write_huggingface(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a folder that Hugging Face's `from_pretrained` loads, config and frontend included.

    Its class has one epsilon for all layer norms, and uses the encoder's in the head too.

    Raises:
        InputError: `path` exists or cannot be made.
    """
    from safetensors.numpy import save

    tensors = tensors_from_params(checkpoint.params, "huggingface")
    # There, dtype is the precision of the stored weights.
    config = checkpoint.config.to_dict() | {"dtype": "float32"}
    if "classifier" not in checkpoint.params:
        config["architectures"] = ["ASTModel"]
    with atomic_write(Path(path)) as place:
        place.mkdir()
        (place / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        text = json.dumps(config, indent=2)
        (place / "config.json").write_text(text + "\n", encoding="utf-8")
        checkpoint.feature_extractor.save_pretrained(place)
