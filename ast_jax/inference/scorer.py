"""The compiled model: model inputs or waveforms in, scores out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from ast_jax.audio import fbank_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.kaldi import frame_sizes
from ast_jax.audio.waveform import check_peak, to_array
from ast_jax.errors import InputError
from ast_jax.inference.batching import count_frames
from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.thresholds import Calibration

FUNCTIONS = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "none": lambda logits: logits}


class Scorer:
    """Computes scores on the device; each shape of a batch is compiled once.

    Attributes:
        function: the name of the function that makes probabilities of logits.
    """

    def __init__(self, model: ASTForAudioClassification, extractor: ASTFeatureExtractor):
        self.config, self.extractor = model.config, extractor
        multi_label = self.config.problem_type == "multi_label_classification"
        self.function = "sigmoid" if multi_label else "softmax"
        graphdef, self._params = nnx.split(model)

        @partial(jax.jit, static_argnames="function")
        def apply_model(params: nnx.State, input_values: jax.Array, function: str) -> jax.Array:
            num_frames = self.count_frames(input_values)
            logits = nnx.merge(graphdef, params)(input_values, num_frames=num_frames)
            return FUNCTIONS[function](logits)

        @jax.jit
        def apply_to_waveforms(
            params: nnx.State, waveforms: jax.Array, lengths: jax.Array
        ) -> jax.Array:
            log_mels = fbank_jax.input_values(waveforms, lengths, extractor)
            return apply_model(params, log_mels, self.function)

        self._apply_model = apply_model
        self._apply_to_waveforms = apply_to_waveforms

    def count_frames(self, input_values: jax.Array) -> jax.Array | None:
        """Returns the model's `num_frames` for model inputs; None if it does not mask padding."""
        if not self.config.mask_padding:
            return None
        return count_frames(input_values, self.extractor)

    def __call__(self, input_values: npt.ArrayLike, function: str) -> jax.Array:
        """Computes the logits of model inputs and applies one of `FUNCTIONS` to them."""
        return self._apply_model(self._params, jnp.asarray(input_values), function)

    def probabilities(
        self, input_values: npt.ArrayLike, calibration: Calibration | None = None
    ) -> jax.Array:
        """See `AudioClassifier.probabilities`."""
        expected = (self.extractor.max_length, self.extractor.num_mel_bins)
        if np.shape(input_values)[1:] != expected or np.ndim(input_values) != 3:
            raise InputError(
                f"the inputs have shape {np.shape(input_values)}; give (batch, {expected[0]}, "
                f"{expected[1]})"
            )
        if not isinstance(input_values, jax.Array) and not np.isfinite(input_values).all():
            raise InputError("the inputs hold NaN or infinite values; repair or leave them out")
        if calibration is None:
            return self(input_values, self.function)
        return FUNCTIONS[self.function](calibration.rescale(self(input_values, "none")))

    def probabilities_of_waveforms(
        self, waveforms: npt.ArrayLike, lengths: npt.ArrayLike | None = None
    ) -> jax.Array:
        """See `AudioClassifier.probabilities_of_waveforms`."""
        if not isinstance(waveforms, jax.Array):
            waveforms = to_array(waveforms)
            _check_finite(waveforms)
        waveforms = jnp.asarray(waveforms)
        fbank_jax.check_waveforms(waveforms)
        size, _ = frame_sizes(self.extractor.sampling_rate)
        if lengths is None:
            lengths = np.full(len(waveforms), waveforms.shape[1])
        fbank_jax.check_lengths(lengths, waveforms, size)
        return self._apply_to_waveforms(self._params, waveforms, jnp.asarray(lengths))


def _check_finite(waveforms: np.ndarray) -> None:
    """Raises InputError for the first of several waveforms that cannot be computed with."""
    if not np.issubdtype(waveforms.dtype, np.floating) or waveforms.ndim != 2:
        return
    for i, waveform in enumerate(waveforms):
        check_peak(waveform, f"waveform {i} of {len(waveforms)} (from 0)")
