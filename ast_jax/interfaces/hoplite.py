"""An embedding model for perch-hoplite, which searches and labels sounds by their embeddings."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier, load
from ast_jax.inference.windows import WindowInput, WindowSlicer, slice_sound

try:
    from perch_hoplite.zoo import zoo_interface
except ImportError as error:
    raise InputError(
        "ast_jax.interfaces.hoplite needs perch-hoplite, which cannot be imported; "
        "pip install 'ast-jax[hoplite]'"
    ) from error


@dataclasses.dataclass
class ASTEmbeddingModel(zoo_interface.EmbeddingModel):
    """Embeds the windows of recordings with a checkpoint, which `load` loads.

    Windows are those of `AudioClassifier.windows`: the last one has the rest of the recording.

    Attributes:
        sample_rate: the model's, in Hz.
        classifier: computes embeddings and logits.
        window_size_s: seconds of a window.
        hop_size_s: seconds from the start of a window to that of the next.
        batch_size: the number of windows that the device computes at once.
    """

    classifier: AudioClassifier
    window_size_s: float
    hop_size_s: float
    batch_size: int = 1

    def __post_init__(self) -> None:
        """Creates the lock: hoplite embeds in eight threads, and each would compile the model."""
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        model_path: str | Path,
        window_size_s: float | None = None,
        hop_size_s: float | None = None,
        batch_size: int = 1,
    ) -> "ASTEmbeddingModel":
        """Loads a checkpoint.

        Args:
            model_path: see `ast_jax.load`.
            window_size_s: seconds, at most the model's input, which is the default.
            hop_size_s: seconds, rounded to 10 ms and at most `window_size_s`, which is the default.
            batch_size: the number of windows that the device computes at once.

        Raises:
            InputError: the checkpoint cannot be used, or a size is out of its range.
        """
        classifier = load(model_path)
        slicer = WindowSlicer(classifier.feature_extractor, window_size_s, hop_size_s)
        return cls(slicer.rate, classifier, slicer.window, slicer.hop, batch_size)

    @classmethod
    def from_config(cls, model_config: Any) -> "ASTEmbeddingModel":
        """Loads the model of a ConfigDict that has the arguments of `load`."""
        return cls.load(**model_config)

    @property
    def embedding_dim(self) -> int:
        """The length of an embedding."""
        return self.classifier.config.hidden_size

    def embed(self, audio_array: np.ndarray) -> zoo_interface.InferenceOutputs:
        """Returns the embeddings (windows, 1, embedding_dim) and logits of a recording.

        Args:
            audio_array: (samples,) in [-1, 1] at `sample_rate`.

        Returns:
            Embeddings and, as `logits["label"]`, (windows, classes) in the order of
            `classifier.labels`.

        Raises:
            InputError: the audio cannot be used.
        """
        return zoo_interface.embed_from_batch_embed_fn(self.batch_embed, audio_array)

    def batch_embed(self, audio_batch: np.ndarray) -> zoo_interface.InferenceOutputs:
        """Returns the embeddings and logits of recordings of one length, each with a batch axis.

        Args:
            audio_batch: (batch, samples); otherwise as for `embed`.
        """
        if np.ndim(audio_batch) != 2:
            raise InputError(
                f"the audio has shape {np.shape(audio_batch)}; give one channel, (samples,) to "
                f"embed and (batch, samples) to batch_embed"
            )
        inputs = [each.input_values for audio in audio_batch for each in self._slice(audio)]
        with self._lock:
            embeddings = np.array(
                list(self.classifier.embed_inputs(inputs, batch_size=self.batch_size))
            )
            logits = np.asarray(self.classifier.model.classifier(jnp.asarray(embeddings)))
        shape = (len(audio_batch), len(inputs) // len(audio_batch))
        return zoo_interface.InferenceOutputs(
            embeddings=embeddings.reshape(*shape, 1, -1),
            logits={"label": logits.reshape(*shape, -1)},
            batched=True,
        )

    def _slice(self, audio: np.ndarray) -> list[WindowInput]:
        slicer = WindowSlicer(
            self.classifier.feature_extractor, self.window_size_s, self.hop_size_s
        )
        return list(slice_sound(audio, self.sample_rate, slicer))
