"""Checks data against a configuration before training, so that no hours are lost."""

import math
from operator import attrgetter

import numpy as np

from ast_jax.audio.kaldi import frame_sizes
from ast_jax.config import TrainConfig
from ast_jax.data.clips import Clips, DataSet
from ast_jax.data.overlap import ClipHashes, hash_clips, overlap_note, read_trained_clips
from ast_jax.errors import InputError, quoted, shorten

FEW_CLIPS = 5  # fewer of a class to train on are noted
LONG = 1.25  # noted if the median clip is longer than this many inputs of the model
PADDING = 0.5  # noted if more of the median input is padding
MAX_COMPARED = 1000  # clips on disk whose sounds are compared


def check_targets(config: TrainConfig, data: DataSet) -> None:
    """Raises `InputError` if the clips' classes do not fit the loss or the sampling.

    With cross-entropy a clip may have neither several classes nor none, and of one class alone
    there is nothing to learn. For strong labels see `check_strong`.
    """
    if data.train.strong is not None:
        check_strong(config)
    elif config.model.frame_level:
        raise InputError(
            "model.frame_level is True and the data has no times; give a list of events, "
            "data.kind=strong, or set model.frame_level=False"
        )
    if config.data.balanced and not data.train.targets.sum():
        raise InputError(
            "data.balanced is True and no clip to train on has a class; set it to False"
        )
    if config.loss != "cross_entropy":
        return
    if len(data.labels) < 2:
        raise InputError(
            f"the data has one class, {quoted(data.labels[0])}; give two or more to train on"
        )
    for clips in (data.train, data.evaluation, data.test):
        if clips is None:
            continue
        sums = np.asarray(clips.targets.sum(axis=1)).ravel()
        none = np.flatnonzero(sums == 0)
        if len(none):
            raise InputError(
                f"{clips.names[int(none[0])]}: has no class, and {len(none)} of {len(sums)} clips "
                f"have none, while loss is cross_entropy, which is for one class per clip; remove "
                f"them, or set loss=binary_cross_entropy"
            )
        several = np.flatnonzero(sums > 1 + 1e-3)
        if len(several):
            first = int(several[0])
            classes = [data.labels[i] for i in np.flatnonzero(clips.target(first))]
            raise InputError(
                f"{clips.names[first]}: has the classes {shorten(classes)}, and {len(several)} of "
                f"{len(sums)} clips have several, while loss is cross_entropy, which is for one "
                f"class per clip; set loss=binary_cross_entropy"
            )


def check_strong(config: TrainConfig) -> None:
    """Raises `InputError` for what a frame-level model cannot be trained with."""
    if config.loss != "binary_cross_entropy":
        raise InputError(
            "loss is cross_entropy, and sounds with times may overlap or be absent; set "
            "loss=binary_cross_entropy"
        )
    patches = "a frame-level model classifies every patch"
    for name, reason in (
        ("augment.roll", "it moves sounds and not their times"),
        ("augment.patchout_frequency", patches),
        ("augment.patchout_time", patches),
        ("model.mask_padding", patches),
    ):
        if value := attrgetter(name)(config):
            raise InputError(f"{name} is {value}, and {reason}; set {name}={type(value)(0)}")


def data_notes(config: TrainConfig, data: DataSet, train_hashes: ClipHashes) -> list[str]:
    """Returns sentences to read before training, in the order of `data`'s own, lengths, classes.

    Args:
        config: of the run.
        data: its recordings.
        train_hashes: of the training clips.

    Raises:
        InputError: the record of `init_from`'s training clips is damaged.
    """
    return [
        *data.notes,
        *length_notes(config, data.train),
        *rare_class_notes(data),
        *undrawn_clip_notes(config, data.train),
        *shared_clip_notes(data, train_hashes),
        *initial_overlap_notes(config, data),
    ]


