"""The classifier: a sound in, labels out."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Float32

from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.load import read_checkpoint
from ast_jax.columns import Columns
from ast_jax.errors import InputError
from ast_jax.inference.batching import check_count, check_finite, padded_batches
from ast_jax.inference.column_scores import (
    check_no_window,
    column_slicer,
    highest_scores,
    score_columns,
)
from ast_jax.inference.embeddings import Embedder, embedding_shape
from ast_jax.inference.explain import Explainer, Explanation, Method
from ast_jax.inference.model_inputs import map_sounds, model_input
from ast_jax.inference.scorer import FUNCTIONS, Scorer
from ast_jax.inference.windows import Window, WindowSlicer, score_windows, slice_sound
from ast_jax.models.ast import ASTForAudioClassification, round_kernels
from ast_jax.thresholds import Calibration, Thresholds, calibration_of

Labels = list[dict[str, Any]]  # of one sound: {"label": name, "score": number}, best first


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
        self._scorer = Scorer(self.model, self.feature_extractor)
        self._embedder = Embedder(self.model.ast, self._scorer.count_frames)
        self._explainer = Explainer(self.model, self.feature_extractor, self.probabilities)

    @property
    def seconds(self) -> float:
        """The length of the model's input; it ignores the rest of a longer clip."""
        return self.feature_extractor.max_length / 100

    def __call__(
        self,
        audio: Any,
        top_k: int | None = 5,
        sampling_rate: int | None = None,
        *,
        function_to_apply: str | None = None,
        batch_size: int = 1,
    ) -> Any:
        """Returns the most probable labels of a sound or of several, best first.

        Of a frame-level model a label's score is the highest over time.

        Args:
            audio: a sound or a list of sounds of any kinds and lengths. A sound is a sound file:
                its path, its content as bytes, or a file object; or a waveform (samples,) with
                its sampling rate: an array of NumPy or JAX or a PyTorch tensor, of floats in
                [-1, 1] or int16; or a dict with "array" or "raw" and "sampling_rate", or with
                "bytes" or "path", as in an Audio column of `datasets`. All are resampled to the
                model's rate. Only the beginning of a sound longer than the model's input is used;
                `windows` scores all of it.
            top_k: the number of labels; None for all.
            sampling_rate: of arrays without their own, in Hz.
            function_to_apply: what makes scores of logits: "softmax", "sigmoid" or "none"; by
                default sigmoid for multi-label models (AudioSet), else softmax.
            batch_size: the number of sounds that the device computes at once.

        Returns:
            One `{"label": name, "score": probability}` per label; for a list of sounds a list of
            such lists. An iterator, such as a generator, is read while the result is: the result
            is an iterator of such lists.

        Raises:
            InputError: a sound or an argument cannot be used; the message names the sound's index
                in a list, and its path.
        """
        compute = partial(
            self.classify_inputs,
            top_k=top_k,
            function_to_apply=function_to_apply,
            batch_size=batch_size,
        )
        return map_sounds(compute, audio, sampling_rate, self.feature_extractor)

    def preprocess(
        self, sound: Any, sampling_rate: int | None = None
    ) -> Float32[np.ndarray, "max_length mel_bins"]:
        """Returns the model's input for one sound; arguments and errors are those of a call."""
        return model_input(sound, sampling_rate, self.feature_extractor)

    def classify_inputs(
        self,
        inputs: Iterable[np.ndarray],
        top_k: int | None = 5,
        function_to_apply: str | None = None,
        batch_size: int = 1,
    ) -> Iterator[Labels]:
        """Yields the labels of each of several model inputs, see `preprocess`.

        Inputs are read in batches as the results are. The last batch is padded, so that the model
        is compiled for one shape.

        Args:
            inputs: (max_length, num_mel_bins) each.
            top_k: as for a call.
            function_to_apply: as for a call.
            batch_size: as for a call.

        Raises:
            InputError: an argument cannot be used, or the model's output is not finite.
        """
        check_count("batch_size", batch_size)
        if top_k is not None:
            check_count("top_k", top_k)
        function = self._scorer.function if function_to_apply is None else function_to_apply
        if not isinstance(function, str) or function not in FUNCTIONS:
            raise InputError(
                f"function_to_apply is {function!r}; give one of {', '.join(FUNCTIONS)}"
            )
        return self._classify(iter(inputs), top_k, function, batch_size)

    def _classify(
        self, inputs: Iterator[np.ndarray], top_k: int | None, function: str, batch_size: int
    ) -> Iterator[Labels]:
        for batch, count in padded_batches(inputs, batch_size):
            computed = np.asarray(self._scorer(batch, function))
            if self.config.frame_level:
                computed = highest_scores(computed, batch, self.config, self.feature_extractor)
            for scores in computed[:count]:
                yield self.best_labels(scores, top_k)

    def best_labels(self, scores: Float32[np.ndarray, " classes"], top_k: int | None) -> Labels:
        """Returns the labels with the highest scores, best first; all of them for `top_k` None."""
        check_finite(scores)
        best = np.argsort(-scores, kind="stable")[:top_k]
        return [{"label": self.labels[i], "score": float(scores[i])} for i in best]

    def windows(
        self,
        sound: Any,
        window: float | None = None,
        hop: float | None = None,
        *,
        sampling_rate: int | None = None,
        batch_size: int = 8,
        thresholds: Thresholds | None = None,
    ) -> Iterator[Window]:
        """Yields the scores of the windows of a recording of any length, as they are computed.

        A file is read in blocks, and each frame of its log-mel is computed once. The scores are
        those of a call with the samples of the window.

        Args:
            sound: a sound in any form that a call takes.
            window: the length of a window in seconds; None for the model's input.
            hop: from the start of one window to the next, in seconds, rounded to whole frames
                (10 ms at most rates); None for the window's length. The last window is shorter
                if frames are left that no other window has. A frame-level model takes neither:
                its windows are the columns of patches, 100 ms with a stride of 10 frames.
            sampling_rate: of an array without its own, in Hz.
            batch_size: the number of windows that the device computes at once.
            thresholds: of this model; the scores are calibrated by their calibration, if any.

        Raises:
            InputError: an argument cannot be used; or, as the windows are read, the sound. If a
                file is damaged, the windows of what precedes the damage are yielded first.

        Examples:
            >>> for start, end, scores in classifier.windows("day.wav", window=10, hop=5):
            ...     print(start, end, classifier.labels[scores.argmax()])
        """
        check_count("batch_size", batch_size)
        calibration = calibration_of(thresholds, self.labels)
        score = partial(self.probabilities, calibration=calibration)
        if self.config.frame_level:
            check_no_window(window, hop)
            columns = Columns.of(self.config, self.feature_extractor.sampling_rate)
            slicer = column_slicer(self.feature_extractor, columns)
            inputs = slice_sound(sound, sampling_rate, slicer)
            return score_columns(inputs, slicer, columns, score, batch_size)
        slicer = WindowSlicer(self.feature_extractor, window, hop)
        return score_windows(slice_sound(sound, sampling_rate, slicer), score, batch_size)

    def embed(
        self,
        audio: Any,
        pooling: str = "pooled",
        layer: int | None = None,
        sampling_rate: int | None = None,
        *,
        batch_size: int = 1,
    ) -> Any:
        """Returns the embedding of a sound or of several, float32.

        Args:
            audio: as for a call.
            pooling: "pooled" (the mean of the class and the distillation token, from which the
                classifier computes logits), "cls", "distillation", "mean" (of the patches), or
                "patches" (each of them).
            layer: an index into the encoder's states: 0 for the patch embeddings, 1 for the first
                layer, -1 for the last. As Hugging Face's `hidden_states` they have no final layer
                norm. None for the last after the final norm, as `last_hidden_state` and
                `pooler_output`.
            sampling_rate: as for a call.
            batch_size: as for a call.

        Returns:
            (hidden,), or (frequency, time, hidden) for "patches"; for a list of sounds an array
            with a leading axis; for an iterator an iterator, which reads it.

        Raises:
            InputError: as a call.
        """
        compute = partial(self.embed_inputs, pooling=pooling, layer=layer, batch_size=batch_size)
        result = map_sounds(compute, audio, sampling_rate, self.feature_extractor)
        if not isinstance(result, list):
            return result
        return np.array(result, np.float32).reshape(-1, *embedding_shape(self.config, pooling))

    def embed_inputs(
        self,
        inputs: Iterable[np.ndarray],
        pooling: str = "pooled",
        layer: int | None = None,
        batch_size: int = 1,
    ) -> Iterator[np.ndarray]:
        """Yields the embedding of each of several model inputs, see `embed`.

        Batches are those of `classify_inputs`.
        """
        return self._embedder(inputs, pooling, layer, batch_size)

    def explain(
        self,
        audio: Any,
        labels: Sequence[str] | None = None,
        top_k: int | None = None,
        method: Method = "relevance",
        sampling_rate: int | None = None,
    ) -> Any:
        """Returns maps of what the scores of a sound depend on, over time and frequency.

        Args:
            audio: as for a call.
            labels: the classes to explain.
            top_k: explains the most probable classes instead; 3 if `labels` is None, too.
            method: "relevance", a map for each class: attention weighted by the gradient of the
                class's logit (Chefer, Gur and Wolf 2021); "rollout", one map: attention
                multiplied through the layers (Abnar and Zuidema 2020); or "heads": the attention
                weights of the class and the distillation token in each head of each layer.
            sampling_rate: as for a call.

        Returns:
            An `Explanation`; for a list of sounds a list, for an iterator an iterator, which
            reads it.

        Raises:
            InputError: as a call, or the model has no such class.
        """
        compute = partial(self.explain_inputs, labels=labels, top_k=top_k, method=method)
        return map_sounds(compute, audio, sampling_rate, self.feature_extractor)

    def explain_inputs(
        self,
        inputs: Iterable[np.ndarray],
        labels: Sequence[str] | None = None,
        top_k: int | None = None,
        method: Method = "relevance",
    ) -> Iterator[Explanation]:
        """Yields the explanation of each of several model inputs, see `explain`."""
        return self._explainer(inputs, labels, top_k, method)

    def probabilities(
        self, input_values: npt.ArrayLike, calibration: Calibration | None = None
    ) -> jax.Array:
        """Computes (batch, max_length, num_mel_bins) → (batch, num_labels) on the device.

        A frame-level model's are (batch, columns, num_labels), those of padding included.

        Returns before the computation ends; `np.asarray` of the result waits for it. The scores
        of an input on the device that is not finite are NaN.

        Args:
            input_values: the model input.
            calibration: of the logits, in the order of the labels; None for none.

        Raises:
            InputError: the inputs have another shape, or those in the host's memory NaN or
                infinite values.
        """
        return self._scorer.probabilities(input_values, calibration)

    def probabilities_of_waveforms(
        self, waveforms: npt.ArrayLike, lengths: npt.ArrayLike | None = None
    ) -> jax.Array:
        """Computes (batch, samples) → (batch, num_labels), log-mels included, on the device.

        Returns before the computation ends. Each batch shape is compiled once. The scores of a
        waveform on the device that is not finite are NaN.

        Args:
            waveforms: at the extractor's sampling rate, floats in [-1, 1], or int16 with a full
                scale of 32768.
            lengths: integers (batch,), the number of samples of each clip before padding; by
                default all.

        Raises:
            InputError: the waveforms or lengths have a wrong shape or type, a length is under a
                frame or over the samples, or waveforms in the host's memory are not finite.
        """
        return self._scorer.probabilities_of_waveforms(waveforms, lengths)


def load(path: str | Path, **changes: Any) -> AudioClassifier:
    """Loads a checkpoint of ast_jax or PyTorch as a classifier.

    Args:
        path: see `ASTForAudioClassification.from_pretrained`.
        **changes: fields of `ASTConfig` to change, such as `dtype="bfloat16"`.

    Raises:
        InputError: the checkpoint cannot be used; the message names the file or tensor.

    Examples:
        >>> classifier = ast_jax.load("checkpoints/audioset")
        >>> classifier("dog.wav", top_k=2)
        [{'label': 'Dog', 'score': 0.87}, {'label': 'Bark', 'score': 0.71}]
        >>> classifier(["dog.wav", {"array": waveform, "sampling_rate": 44100}], top_k=1)
        [[{'label': 'Dog', 'score': 0.87}], [{'label': 'Rain', 'score': 0.64}]]
    """
    return AudioClassifier(read_checkpoint(path, changes))
