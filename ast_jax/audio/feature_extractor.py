"""The model's input from waveforms, with Hugging Face's names and file."""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_jax.audio.fbank import fbank
from ast_jax.errors import InputError
from ast_jax.io import read_json

FILE_NAME = "preprocessor_config.json"
LARGEST = 1e30  # of a mean or a standard deviation; beyond it float32 ends


@dataclass(frozen=True)
class ASTFeatureExtractor:
    """Turns waveforms into normalised log-mel spectrograms of one length.

    The fields mean what they mean in Hugging Face's class of this name. The last three are in
    its file and have one value only.

    Attributes:
        sampling_rate: of the waveforms, in Hz.
        num_mel_bins: the number of mel filters.
        max_length: frames a clip is padded or cut to.
        do_normalize: whether to apply (x - mean) / (2 · std).
        mean: of the data set's log-mel values.
        std: of the data set's log-mel values.
        feature_size: channels of a waveform.
        padding_value: the log-mel that fills up a short clip, before normalisation.
        return_attention_mask: the model has no attention mask.

    Raises:
        InputError: a field has a wrong type or value.
    """

    sampling_rate: int = 16000
    num_mel_bins: int = 128
    max_length: int = 1024
    do_normalize: bool = True
    mean: float = -4.2677393
    std: float = 4.5689974
    feature_size: int = 1
    padding_value: float = 0.0
    return_attention_mask: bool = False

    def __post_init__(self) -> None:
        """Checks every field."""
        _check_fields(asdict(self), "ASTFeatureExtractor")

    def __call__(
        self, waveforms: npt.ArrayLike | Sequence[npt.ArrayLike], sampling_rate: int
    ) -> np.ndarray:
        """The model's input for one waveform or several.

        Args:
            waveforms: one waveform, (samples,) in [-1, 1]; several of any lengths, in a list;
                or several of one length, (batch, samples).
            sampling_rate: of the waveforms, in Hz; must be the extractor's.

        Returns:
            float32 (batch, max_length, num_mel_bins); one waveform makes a batch of one.

        Raises:
            InputError: the sampling rates differ, or a waveform cannot be used.
        """
        if sampling_rate != self.sampling_rate:
            raise InputError(
                f"the waveforms have a sampling rate of {sampling_rate} Hz and the model takes "
                f"{self.sampling_rate} Hz: read them by load_audio(path, {self.sampling_rate}), "
                "which resamples"
            )
        clips = _as_clips(waveforms)
        inputs = np.empty((len(clips), self.max_length, self.num_mel_bins), np.float32)
        for i, clip in enumerate(clips):
            try:
                self.fill(inputs[i], clip)
            except InputError as error:
                which = f"waveform {i} of {len(clips)} (from 0): " if len(clips) > 1 else ""
                raise InputError(f"{which}{error}") from error
        return inputs

    def fill(self, inputs: np.ndarray, waveform: npt.ArrayLike) -> None:
        """Writes one waveform's input into `inputs`, float32 (max_length, num_mel_bins).

        The waveform, (samples,) in [-1, 1], must have the extractor's sampling rate.

        Raises:
            InputError: the waveform cannot be used.
        """
        log_mel = fbank(waveform, self.sampling_rate, num_mel_bins=self.num_mel_bins)
        self.normalize(pad_or_cut(log_mel, self.max_length, out=inputs), out=inputs)

    def normalize(self, log_mel: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(x - mean) / (2 · std) in the array's precision, or x itself without `do_normalize`.

        The factor of two is the original AST's: its inputs have a deviation of one half. `out`
        is where the result goes, a new array if it is None; it may be `log_mel` itself.
        """
        if not self.do_normalize:
            return log_mel
        centred = np.subtract(log_mel, self.mean, out=out)
        centred /= 2 * self.std
        return centred

    def to_dict(self) -> dict[str, Any]:
        """What Hugging Face's file holds: the fields, and what tells the kind of extractor."""
        return {
            **asdict(self),
            "feature_extractor_type": "ASTFeatureExtractor",
            "padding_side": "right",
        }

    @classmethod
    def from_dict(
        cls, entries: Mapping[str, Any], source: str = "the feature extractor's settings"
    ) -> "ASTFeatureExtractor":
        """The extractor that `to_dict` describes.

        A field that is not there has its default. An entry that is not a field is left alone,
        as Hugging Face's libraries add some, unless it looks like a field misspelt.

        Args:
            entries: the fields by name.
            source: where they are from, for the messages.

        Raises:
            InputError: a field is misspelt, or has a wrong type or value, or the entries
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
        _check_fields(known, source)
        return cls(**known)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> "ASTFeatureExtractor":
        """Reads a checkpoint's extractor: Hugging Face's `preprocessor_config.json`, or ours.

        Raises:
            InputError: there is no such file, or it is not JSON, or as for `from_dict`.
        """
        file = Path(path) / FILE_NAME
        if not file.exists():
            # Imported here because checkpoints build on this class, not the other way round.
            from ast_jax.checkpoint.load import find_checkpoint, load_checkpoint

            if ours := find_checkpoint(Path(path)):
                return load_checkpoint(ours).feature_extractor
        return cls.from_dict(read_json(file), str(file))

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Writes `preprocessor_config.json`, which Hugging Face's class reads too, to a folder.

        Raises:
            InputError: the path is a file's.
        """
        if Path(path).is_file():
            raise InputError(f"{path} is a file: give the path of a folder, new or old")
        Path(path).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True)
        (Path(path) / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def pad_or_cut(log_mel: np.ndarray, max_length: int, out: np.ndarray | None = None) -> np.ndarray:
    """(frames, mel_bins) → (max_length, mel_bins), zeros at the end or the end cut off.

    The zeros are log-mel zeros, put there *before* normalisation, as in the original AST: they
    lie far above digital silence. `out` is where the result goes, a new array if it is None.
    """
    fitted = np.empty((max_length, log_mel.shape[1]), log_mel.dtype) if out is None else out
    fitted[: len(log_mel)] = log_mel[:max_length]
    fitted[len(log_mel) :] = 0
    return fitted


def _as_clips(waveforms: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[np.ndarray]:
    """Waveforms in any of the forms that the extractor takes, as a list of one array each."""
    is_list = isinstance(waveforms, list | tuple)
    if is_list and not waveforms:
        raise InputError("there are no waveforms: give at least one")
    try:
        if is_list and np.ndim(waveforms[0]):  # type: ignore[index]
            return [np.asarray(waveform) for waveform in waveforms]  # type: ignore[union-attr]
        array = np.asarray(waveforms)
    except ValueError as error:
        raise InputError(
            "the waveforms are lists of no even shape: give (samples,), (batch, samples) or a list "
            "of (samples,)"
        ) from error
    if array.ndim not in (1, 2) or not len(array):
        raise InputError(
            f"the waveforms have shape {array.shape}: give (samples,), (batch, samples) or a list "
            "of (samples,)"
        )
    return [array] if array.ndim == 1 else list(array)


def _check_fields(values: Mapping[str, Any], source: str) -> None:
    """Raises an InputError for the first of the fields whose value cannot be used."""
    for name, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        match name:
            case "sampling_rate" | "num_mel_bins" | "max_length":
                good = is_number and isinstance(value, int) and value > 0
                wanted = "a positive whole number"
            case "mean":
                good, wanted = is_number and abs(value) < LARGEST, "a finite number"
            case "std":
                good = is_number and abs(value) < LARGEST and value > 0
                wanted = "a positive number"
            case "do_normalize":
                good, wanted = isinstance(value, bool), "true or false"
            case "return_attention_mask":
                good, wanted = value is False, "false, as the model has no attention mask"
            case "feature_size":
                good, wanted = is_number and value == 1, "1, as the model hears one channel"
            case "padding_value":
                good, wanted = is_number and value == 0, "0, as the model was trained with"
        if not good:
            raise InputError(f"{source} has {name} {value!r}: set it to {wanted}")
