"""From our checkpoint back to PyTorch: the original's `.pth` or a Hugging Face folder."""

import io
import json
from pathlib import Path

from ast_jax.checkpoint import Checkpoint, written_whole
from ast_jax.convert.files import import_torch
from ast_jax.convert.names import tensors_from_params


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
    with written_whole(Path(path)) as place:
        # By way of memory, as its own writing ends a full disk in an error that hides the cause.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        place.write_bytes(buffer.getvalue())


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
    with written_whole(Path(path)) as place:
        place.mkdir()
        (place / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        text = json.dumps(config, indent=2)
        (place / "config.json").write_text(text + "\n", encoding="utf-8")
        checkpoint.feature_extractor.save_pretrained(place)
