"""Computes the model input from waveforms, with Hugging Face's names and file format."""

import difflib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, overload

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Float32

from ast_jax.audio.batch_feature import BatchFeature, batch_feature
from ast_jax.audio.fbank import fbank
from ast_jax.audio.kaldi import frame_sizes
from ast_jax.audio.waveform import SAMPLING_RATES, check_mono, to_array
from ast_jax.errors import InputError
from ast_jax.fields import Range, check_fields, check_names
from ast_jax.io import read_json, write_json
from ast_jax.urls import check_local

FILE_NAME = "preprocessor_config.json"
LARGEST = 1e30  # of |mean|, std and 1 / std, which keeps float32 from overflowing


@dataclass(frozen=True)
class ASTFeatureExtractor:
    """Converts waveforms to normalized log-mel spectrograms of one length.

    The fields are those of Hugging Face's class of this name. The last three are in its file;
    `feature_size` and `padding_value` accept one value only.

    Attributes:
        sampling_rate: of the waveforms, in Hz.
        num_mel_bins: the number of mel filters.
        max_length: the number of frames that each clip is padded or cut to.
        do_normalize: whether to apply (x - mean) / (2 · std).
        mean: the mean of the data set's log-mel values.
        std: the standard deviation of the data set's log-mel values.
        feature_size: the number of channels, 1.
        padding_value: the log-mel value that pads short clips, before normalization; 0.
        return_attention_mask: whether a call with `return_tensors` returns `num_frames`, too, with
            which the model leaves padding out of attention. Hugging Face's class ignores it.

    Raises:
        InputError: a field has a wrong type or value.
    """

    sampling_rate: Annotated[int, Range(*SAMPLING_RATES)] = 16000
    num_mel_bins: Annotated[int, Range(1)] = 128
    max_length: Annotated[int, Range(1)] = 1024
    do_normalize: bool = True
    mean: Annotated[float, Range(-LARGEST, LARGEST)] = -4.2677393
    std: Annotated[float, Range(1 / LARGEST, LARGEST)] = 4.5689974
    feature_size: Annotated[int, Range(1, 1)] = 1
    padding_value: Annotated[float, Range(0, 0)] = 0.0
    return_attention_mask: bool = False

    def __post_init__(self) -> None:
        """Raises InputError if a field has a wrong type or value."""
        check_fields(self)

    @property
    def max_samples(self) -> int:
        """The number of samples in `max_length` frames; the rest of a waveform is ignored."""
        size, shift = frame_sizes(self.sampling_rate)
        return size + (self.max_length - 1) * shift

    def num_frames(self, samples: int) -> int:
        """Returns the number of frames of a waveform, before padding and of `max_length` at most.

        Args:
            samples: of the waveform; at least those of one frame.
        """
        size, shift = frame_sizes(self.sampling_rate)
        return min(1 + (samples - size) // shift, self.max_length)

    @overload
    def __call__(
        self,
        waveforms: Any,
        sampling_rate: int | None = None,
        return_tensors: None = None,
        *,
        padding: str | bool = ...,
    ) -> Float32[np.ndarray, "batch max_length mel_bins"]: ...

    @overload
    def __call__(
        self,
        waveforms: Any,
        sampling_rate: int | None,
        return_tensors: str,
        *,
        padding: str | bool = ...,
    ) -> BatchFeature: ...

    def __call__(
        self,
        waveforms: npt.ArrayLike | Sequence[npt.ArrayLike],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        *,
        padding: str | bool = "max_length",
    ) -> Float32[np.ndarray, "batch max_length mel_bins"] | BatchFeature:
        """Computes the model input for one waveform or several.

        Args:
            waveforms: one waveform, (samples,) in [-1, 1]; a list of waveforms of any lengths;
                or waveforms of one length, (batch, samples), unless there are two, which is
                refused as it looks like stereo. Arrays of NumPy or JAX, or PyTorch
                tensors.
            sampling_rate: of the waveforms, in Hz; must equal the extractor's. None causes a
                warning, as in Hugging Face's class.
            return_tensors: "np", "jax" or "pt" for a dict with an array of that library; None for
                a NumPy array.
            padding: "max_length" or True: clips are always padded or cut to `max_length`.

        Returns:
            The model input, one waveform as a batch of one; with `return_tensors` a dict with the
            entry and attribute `input_values`, and with `return_attention_mask` `num_frames`,
            int32 (batch,), the frames of each clip before padding.

        Raises:
            InputError: the sampling rates differ, or a waveform or an argument cannot be used.
        """
        if padding not in ("max_length", True):
            raise InputError(
                f"padding is {padding!r}: leave it out, as the model takes inputs of one length"
            )
        if sampling_rate is None:
            warnings.warn(
                f"sampling_rate is missing; the waveforms are taken to have {self.sampling_rate} "
                f"Hz, and with another rate the result is wrong",
                stacklevel=2,
            )
        elif sampling_rate != self.sampling_rate:
            raise InputError(
                f"the waveforms have a sampling rate of {sampling_rate!r} Hz and the model takes "
                f"{self.sampling_rate} Hz: resample them, as load_audio(path, "
                f"{self.sampling_rate}) does"
            )
        clips = _as_clips(waveforms)
        inputs = np.empty((len(clips), self.max_length, self.num_mel_bins), np.float32)
        for i, clip in enumerate(clips):
            try:
                self.fill(inputs[i], clip)
            except InputError as error:
                which = f"waveform {i} of {len(clips)} (from 0): " if len(clips) > 1 else ""
                raise InputError(f"{which}{error}") from error
        if return_tensors is None:
            return inputs
        arrays: dict[str, np.ndarray] = {"input_values": inputs}
        if self.return_attention_mask:
            arrays["num_frames"] = np.array([self.num_frames(len(x)) for x in clips], np.int32)
        return batch_feature(arrays, return_tensors)

    def fill(
        self, inputs: Float32[np.ndarray, "max_length mel_bins"], waveform: npt.ArrayLike
    ) -> None:
        """Writes the input of one waveform into `inputs`.

        Args:
            inputs: the array to write to, (max_length, num_mel_bins).
            waveform: floats (samples,) in [-1, 1], at the extractor's sampling rate.

        Raises:
            InputError: the waveform cannot be used.
        """
        log_mel = fbank(waveform, self.sampling_rate, num_mel_bins=self.num_mel_bins)
        self.normalize(pad_or_cut(log_mel, self.max_length, out=inputs), out=inputs)

    def normalize(
        self, log_mel: Float[np.ndarray, "*shape"], out: Float[np.ndarray, "*shape"] | None = None
    ) -> Float[np.ndarray, "*shape"]:
        """Returns (x - mean) / (2 · std), or x if `do_normalize` is False.

        The factor of two is the original AST's: its inputs have a standard deviation of 0.5.

        Args:
            log_mel: float32 or float64, which is kept.
            out: the array to write to, which may be `log_mel`; None for a new one.
        """
        if not self.do_normalize:
            return log_mel
        centered = np.subtract(log_mel, self.mean, out=out)
        centered /= 2 * self.std
        return centered

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of Hugging Face's file: the fields and the kind of extractor."""
        return {
            **asdict(self),
            "feature_extractor_type": "ASTFeatureExtractor",
            "padding_side": "right",
        }

    @classmethod
    def from_dict(
        cls, entries: Mapping[str, Any], source: str = "the feature extractor's settings"
    ) -> "ASTFeatureExtractor":
        """Returns the extractor that `to_dict` describes.

        Missing fields have their defaults. Unknown entries are ignored, as Hugging Face's
        libraries add some, unless they look like misspelled fields.

        Args:
            entries: the fields by name.
            source: the name of their source, for error messages.

        Raises:
            InputError: a field is misspelled or has a wrong type or value, or the entries
                describe another kind of extractor.
        """
        if not isinstance(entries, Mapping):
            raise InputError(
                f"{source} holds a {type(entries).__name__}: it must hold a JSON object of fields"
            )
        kind = entries.get("feature_extractor_type", cls.__name__)
        if kind != cls.__name__:
            raise InputError(
                f"{source} has feature_extractor_type {kind!r}: give one of {cls.__name__}, "
                "whose features an AST was trained on"
            )
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in entries]
        for entry in entries:
            if entry not in names and (close := difflib.get_close_matches(entry, missing, 1, 0.75)):
                raise InputError(
                    f"{source} has no field {close[0]} but {entry}: rename {entry} to {close[0]}"
                )
        known = {name: entries[name] for name in names if name in entries}
        try:
            return cls(**known)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **changes: Any) -> "ASTFeatureExtractor":
        """Loads the extractor of a checkpoint, from `preprocessor_config.json` or our format.

        Args:
            path: the folder of a checkpoint or run, or the URL of one.
            **changes: fields to change, such as `max_length=512`.

        Raises:
            InputError: the file is missing or not JSON, there is no such field, or as for
                `from_dict`.
        """
        check_names(cls, changes)
        file = Path(path) / FILE_NAME
        if not file.exists():
            # The one import against the layering: checkpoints depend on this class.
            from ast_jax.checkpoint.load import fetch_checkpoint, find_checkpoint, load_checkpoint

            path = fetch_checkpoint(path)
            file = path / FILE_NAME
            if folder := find_checkpoint(path):
                return replace(load_checkpoint(folder).feature_extractor, **changes)
        return replace(cls.from_dict(read_json(file), str(file)), **changes)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Writes `preprocessor_config.json`, which Hugging Face's class reads too, to a folder.

        Raises:
            InputError: the path is a URL or a file or cannot be written.
        """
        check_local(path)
        if Path(path).is_file():
            raise InputError(f"{path} is a file: give the path of a folder, new or old")
        write_json(Path(path) / FILE_NAME, dict(sorted(self.to_dict().items())))


def pad_or_cut(
    log_mel: Float[np.ndarray, "frames mel_bins"],
    max_length: int,
    out: Float[np.ndarray, "max_length mel_bins"] | None = None,
) -> Float[np.ndarray, "max_length mel_bins"]:
    """Zero-pads or cuts a log-mel to `max_length` frames, at its end.

    The original AST pads with zeros *before* normalization, far above digital silence.

    Args:
        log_mel: not normalized.
        max_length: in frames.
        out: the array to write to; None for a new one.
    """
    fitted = np.empty((max_length, log_mel.shape[1]), log_mel.dtype) if out is None else out
    fitted[: len(log_mel)] = log_mel[:max_length]
    fitted[len(log_mel) :] = 0
    return fitted


def _as_clips(waveforms: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[np.ndarray]:
    """Returns the waveforms, in any form that the extractor accepts, as a list of arrays."""
    if isinstance(waveforms, list | tuple):
        if not waveforms:
            raise InputError("there are no waveforms: give at least one")
        if isinstance(waveforms[0], list | tuple) or getattr(waveforms[0], "ndim", None):
            return [to_array(waveform) for waveform in waveforms]
    array = to_array(waveforms)
    if array.ndim == 2 and len(array) > array.shape[1] in (1, 2):
        check_mono(array)  # (samples, channels)
    if array.ndim == 2 and len(array) == 2 < array.shape[1] and not isinstance(waveforms, list):
        raise InputError(
            f"the waveforms have shape {array.shape}, which looks like stereo: average the "
            f"channels with waveform.mean(axis=0), or give two waveforms as a list"
        )
    if array.ndim not in (1, 2) or not len(array):
        raise InputError(
            f"the waveforms ({type(waveforms).__name__}) have shape {array.shape}: give "
            "(samples,), (batch, samples) or a list of (samples,)"
        )
    return [array] if array.ndim == 1 else list(array)
