"""Data sets of callers: forms of splits, sounds and labels."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.audio.pcm import to_int16
from ast_jax.data.own import read_own_data
from ast_jax.errors import InputError

RATE = 16000
CLIP = np.sin(np.arange(1600, dtype=np.float32) / 9)
TARGETS = [[1, 0], [0, 1]]


def read(clips, **more):
    return read_own_data({"train": clips, "evaluation": clips} | more, RATE)


class Indexable:
    """A data set as PyTorch's and grain's."""

    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return self.clips[index]


PAIRS = [(CLIP, "dog"), (CLIP[:800], "rain")]


@pytest.mark.parametrize(
    "clips",
    [
        PAIRS,
        Indexable(PAIRS),
        [(CLIP, 0), (CLIP, np.int64(1))],
        [(CLIP, [0]), (CLIP, [1])],
        [(CLIP, np.array([1, 0])), (CLIP, np.array([0.0, 1.0]))],
        [(CLIP, jnp.int32(0)), (CLIP, jnp.array([0, 1]))],
        [(CLIP, jnp.array([1.0, 0.0])), (CLIP, 1)],
        [{"audio": CLIP, "label": "dog"}, {"audio": CLIP, "label": "rain"}],
        [
            {"waveform": {"array": np.repeat(CLIP, 2), "sampling_rate": 32000}, "labels": [i]}
            for i in range(2)
        ],
    ],
)
def test_forms_of_clips_and_labels(clips):
    data = read(clips)
    assert data.train.targets.tolist() == data.evaluation.targets.tolist() == TARGETS
    assert data.labels in (["dog", "rain"], ["LABEL_0", "LABEL_1"])
    assert len(data.train.waveforms[0]) == 1600
    assert data.train.names == ["train/0", "train/1"]
    assert data.test is None


def test_tensors_of_pytorch_are_labels():
    torch = pytest.importorskip("torch")
    for labels in ([0, 1], [[1, 0], [0, 1]], [[1.0, 0.0], [0.0, 1.0]]):
        data = read([(CLIP, torch.tensor(label)) for label in labels])
        assert data.train.targets.tolist() == TARGETS


def test_iterables_are_read_once():
    data = read_own_data({"train": iter(PAIRS), "validation": iter(PAIRS), "test": PAIRS}, RATE)
    assert data.train.targets.tolist() == data.evaluation.targets.tolist() == TARGETS
    assert data.test.targets.tolist() == TARGETS


def test_given_names_order_the_classes_and_clips_may_have_several():
    data = read([(CLIP, ["dog", "rain"]), (CLIP, [])], labels=["rain", "wind", "dog"])
    assert data.labels == ["rain", "wind", "dog"]
    assert data.train.targets.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_tf_data_set_is_read():
    tf = pytest.importorskip("tensorflow")
    waves = tf.data.Dataset.from_tensor_slices(np.stack([CLIP, CLIP]))
    for labels in (["dog", "rain"], [0, 1]):
        data = read(tf.data.Dataset.zip(waves, tf.data.Dataset.from_tensor_slices(labels)))
        assert data.train.targets.tolist() == TARGETS


def test_class_names_of_datasets_features_are_taken():
    """As in `datasets`: a ClassLabel has the names."""

    class Feature:
        names = ("rain", "dog")

    clips = Indexable([(CLIP, 1), (CLIP, 0)])
    clips.features = {"audio": object(), "label": Feature()}
    data = read(clips)
    assert (data.labels, data.train.targets.tolist()) == (["rain", "dog"], [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, 'data has no "train"'),
        ({"evaluation": PAIRS}, 'data has no "train"'),
        ({"train": PAIRS}, 'data has train and no clips to evaluate on; add "evaluation"'),
        ({"train": PAIRS, "test": PAIRS, "dev": PAIRS}, 'data has "dev"; leave it out'),
        ({"train": [], "test": PAIRS}, 'data["train"] has no clips'),
        ({"train": 3, "test": PAIRS}, 'data["train"] is a int; give a list'),
        ({"train": {"audio": [CLIP], "label": [0]}, "test": PAIRS}, 'data["train"] has columns'),
        ({"train": [(CLIP, [0, 1, 0])], "test": PAIRS}, "test, clip 0: its label is 'dog', and"),
        ({"train": [*PAIRS, (CLIP, None)], "test": PAIRS}, "train, clip 2: its label is None;"),
        ({"train": [(CLIP, 0), (CLIP, 10**12)], "test": PAIRS}, "train, clip 1: its label is 1000"),
        ({"train": [(CLIP, [])], "test": [(CLIP, [])]}, "no clip has a label"),
        ({"train": PAIRS, "test": PAIRS, "labels": 5}, 'data["labels"] must be'),
        ({"train": PAIRS, "test": PAIRS, "labels": "ab"}, 'data["labels"] must be'),
        ({"train": [(CLIP, [0, 1, 0])], "test": [(CLIP, 1)]}, "names a class twice"),
        ({"train": [CLIP], "test": PAIRS}, "train, clip 0: is a ndarray; give a pair"),
        ({"train": [{"audio": CLIP}], "test": PAIRS}, "train, clip 0: has the keys audio; give"),
        (
            {"train": [(CLIP[:9], "x")], "test": PAIRS},
            "train, clip 0: lasts 0.5625 ms, less than one",
        ),
        ({"train": [*PAIRS, (None, "x")], "test": PAIRS}, "train, clip 2: "),
        ({"train": [(CLIP, -1)], "test": [(CLIP, 0)]}, "indices from 0"),
        ({"train": [(CLIP, 1.5)], "test": [(CLIP, 0)]}, "indices from 0"),
        ({"train": [(CLIP, None)], "test": [(CLIP, 0)]}, "indices from 0"),
        ({"train": PAIRS, "test": PAIRS, "labels": ["dog"]}, "train, clip 1: its label is 'rain'"),
        ({"train": PAIRS, "test": PAIRS, "labels": ["a", "a"]}, "must be different names"),
        (
            {"train": [(CLIP, np.array([1, 2]))], "test": [(CLIP, np.array([1, 0]))]},
            "train, clip 0: its target is '[1 2]', of shape (2,); give a number from 0 to 1",
        ),
        (
            {"train": [(CLIP, np.eye(2))], "test": [(CLIP, np.array([1, 0]))]},
            "of shape (2, 2); give a number from 0 to 1 for each of 2 classes",
        ),
    ],
)
def test_what_cannot_be_used_is_named(data, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_own_data(data, RATE)


def test_loud_waveforms_are_clipped_and_counted():
    loud = 3 * np.sin(np.arange(8000)).astype(np.float32)
    clips = [(loud, "a"), (loud / 4, "b")]
    data = read_own_data({"train": clips, "evaluation": clips[1:]}, 16000)
    np.testing.assert_array_equal(to_int16(data.train.waveforms[0]), to_int16(loud))
    assert np.abs(data.train.waveforms[0]).max() == 1
    assert np.abs(loud).max() > 2.9  # the caller's stays
    (note,) = data.notes
    assert note.startswith("train: 1 of 2 clips go beyond [-1, 1] and are clipped there")
