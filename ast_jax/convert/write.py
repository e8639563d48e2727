"""From our checkpoint back to PyTorch: the original's `.pth` or a Hugging Face folder."""

import json
from pathlib import Path

from ast_jax.checkpoint import Checkpoint
from ast_jax.convert.files import import_torch, written_whole
from ast_jax.convert.names import tensors_from_params


def write_original(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a `.pth` as the original saves it, every name behind `module.`.

    The two unused ImageNet heads are not in it: the original's class loads it with
    `strict=False`, as it loads its own AudioSet checkpoint.

    Raises:
        InputError: `path` exists, or PyTorch is not installed.
    """
    torch = import_torch(f"writing {path}")
    tensors = tensors_from_params(checkpoint.params, "original")
    with written_whole(Path(path)) as place:
        torch.save({f"module.{k}": torch.from_numpy(v.copy()) for k, v in tensors.items()}, place)


def write_huggingface(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a folder that Hugging Face's `from_pretrained` loads, config and frontend included.

    Raises:
        InputError: `path` exists already.
    """
    from safetensors.numpy import save_file

    tensors = tensors_from_params(checkpoint.params, "huggingface")
    with written_whole(Path(path)) as place:
        place.mkdir()
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        config = json.dumps(checkpoint.config.to_dict(), indent=2)
        (place / "config.json").write_text(config + "\n", encoding="utf-8")
        checkpoint.feature_extractor.save_pretrained(place)
