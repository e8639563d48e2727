"""An encoder for mteb and its audio tasks, the Massive Audio Embedding Benchmark (MAEB)."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float32

from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier, load
from ast_jax.interfaces.embed_recordings import embed_recordings

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
except ImportError as error:
    raise InputError(
        "ast_jax.interfaces.mteb needs mteb 2, which cannot be imported; "
        "pip install 'ast-jax[mteb]'"
    ) from error


class ASTEncoder(AbsEncoder):
    """Embeds the sounds of mteb's tasks with a checkpoint.

    Args:
        path: the path of a checkpoint, see `ast_jax.load`.
        name: of the model in mteb's results, "organization/model"; by default "ast_jax/" and the
            name of the folder or file.

    Raises:
        InputError: the checkpoint cannot be used.

    Examples:
        >>> encoder = ASTEncoder("checkpoints/audioset")
        >>> mteb.evaluate(encoder, mteb.get_tasks(["ESC50"]))
    """

    def __init__(self, path: str | Path, name: str | None = None):
        self.classifier = load(path)
        self.mteb_model_meta = model_meta(self.classifier, name or f"ast_jax/{Path(path).name}")

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Float32[np.ndarray, "sounds hidden"]:
        """Returns the embeddings of a task's sounds, as `embed_recordings` computes them.

        Args:
            inputs: batches with a list of sounds of any rates and lengths as "audio".
            task_metadata: of the task; its name is for messages.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: not used.
            **kwargs: `batch_size`, the number of windows that the device computes at once; others
                are not used.

        Raises:
            InputError: the task has inputs that are not audio, or a sound cannot be used.
        """
        sounds = (sound for batch in inputs for sound in self._sounds(batch, task_metadata))
        return embed_recordings(self.classifier, sounds, None, kwargs.get("batch_size", 32))

    def _sounds(self, batch: Any, task_metadata: Any) -> list[Any]:
        if "audio" not in batch:
            raise InputError(
                f"{task_metadata.name}: the inputs have {', '.join(batch)}, and the model embeds "
                f"audio only; choose another task"
            )
        return batch["audio"]


def model_meta(classifier: AudioClassifier, name: str) -> ModelMeta:
    """Returns mteb's description of a model.

    Its revision is a digest of the configuration and the parameters, as mteb reuses stored results
    of the same name and revision.
    """
    params = jax.tree.leaves(nnx.state(classifier.model, nnx.Param))
    digest = hashlib.sha256(repr((classifier.config, classifier.feature_extractor)).encode())
    for param in params:
        digest.update(np.asarray(param).tobytes())
    return ModelMeta(
        loader=None,
        name=name,
        revision=digest.hexdigest()[:16],
        release_date=None,
        languages=None,
        n_parameters=sum(param.size for param in params),
        memory_usage_mb=sum(param.nbytes for param in params) / 2**20,
        max_tokens=None,
        embed_dim=classifier.config.hidden_size,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["JAX"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
        modalities=["audio"],
    )