def length_notes(config: TrainConfig, clips: Clips) -> list[str]:
    """Returns a sentence if the median clip is much longer or shorter than the model's input.

    Short clips need none where buckets give them short inputs.
    """
    rate, patch = config.frontend.sampling_rate, config.model.patch_size
    shift = frame_sizes(rate)[1]
    median = float(np.median(clips.lengths()))
    seconds = f"{round(median / rate, 2)} s"
    heard = config.model.max_length * shift
    frames = patch * math.ceil(median / shift / patch)
    advice = f"set model.max_length to about {frames}"
    if median > LONG * heard:
        first = f"{round(heard / rate, 2)} s"
        return [
            f"your clips last {seconds} (median); the model hears the first {first}: {advice}, or "
            f"cut the clips into pieces of {first}"
        ]
    padding = 1 - median / heard
    if padding > PADDING and config.length_buckets == 1:
        return [
            f"your clips last {seconds} (median), so {padding:.0%} of the input would be padding: "
            f"{advice}"
        ]
    return []


def rare_class_notes(data: DataSet) -> list[str]:
    """Returns sentences about classes with no clip, few clips to train on or one held out."""
    train, held_out = data.train.class_counts(), data.evaluation.class_counts()
    few = [
        f"{label} ({n})" for label, n in zip(data.labels, train, strict=True) if 0 < n < FEW_CLIPS
    ]
    groups = [
        ("no clip to train on of", _with_count(data.labels, train, 0)),
        (f"fewer than {FEW_CLIPS} clips to train on of", few),
        ("no clip held out of", _with_count(data.labels, held_out, 0)),
        ("one clip only held out of", _with_count(data.labels, held_out, 1)),
    ]
    return [f"{words} {shorten(labels)}" for words, labels in groups if labels]


def undrawn_clip_notes(config: TrainConfig, clips: Clips) -> list[str]:
    """Returns a sentence if balanced sampling leaves out clips of no class."""
    none = int((np.asarray(clips.targets.sum(axis=1)).ravel() == 0).sum())
    if not config.data.balanced or not none:
        return []
    return [f"{none} clips of no class are never drawn, as data.balanced favors rare classes"]


def _with_count(labels: list[str], counts: np.ndarray, number: int) -> list[str]:
    return [label for label, n in zip(labels, counts, strict=True) if n == number]


def shared_clip_notes(data: DataSet, train_hashes: ClipHashes) -> list[str]:
    """Returns a sentence for each split that has clips of the training split.

    Clips in memory are compared by their sounds. Of clips on disk, up to `MAX_COMPARED` with the
    name and length of a training clip are.
    """
    notes = []
    for what, clips in (("held-out", data.evaluation), ("test", data.test)):
        if clips is None:
            continue
        hashes = hash_clips(clips)
        shared = np.flatnonzero(hashes.found_in(train_hashes))
        if hashes.sounds is None:
            shared = _with_equal_sounds(data.train, train_hashes, clips, hashes, shared)
        if len(shared):
            notes.append(
                f"{len(shared)} of {len(hashes.names)} {what} clips are training clips too, such "
                f"as {quoted(clips.names[shared[0]])}; remove them from one side, as the scores "
                f"would be too good"
            )
    return notes


def _with_equal_sounds(
    train: Clips, train_hashes: ClipHashes, clips: Clips, hashes: ClipHashes, shared: np.ndarray
) -> np.ndarray:
    """Returns those of `shared` that have the sound of the training clip of the same name."""
    index = {int(name): i for i, name in enumerate(train_hashes.names)}
    equal = [
        np.array_equal(clips.waveforms[i], train.waveforms[index[int(hashes.names[i])]])
        for i in shared[:MAX_COMPARED].tolist()
    ]
    return shared[:MAX_COMPARED][np.array(equal, bool)]


def initial_overlap_notes(config: TrainConfig, data: DataSet) -> list[str]:
    """Returns a sentence about held-out clips that `init_from` was trained on, if it has a record.

    Raises:
        InputError: the record is damaged.
    """
    trained = read_trained_clips(config.init_from) if config.init_from else None
    if trained is None:
        return []
    return [f"{config.init_from}: {overlap_note(data.evaluation, trained, 'held-out clips')}"]
