"""Reads the data sets that callers of `fit` pass: Python objects of waveforms and labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ast_jax.audio.pcm import clip_waveform, peak_of
from ast_jax.audio.sounds import name_of, read_sound
from ast_jax.audio.waveform import to_array
from ast_jax.data.clips import Clips, DataSet, check_length, clipping_notes, show_progress
from ast_jax.errors import InputError, quoted

MAX_CLASSES = 10**6  # as many as the model's configuration accepts
HELD_OUT = ("evaluation", "validation", "test")  # the first that is there is held out


def read_own_data(data: Mapping[str, Any], sampling_rate: int) -> DataSet:
    """Reads a caller's data set into memory, 640 kB for 10 s at 16 kHz.

    Args:
        data: "train", and "evaluation" or "validation" or "test": the clips of each; a
            `datasets.DatasetDict` is one. A "test" beside the held-out clips tests the final
            parameters. "labels", optional, are the names of the classes in order.

            Clips are anything with a length and an index, such as a list, a `datasets.Dataset`, a
            `grain.MapDataset` or a PyTorch dataset, or a finite iterable, such as a
            `tf.data.Dataset`. A clip is a pair (sound, label), or a dict with "audio" or
            "waveform", and "label" or "labels". A sound is any that a classifier takes; arrays
            without their own rate have `sampling_rate`. A label is the name or index of a class,
            a list of these, or an array with a 1 for each of the clip's classes.
        sampling_rate: of the result, in Hz.

    Raises:
        InputError: a split, a sound or a label cannot be used; the message names its index.
    """
    if not isinstance(data, Mapping) or "train" not in data:
        raise InputError('data has no "train"; give {"train": clips, "evaluation": clips}')
    held_out = [name for name in HELD_OUT if name in data]
    if not held_out:
        given = ", ".join(map(str, data))
        raise InputError(f'data has {given} and no clips to evaluate on; add "evaluation"')
    for name in data:
        if name not in ("train", "labels", *HELD_OUT) or name in held_out[1:-1]:
            raise InputError(
                f'data has "{name}"; leave it out, or name it "train", "evaluation" or "test"'
            )
    splits = {"train": "train", "evaluation": held_out[0]}
    if len(held_out) > 1:
        splits["test"] = held_out[-1]
    notes: list[str] = []
    read = {
        side: _read_split(data[name], name, sampling_rate, notes) for side, name in splits.items()
    }
    located = {  # labels, and where each is for messages
        side: [(f"{splits[side]}, clip {i}", label) for i, label in enumerate(own)]
        for side, (_, own, _) in read.items()
    }
    labels = _class_names(data, [label for side in located.values() for label in side])
    clips = {}
    for side, (waveforms, _, names) in read.items():
        targets = [_target(label, labels, where) for where, label in located[side]]
        clips[side] = Clips(waveforms, np.stack(targets), names)
    return DataSet(labels, clips["train"], clips["evaluation"], test=clips.get("test"), notes=notes)


def _read_split(
    source: Any, split: str, sampling_rate: int, notes: list[str]
) -> tuple[list[np.ndarray], list[Any], list[str]]:
    """Returns the waveforms, labels and names of a split; adds to the notes on its clips."""
    waveforms, labels, names = [], [], []
    clipped: list[tuple[str, float]] = []
    clips = _items(source, split)
    for i, clip in enumerate(show_progress(clips, f"reading {split} clips")):
        where = f"{split}, clip {i}"
        sound, label = _parts(clip, where)
        name = name_of(sound) or f"{split}/{i}"
        try:
            waveform = read_sound(sound, sampling_rate, sampling_rate)
            check_length(waveform, sampling_rate, where)
            if (peak := peak_of(waveform)) > 1:
                clip_waveform(waveform)
                clipped.append((name, peak))
        except InputError as error:
            raise InputError(str(error) if where in str(error) else f"{where}: {error}") from None
        waveforms.append(waveform)
        labels.append(label)
        names.append(name)
    if not waveforms:
        raise InputError(f'data["{split}"] has no clips; give some, or leave it out')
    notes += [f"{split}: {note}" for note in clipping_notes(clipped, len(waveforms))]
    return waveforms, labels, names


def _items(source: Any, split: str) -> Iterable[Any]:
    """Returns an iterable over the clips of a data set of any library."""
    if isinstance(source, Mapping) or hasattr(source, "iloc"):
        raise InputError(
            f'data["{split}"] has columns; give clips, such as a list of (sound, label) pairs'
        )
    if hasattr(source, "as_numpy_iterator"):  # tf.data
        return source.as_numpy_iterator()
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return (source[i] for i in range(len(source)))
    if isinstance(source, Iterable):
        return source
    raise InputError(
        f'data["{split}"] is a {type(source).__name__}; give a list or data set of clips'
    )


def _parts(clip: Any, where: str) -> tuple[Any, Any]:
    """Returns the sound and the label of a clip."""
    if isinstance(clip, Mapping):
        sounds = [clip[key] for key in ("audio", "waveform") if key in clip]
        labels = [clip[key] for key in ("label", "labels") if key in clip]
        if len(sounds) == len(labels) == 1:
            return sounds[0], _label(labels[0])
        raise InputError(
            f"{where}: has the keys {', '.join(map(str, clip))}; give one of 'audio' and "
            f"'waveform', and one of 'label' and 'labels'"
        )
    if isinstance(clip, Sequence) and not isinstance(clip, str | bytes) and len(clip) == 2:
        return clip[0], _label(clip[1])
    raise InputError(f"{where}: is a {type(clip).__name__}; give a pair (sound, label) or a dict")


def _label(label: Any) -> Any:
    """Returns a label with tensors of any library as NumPy's."""
    is_array = hasattr(label, "__array__") or hasattr(label, "detach")
    return to_array(label) if is_array else label


