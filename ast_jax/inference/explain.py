"""Explains the scores of a sound by maps of its patches, in seconds and Hz."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, Int

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.kaldi import frame_sizes, mel_frequency
from ast_jax.errors import InputError, nearest, quoted
from ast_jax.inference.attribution import prefix_attention, relevance, rollout
from ast_jax.inference.batching import check_count, check_finite, count_frames
from ast_jax.io import atomic_write
from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.models.config import NUM_PREFIX_TOKENS, ASTConfig

Method = Literal["relevance", "rollout", "heads"]
TOP_K = 3  # classes that are explained by default

Map = Float32[np.ndarray, "*maps rows columns"]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Maps of the patches of a sound: attention to them, or their relevance to scores.

    Rows of the grid of patches are along frequency, the lowest first, columns along time.

    Attributes:
        method: "relevance", "rollout" or "heads".
        maps: on the grid of patches, (classes, rows, columns) of "relevance", (rows, columns) of
            "rollout", (layers, heads, 2, rows, columns) of "heads": the class and the
            distillation token.
        labels: the classes; those of a "rollout" and of "heads" are for the record, as their maps
            are the same for every class.
        scores: (classes,), the probabilities of the classes.
        log_mel: (frames, mel_bins), the log-mel of the sound, neither normalized nor padded.
        sampling_rate: of the model, in Hz.
        config: of the model.
    """

    method: str
    maps: Map
    labels: list[str]
    scores: Float32[np.ndarray, " classes"]
    log_mel: Float32[np.ndarray, "frames mel_bins"]
    sampling_rate: int
    config: ASTConfig

    @property
    def frame_times(self) -> Float[np.ndarray, " frames"]:
        """The times of the frames' centers, in seconds."""
        return self._seconds(np.arange(len(self.log_mel)))

    @property
    def mel_frequencies(self) -> Float[np.ndarray, " mel_bins"]:
        """The center frequencies of the mel bins, in Hz."""
        return self._hertz(np.arange(self.config.num_mel_bins))

    @property
    def times(self) -> Float[np.ndarray, " columns"]:
        """The times of the patches' centers, in seconds, those on padding included."""
        return self._seconds(self._patch_centers()[1])

    @property
    def frequencies(self) -> Float[np.ndarray, " rows"]:
        """The frequencies of the patches' centers, in Hz."""
        return self._hertz(self._patch_centers()[0])

    @property
    def num_columns(self) -> int:
        """The number of columns with a frame of the sound; the others have padding alone."""
        return min(-(-len(self.log_mel) // self.config.time_stride), self.config.grid[1])

    @property
    def padding_share(self) -> Float[np.ndarray, "*maps"]:
        """The share of each map that is on patches of padding alone; 0 of a map of zeros."""
        total = self.maps.sum(axis=(-2, -1))
        padding = self.maps[..., self.num_columns :].sum(axis=(-2, -1))
        return np.asarray(padding / np.where(total, total, 1))

    def upsample(self) -> Float32[np.ndarray, "*maps frames mel_bins"]:
        """Returns the maps at every frame and mel bin of the sound.

        Values are interpolated linearly between the centers of the patches, and zero where no
        patch is: strides may leave out the last frames and mel bins.
        """
        rows, columns = self._patch_centers()
        along_frequency = self._interpolation(rows, self.config.num_mel_bins)
        along_time = self._interpolation(columns, len(self.log_mel))
        return np.einsum("fr,...rc,tc->...tf", along_frequency, self.maps, along_time)

    def save(self, file: str | Path) -> None:
        """Writes a new .npz with the maps, their times and frequencies, and the log-mel.

        The arrays have the names of the attributes. `upsampled` is the result of `upsample`; it is
        left out of "heads", of which it would be a hundred times larger than the maps.

        Raises:
            InputError: the file exists or cannot be written.
        """
        arrays: dict[str, Any] = {
            "method": np.array(self.method),
            "maps": self.maps,
            "times": self.times,
            "frequencies": self.frequencies,
            "labels": np.array(self.labels),
            "scores": self.scores,
            "log_mel": self.log_mel,
            "frame_times": self.frame_times,
            "mel_frequencies": self.mel_frequencies,
        }
        if self.method != "heads":
            arrays["upsampled"] = self.upsample()
        with atomic_write(Path(file)) as temporary, open(temporary, "wb") as target:
            np.savez(target, **arrays)

    def _patch_centers(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the centers of the rows, in mel bins, and of the columns, in frames."""
        rows, columns = self.config.grid
        middle = (self.config.patch_size - 1) / 2
        return (
            np.arange(rows) * self.config.frequency_stride + middle,
            np.arange(columns) * self.config.time_stride + middle,
        )

    def _interpolation(self, centers: np.ndarray, size: int) -> Float32[np.ndarray, "size centers"]:
        """Returns the weights of patches at each of `size` frames or mel bins."""
        places = np.arange(size)
        weights = [np.interp(places, centers, unit) for unit in np.eye(len(centers))]
        covered = places <= centers[-1] + self.config.patch_size / 2
        return (np.stack(weights, axis=1) * covered[:, None]).astype(np.float32)

    def _seconds(self, frames: np.ndarray) -> np.ndarray:
        size, shift = frame_sizes(self.sampling_rate)
        return (frames * shift + size / 2) / self.sampling_rate

    def _hertz(self, mel_bins: np.ndarray) -> np.ndarray:
        return mel_frequency(mel_bins, self.config.num_mel_bins, self.sampling_rate)


class Explainer:
    """Explains model inputs, one at a time.

    Args:
        model: its parameters are shared, not copied.
        extractor: that computes the inputs.
        probabilities: computes (batch, max_length, num_mel_bins) → (batch, num_labels).
    """

    def __init__(
        self,
        model: ASTForAudioClassification,
        extractor: ASTFeatureExtractor,
        probabilities: Callable[[np.ndarray], jax.Array],
    ):
        self.config, self.extractor, self.probabilities = model.config, extractor, probabilities
        self._graphdef, self._params = nnx.split(model)

    def __call__(
        self,
        inputs: Iterable[np.ndarray],
        labels: Sequence[str] | None,
        top_k: int | None,
        method: Method,
    ) -> Iterator[Explanation]:
        """Yields the explanation of each input; arguments and errors are those of `explain`."""
        if self.config.frame_level:
            raise InputError("explain takes a clip-level model, and this one is frame-level")
        if method not in get_args(Method):
            raise InputError(f"method is {method!r}; give one of {', '.join(get_args(Method))}")
        if top_k is not None:
            check_count("top_k", top_k)
        if labels is None:
            return (self._explain(each, None, top_k or TOP_K, method) for each in inputs)
        if top_k is not None:
            raise InputError("labels and top_k are both given; leave one of them out")
        classes = find_classes(self.config, labels)
        return (self._explain(each, classes, 0, method) for each in inputs)

    def _explain(
        self,
        input_values: Float32[np.ndarray, "max_length mel_bins"],
        classes: Int[np.ndarray, " classes"] | None,
        top_k: int,
        method: Method,
    ) -> Explanation:
        """Explains the classes, or the `top_k` most probable ones."""
        scores = np.asarray(self.probabilities(input_values[None]))[0]
        check_finite(scores)
        if classes is None:
            classes = np.argsort(-scores, kind="stable")[:top_k]
        clip = jnp.asarray(input_values[None])
        num_frames = count_frames(clip, self.extractor)
        masked = num_frames if self.config.mask_padding else None
        match method:
            case "relevance":
                indices = jnp.asarray(classes)
                tokens = relevance(self._graphdef, self._params, clip, indices, masked)
            case "rollout":
                tokens = rollout(self._graphdef, self._params, clip, masked)
            case "heads":
                tokens = prefix_attention(self._graphdef, self._params, clip, masked)
        maps = np.asarray(tokens)[..., NUM_PREFIX_TOKENS:]
        check_finite(maps)
        log_mel = input_values[: int(num_frames[0])]
        if self.extractor.do_normalize:
            log_mel = log_mel * (2 * self.extractor.std) + self.extractor.mean
        return Explanation(
            method,
            maps.reshape(*maps.shape[:-1], *self.config.grid),
            [self.config.labels[i] for i in classes],
            scores[classes],
            log_mel.astype(np.float32),
            self.extractor.sampling_rate,
            self.config,
        )


def find_classes(config: ASTConfig, labels: Sequence[str]) -> Int[np.ndarray, " classes"]:
    """Returns the indices of classes.

    Raises:
        InputError: the model lacks one of them, or there are none.
    """
    if isinstance(labels, str) or not len(labels):
        raise InputError(f"labels is {labels!r}; give a list with one class name or more")
    indices = config.label2id
    for label in labels:
        if label not in indices:
            raise InputError(
                f"the model has no class {quoted(label)}; did you mean "
                f"{nearest(str(label), indices)}?"
            )
    return np.array([indices[label] for label in labels])
