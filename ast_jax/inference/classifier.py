"""The classifier: a sound in, labels out."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from ast_jax.audio import fbank_jax
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.errors import InputError
from ast_jax.models.ast import ASTForAudioClassification, round_kernels


class AudioClassifier:
    """Classifies sounds with the feature extractor, model and labels of one checkpoint.

    Attributes:
        config: the model's configuration.
        feature_extractor: converts waveforms to model inputs.
        model: converts model inputs to logits.
        labels: class names in the order of the logits.
    """

    def __init__(self, checkpoint: Checkpoint):
        self.config = checkpoint.config
        self.feature_extractor = checkpoint.feature_extractor
        self.labels = checkpoint.config.labels
        params = round_kernels(checkpoint.config, checkpoint.params)
        self.model = ASTForAudioClassification.from_params(checkpoint.config, params)
        graphdef, self._params = nnx.split(self.model)
        multi_label = self.config.problem_type == "multi_label_classification"

        @jax.jit
        def probabilities(params: nnx.State, input_values: jax.Array) -> jax.Array:
            logits = nnx.merge(graphdef, params)(input_values)
            return jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits)

        @jax.jit
        def probabilities_of_waveforms(
            params: nnx.State, waveforms: jax.Array, lengths: jax.Array | None
        ) -> jax.Array:
            if lengths is None:
                lengths = jnp.full(waveforms.shape[:1], math.prod(waveforms.shape[1:]))
            log_mels = fbank_jax.input_values(waveforms, lengths, self.feature_extractor)
            return probabilities(params, log_mels)

        self._probabilities = probabilities
        self._probabilities_of_waveforms = probabilities_of_waveforms

    @property
    def seconds(self) -> float:
        """The length of the model's input; it ignores the rest of a longer clip."""
        return self.feature_extractor.max_length / 100

    def __call__(
        self, audio: str | Path | np.ndarray, top_k: int = 5, sampling_rate: int | None = None
    ) -> list[dict[str, Any]]:
        """Returns the most probable labels of a sound, best first.

        Args:
            audio: a sound file of any sampling rate, or a waveform (samples,) in [-1, 1].
            top_k: the number of labels.
            sampling_rate: the waveform's, in Hz; not used for a file.

        Returns:
            One `{"label": name, "score": probability}` per label. Probabilities are softmax, or
            sigmoid for multi-label models (AudioSet).

        Raises:
            InputError: the sound cannot be used.
        """
        if top_k < 1:
            raise InputError(f"top_k is {top_k}; it must be at least 1")
        if isinstance(audio, str | Path):
            # Imported here, as classifying waveforms does not need the libraries that read files.
            from ast_jax.audio.decode import load_audio

            audio = load_audio(audio, self.feature_extractor.sampling_rate)
            sampling_rate = self.feature_extractor.sampling_rate
        elif sampling_rate is None:
            raise InputError("sampling_rate is missing; give the waveform's, in Hz")
        elif np.ndim(audio) != 1:
            raise InputError(
                f"the waveform has shape {np.shape(audio)}; give one channel of shape (samples,)"
            )
        input_values = self.feature_extractor(audio, sampling_rate)
        probabilities = np.asarray(self.probabilities(input_values))[0]
        if not np.isfinite(probabilities).all():
            raise InputError(
                "the model's output is not finite, so the checkpoint must be damaged; use another"
            )
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return [{"label": self.labels[i], "score": float(probabilities[i])} for i in best]

    def probabilities(self, input_values: npt.ArrayLike) -> jax.Array:
        """Computes (batch, max_length, num_mel_bins) → (batch, num_labels) on the device.

        Returns before the computation ends; `np.asarray` of the result waits for it.
        """
        return self._probabilities(self._params, jnp.asarray(input_values))

    def probabilities_of_waveforms(
        self, waveforms: npt.ArrayLike, lengths: npt.ArrayLike | None = None
    ) -> jax.Array:
        """Computes (batch, samples) → (batch, num_labels), log-mels included, on the device.

        Returns before the computation ends. Each batch shape is compiled once.

        Args:
            waveforms: at the extractor's sampling rate, floats in [-1, 1], or int16 with a full
                scale of 32768.
            lengths: integers (batch,), the number of samples of each clip before padding; by
                default all.

        Raises:
            InputError: the waveforms or lengths have a wrong shape, or the waveforms a wrong type.
        """
        waveforms = jnp.asarray(waveforms)
        if lengths is not None:
            lengths = jnp.asarray(lengths)
            if lengths.shape != waveforms.shape[:1]:
                raise InputError(
                    f"lengths have shape {lengths.shape} and the waveforms {waveforms.shape}; give "
                    f"one length per clip"
                )
        return self._probabilities_of_waveforms(self._params, waveforms, lengths)


def load(path: str | Path, **changes: Any) -> AudioClassifier:
    """Loads a checkpoint of ast_jax or PyTorch as a classifier.

    Args:
        path: see `ASTForAudioClassification.from_pretrained`.
        **changes: fields of `ASTConfig` to change, such as `dtype="bfloat16"`.

    Raises:
        InputError: the checkpoint cannot be used; the message names the file or tensor.

    Example:
        >>> classifier = ast_jax.load("runs/demo")
        >>> classifier("dog.wav", top_k=2)
        [{'label': 'Dog', 'score': 0.87}, {'label': 'Bark', 'score': 0.71}]
    """
    return AudioClassifier(read_checkpoint(path, **changes))