def _class_names(data: Mapping[str, Any], found: list[tuple[str, Any]]) -> list[str]:
    """Returns the names of the classes: those given, a `datasets` ClassLabel's, or those found.

    Args:
        data: as for `read_own_data`.
        found: the place of each label, for messages, and the label.
    """
    names = data.get("labels")
    if names is None:
        for feature in (getattr(data["train"], "features", None) or {}).values():
            feature = getattr(feature, "feature", feature)  # of a list of labels
            names = getattr(feature, "names", None) or names
    if names is not None:
        names = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else []
        if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
            raise InputError('data["labels"] must be different names of classes')
        return names
    for _, label in found:
        if _is_target(label):
            return [f"LABEL_{i}" for i in range(label.shape[-1])]
    single = [(where, each) for where, label in found for each in _as_list(label)]
    if not single:
        raise InputError("no clip has a label; give each the names or indices of its classes")
    for where, each in single:
        if not isinstance(each, str) and (not isinstance(each, int) or not 0 <= each < MAX_CLASSES):
            raise InputError(
                f"{where}: its label is {each!r}; give names of classes, or indices from 0 to "
                f"{MAX_CLASSES - 1}"
            )
    named = [(where, each) for where, each in single if isinstance(each, str)]
    if named and len(named) < len(single):
        where, name = named[0]
        raise InputError(
            f"{where}: its label is {name!r}, and other clips have indices; give all of them names "
            f"of classes, or all of them indices"
        )
    if named:
        return sorted({name for _, name in named})
    return [f"LABEL_{i}" for i in range(1 + max(index for _, index in single))]


def _is_target(label: Any) -> bool:
    """Returns whether a label is an array with a number for each class."""
    return isinstance(label, np.ndarray) and label.ndim > 0 and label.dtype.kind in "fiub"


def _as_list(label: Any) -> list[Any]:
    """Returns the classes of a clip as names or indices."""
    if isinstance(label, bytes):  # tf.data
        return [label.decode(errors="replace")]
    if isinstance(label, np.ndarray | np.generic):
        label = label.tolist()
    many = isinstance(label, Iterable) and not isinstance(label, str)
    return [each for one in label for each in _as_list(one)] if many else [label]


def _target(label: Any, labels: list[str], where: str) -> np.ndarray:
    """Returns the target (classes,) of a clip."""
    if _is_target(label):
        target = label.astype(np.float32)
        if target.shape == (len(labels),) and ((target >= 0) & (target <= 1)).all():
            return target
        raise InputError(
            f"{where}: its target is {quoted(label)}, of shape {label.shape}; give a number from 0 "
            f"to 1 for each of {len(labels)} classes"
        )
    target = np.zeros(len(labels), np.float32)
    classes = _as_list(label)
    if len(set(classes)) < len(classes):
        raise InputError(
            f"{where}: its label is {label!r}, which names a class twice; give an array if it has "
            f"a number for each class"
        )
    for each in classes:
        if isinstance(each, str) and each in labels:
            target[labels.index(each)] = 1
        elif isinstance(each, int) and not isinstance(each, bool) and 0 <= each < len(labels):
            target[each] = 1
        else:
            raise InputError(
                f"{where}: its label is {each!r}; give the name or index of one of the "
                f"{len(labels)} classes, {', '.join(labels[:5])}{', …' if len(labels) > 5 else ''}"
            )
    return target
