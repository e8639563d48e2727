"""A sound in, labels out."""

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
from ast_jax.models.ast import ASTForAudioClassification


class AudioClassifier:
    """Feature extractor, model and labels of one checkpoint.

    Attributes:
        feature_extractor: waveforms to model inputs.
        model: model inputs to logits.
        labels: class names in the order of the logits.
    """

    def __init__(self, checkpoint: Checkpoint):
        self.config = checkpoint.config
        self.feature_extractor = checkpoint.feature_extractor
        self.labels = checkpoint.config.labels
        self.model = ASTForAudioClassification.from_params(checkpoint.config, checkpoint.params)
        graphdef, self._params = nnx.split(self.model)
        to_probabilities = (
            jax.nn.sigmoid
            if self.config.problem_type == "multi_label_classification"
            else jax.nn.softmax
        )

        def of_input_values(params: nnx.State, input_values: jax.Array) -> jax.Array:
            return to_probabilities(nnx.merge(graphdef, params)(input_values))

        def of_waveforms(
            params: nnx.State, waveforms: jax.Array, lengths: jax.Array | None
        ) -> jax.Array:
            if lengths is None:
                lengths = jnp.full(waveforms.shape[:1], math.prod(waveforms.shape[1:]))
            log_mels = fbank_jax.input_values(waveforms, lengths, self.feature_extractor)
            return of_input_values(params, log_mels)

        self._of_input_values, self._of_waveforms = jax.jit(of_input_values), jax.jit(of_waveforms)

    @property
    def seconds(self) -> float:
        """How much of a clip the model hears: its first `seconds`."""
        return self.feature_extractor.max_length / 100

    def __call__(
        self, audio: str | Path | np.ndarray, top_k: int = 5, sampling_rate: int | None = None
    ) -> list[dict[str, Any]]:
        """The likeliest labels of a sound, best first.

        Args:
            audio: a sound file of any rate, or one waveform (samples,) in [-1, 1].
            top_k: how many labels.
            sampling_rate: of a waveform, in Hz; a file knows its own.

        Returns:
            `{"label": name, "score": probability}` for each. Probabilities are softmax, or
            sigmoid where classes do not exclude each other (AudioSet).

        Raises:
            InputError: the sound cannot be used.
        """
        if top_k < 1:
            raise InputError(f"top_k is {top_k}; ask for one label or more")
        if isinstance(audio, str | Path):
            # What reads files is missing on some machines that classify waveforms.
            from ast_jax.audio.decode import load_audio

            audio = load_audio(audio, self.feature_extractor.sampling_rate)
            sampling_rate = self.feature_extractor.sampling_rate
        elif sampling_rate is None:
            raise InputError("sampling_rate is not given; say the waveform's, in Hz")
        elif np.ndim(audio) != 1:
            raise InputError(
                f"the waveform has shape {np.shape(audio)}; give one channel of shape (samples,)"
            )
        input_values = self.feature_extractor(audio, sampling_rate)
        probabilities = np.asarray(self.probabilities(input_values))[0]
        if not np.isfinite(probabilities).all():
            raise InputError(
                "the model's output is not finite, so that the checkpoint must be damaged; use "
                "another"
            )
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return [{"label": self.labels[i], "score": float(probabilities[i])} for i in best]

    def probabilities(self, input_values: npt.ArrayLike) -> jax.Array:
        """(batch, max_length, num_mel_bins) → (batch, num_labels), on the device.

        The call returns at once; `np.asarray` of the result waits for it.
        """
        return self._of_input_values(self._params, jnp.asarray(input_values))

    def probabilities_of_waveforms(
        self, waveforms: npt.ArrayLike, lengths: npt.ArrayLike | None = None
    ) -> jax.Array:
        """(batch, samples) → (batch, num_labels); log-mels are computed on the device as well.

        The call returns at once; each shape of batch is compiled once.

        Args:
            waveforms: at the extractor's sampling rate, floats in [-1, 1], or int16, of which
                32768 is 1.
            lengths: integers (batch,), how many samples are each clip's own; all, where not given.

        Raises:
            InputError: the waveforms or the lengths have a wrong shape, or the former a wrong type.
        """
        waveforms = jnp.asarray(waveforms)
        if lengths is not None:
            lengths = jnp.asarray(lengths)
            if lengths.shape != waveforms.shape[:1]:
                raise InputError(
                    f"lengths have shape {lengths.shape} and the waveforms {waveforms.shape}: give "
                    f"a length for each clip"
                )
        return self._of_waveforms(self._params, waveforms, lengths)


def load(path: str | Path, **changes: Any) -> AudioClassifier:
    """Loads a checkpoint of ours or of PyTorch's as a classifier.

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
