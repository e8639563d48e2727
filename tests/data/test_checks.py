"""Refusals and notes before training."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from ast_jax.config import TrainConfig
from ast_jax.data.checks import (
    check_targets,
    initial_overlap_notes,
    length_notes,
    rare_class_notes,
    shared_clip_notes,
    undrawn_clip_notes,
)
from ast_jax.data.clips import Clips, DataSet
from ast_jax.data.overlap import TRAINED_FILE, hash_clips, write_trained_clips
from ast_jax.errors import InputError
from ast_jax.models.config import ASTConfig

RATE = 16000


def clips(*seconds, prefix="", on_disk=False, seed=0):
    """Returns noise of one class, named by its position."""
    rng = np.random.default_rng(seed)
    waveforms = [rng.standard_normal(int(RATE * each)).astype(np.float32) for each in seconds]
    names = [f"{prefix}a/{i}.wav" for i in range(len(seconds))]
    lengths = np.array([len(waveform) for waveform in waveforms])
    targets = np.ones((len(seconds), 1), np.float32)
    return Clips(waveforms, targets, names, lengths if on_disk else None)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    ("seconds", "frames", "expected"),
    [
        (
            (5, 5, 60),
            128,
            "your clips last 5.0 s (median); the model hears the first 1.28 s: set "
            "model.max_length to about 512, or cut the clips into pieces of 1.28 s",
        ),
        ((1.5, 1.7, 60), 128, "your clips last 1.7 s (median); the model hears"),
        ((1.5, 1.5, 60), 128, ""),
        ((1.28, 0.1), 128, ""),
        ((5.2,), 1024, ""),
        (
            (0.5, 0.5, 9),
            1024,
            "your clips last 0.5 s (median), so 95% of the input would be padding: set "
            "model.max_length to about 64",
        ),
    ],
)
def test_lengths_far_from_the_models_are_noted(seconds, frames, expected, on_disk):
    config = TrainConfig(model=ASTConfig(max_length=frames))
    notes = length_notes(config, clips(*seconds, on_disk=on_disk))
    assert [note[: len(expected)] for note in notes] == ([expected] if expected else [])


def test_short_clips_are_not_noted_where_buckets_shorten_inputs():
    config = TrainConfig(model=ASTConfig(max_length=1024, mask_padding=True), length_buckets=4)
    assert length_notes(config, clips(0.5, 0.5, 9)) == []


@pytest.mark.parametrize("held", [np.asarray, csr_array])
def test_classes_with_few_clips_are_noted(held):
    def clips(*classes):
        return Clips([], held(np.eye(7, dtype=np.float32)[list(classes)]), [])

    data = DataSet(list("abcdefg"), clips(*[*range(7)] * 5), clips(0, 0, 1))
    assert rare_class_notes(data) == [
        "no clip held out of c, d, e, f, g",
        "one clip only held out of b",
    ]
    assert rare_class_notes(data._replace(evaluation=clips(*[1] * 2), train=clips(0, 0, 0, 6))) == [
        "no clip to train on of b, c, d, e, f",
        "fewer than 5 clips to train on of a (3), g (1)",
        "no clip held out of a, c, d, e, f and 1 more",
    ]


@pytest.mark.parametrize("held", [np.asarray, csr_array])
def test_several_classes_need_another_loss(held):
    single = Clips([], held(np.eye(2, dtype=np.float32)), ["x", "y"])
    several = Clips([], held(np.array([[1, 0], [1, 1]], np.float32)), ["x", "y"])
    config = TrainConfig()
    check_targets(config, DataSet(["dog", "cat"], single, single))
    with pytest.raises(
        InputError,
        match=r"^y: has the classes dog, cat, and 1 of 2 clips have several, while loss is "
        r"cross_entropy, .*; set loss=binary_cross_entropy$",
    ):
        check_targets(config, DataSet(["dog", "cat"], single, single, test=several))
    config.loss = "binary_cross_entropy"
    check_targets(config, DataSet(["dog", "cat"], several, several))


def test_balanced_sampling_needs_classes_and_tells_what_it_leaves_out():
    negative = Clips([], csr_array(np.array([[1, 0], [0, 0]], np.float32)), ["x", "y"])
    config = TrainConfig(loss="binary_cross_entropy")
    assert undrawn_clip_notes(config, negative) == []
    config.data.balanced = True
    (note,) = undrawn_clip_notes(config, negative)
    assert note.startswith("1 clips of no class are never drawn")
    none = negative._replace(targets=np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match=r"data\.balanced is True and no clip to train on has a"):
        check_targets(config, DataSet(["dog", "cat"], none, negative))


def test_one_class_alone_needs_another_loss():
    config, one = TrainConfig(), Clips([], np.ones((2, 1), np.float32), ["x", "y"])
    with pytest.raises(InputError, match=r"^the data has one class, 'dog'; give two or more"):
        check_targets(config, DataSet(["dog"], one, one))
    config.loss = "binary_cross_entropy"
    check_targets(config, DataSet(["dog"], one, one))


def test_a_clip_without_a_class_is_refused_under_cross_entropy():
    config = TrainConfig()
    none = Clips([], np.array([[1, 0], [0, 0]], np.float32), ["x", "y"])
    with pytest.raises(InputError, match=r"^y: has no class, and 1 of 2 clips have none, while"):
        check_targets(config, DataSet(["dog", "cat"], none, none))
    config.loss = "binary_cross_entropy"
    check_targets(config, DataSet(["dog", "cat"], none, none))


def test_shares_of_classes_that_add_up_to_one_pass_cross_entropy():
    soft = Clips([], np.array([[0.3, 0.7], [1 / 3, 2 / 3]], np.float32), ["x", "y"])
    check_targets(TrainConfig(), DataSet(["dog", "cat"], soft, soft))


def test_a_sound_on_both_sides_is_noted():
    train, held_out = clips(1, 1, 1, prefix="x/"), clips(1, 1, prefix="y/", seed=1)
    hashes = hash_clips(train)
    assert shared_clip_notes(DataSet(["a"], train, held_out), hashes) == []
    held_out.waveforms[1] = train.waveforms[0].copy()
    assert shared_clip_notes(DataSet(["a"], train, held_out, test=train), hashes) == [
        "1 of 2 held-out clips are training clips too, such as 'y/a/1.wav'; remove them from one "
        "side, as the scores would be too good",
        "3 of 3 test clips are training clips too, such as 'x/a/0.wav'; remove them from one "
        "side, as the scores would be too good",
    ]


def test_clips_on_disk_of_one_name_are_compared():
    train = clips(1, 1, on_disk=True)
    other = clips(1, 1, on_disk=True, seed=1)
    assert shared_clip_notes(DataSet(["a"], train, other), hash_clips(train)) == []
    other.waveforms[1] = train.waveforms[1]
    (note,) = shared_clip_notes(DataSet(["a"], train, other), hash_clips(train))
    assert note.startswith("1 of 2 held-out clips are training clips too, such as 'a/1.wav'")


def test_a_hold_out_that_the_initial_checkpoint_was_trained_on_is_noted(tmp_path):
    train, held_out = clips(1, 1, seed=2), clips(1, 1, seed=1)
    data = DataSet(["a"], train, held_out)
    (tmp_path / "model").mkdir()
    config = TrainConfig(init_from=str(tmp_path / "model"))
    assert initial_overlap_notes(config, data) == []
    (tmp_path / "run.json").touch()
    assert initial_overlap_notes(config, data) == []
    write_trained_clips(tmp_path / TRAINED_FILE, hash_clips(train))
    (note,) = initial_overlap_notes(config, data)
    assert note == f"{tmp_path}/model: trained on none of the 2 held-out clips"
    write_trained_clips(tmp_path / TRAINED_FILE, hash_clips(held_out))
    (note,) = initial_overlap_notes(config, data)
    assert "trained on 2 of the 2 held-out clips, such as 'a/0.wav'; scores on these" in note
