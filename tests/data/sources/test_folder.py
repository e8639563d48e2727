import shutil
import zlib

import numpy as np
import pytest
import soundfile

from ast_jax.data.sources.folder import list_folder
from ast_jax.data.training_data import read_folder
from ast_jax.errors import InputError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def folder(tmp_path):
    touch(tmp_path, *(f"dog/{i}.flac" for i in range(10)), *(f"cat/{i}.flac" for i in range(20)))
    touch(tmp_path, "dog/notes.txt", "dog/._1.wav", "read me.wav", ".git/1.wav")
    (tmp_path / "dog" / "x.wav").mkdir()
    return tmp_path


def test_a_folder_is_a_class_and_files_are_held_out_by_name(folder):
    manifest = list_folder(folder, None)
    assert manifest.labels == ["cat", "dog"]
    assert list(manifest.splits) == ["train", "test"]
    everything = {f"{label}/{i}.flac" for label, n in (("cat", 20), ("dog", 10)) for i in range(n)}
    held_out = {name for name in everything if zlib.crc32(name.encode()) < 0.2 * 2**32}
    assert {clip.id for clip in manifest.splits["test"]} == held_out
    assert {clip.id for clip in manifest.splits["train"]} == everything - held_out
    for clip in (clip for clips in manifest.splits.values() for clip in clips):
        assert clip.path == str(folder / clip.id)
        assert clip.labels == (0 if clip.id.startswith("cat") else 1,)
    assert manifest.missing == []


def test_the_held_out_fraction_can_be_set(folder):
    assert len(list_folder(folder, None, holdout=1 - 1e-9).splits["train"]) == 2
    assert len(list_folder(folder, None, holdout=1e-9).splits["test"]) == 2
    for holdout in (0, 1, float("nan")):
        with pytest.raises(InputError, match=f"holdout is {holdout}"):
            list_folder(folder, None, holdout)


def test_a_files_split_does_not_depend_on_the_folders_path(folder, tmp_path_factory):
    def sides():
        return {
            split: [clip.id for clip in clips]
            for split, clips in list_folder(folder, None).splits.items()
        }

    before = sides()
    folder = shutil.move(folder, tmp_path_factory.mktemp("elsewhere") / "sounds")
    assert sides() == before


@pytest.mark.parametrize("other", ["test", "validation", "eval", "val"])
def test_folders_named_train_and_test_are_splits(tmp_path, other):
    touch(tmp_path, "train/b/1.wav", "train/a/1.wav", f"{other}/b/1.wav", f"{other}/b/2.ogg")
    manifest = list_folder(tmp_path, None)
    assert manifest.labels == ["a", "b"]
    assert manifest.splits == {
        "train": [
            ("a/1.wav", str(tmp_path / "train/a/1.wav"), (0,)),
            ("b/1.wav", str(tmp_path / "train/b/1.wav"), (1,)),
        ],
        other: [
            ("b/1.wav", str(tmp_path / other / "b/1.wav"), (1,)),
            ("b/2.ogg", str(tmp_path / other / "b/2.ogg"), (1,)),
        ],
    }


@pytest.mark.parametrize("names", [("train", "whistle"), ("test", "val"), ("train", "test")])
def test_classes_named_like_splits_are_classes(tmp_path, names):
    touch(tmp_path, *(f"{name}/{i}.wav" for name in names for i in range(2)))
    manifest = list_folder(tmp_path, None)
    assert manifest.labels == sorted(names)
    assert [len(clips) for clips in manifest.splits.values()] == [2, 2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "has 0 class folders"),
        (("dog/1.wav",), "has 1 class folders"),
        (
            ("dog/1.wav", "cat/1.wav"),
            "cat: has 1 sound files; add some, as a class needs two or more",
        ),
        (("train/a/1.wav", "test/a/1.wav"), "train: has 1 class folders"),
        (("train/a/1.wav", "train/b/1.wav", "test/c/1.wav"), r"test/c: is not a class in .*train;"),
        (("train/a/1.wav", "train/b/1.txt", "test/a/1.wav"), "train/b: has no sound files"),
        (("a\nb/1.wav", "a/1.wav"), r"folder 'a\\nb' has a line break"),
        (("b/1\n.wav", "a/1.wav", "a/2.wav"), r"b: the name of the file '1\\n\.wav' has"),
    ],
)
def test_an_invalid_folder_is_refused(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        list_folder(tmp_path, None)


def test_a_missing_folder_and_a_class_csv_are_refused(tmp_path):
    with pytest.raises(InputError, match="none: no such folder"):
        list_folder(tmp_path / "none", None)
    with pytest.raises(InputError, match="has its own classes"):
        list_folder(tmp_path, tmp_path / "classes.csv")


def test_reading_into_memory_takes_two_splits_and_refuses_three(tmp_path):
    for name in ("train/a/1.wav", "train/b/1.wav", "train/b/2.wav", "val/b/3.wav"):
        touch(tmp_path, name)
        soundfile.write(tmp_path / name, np.zeros(1600), 16000)
    data = read_folder(tmp_path, 0.2, 16000)
    assert data.train.targets.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert data.evaluation.names == [str(tmp_path / "val" / "b" / "3.wav")]
    touch(tmp_path, "test/a/1.wav")
    with pytest.raises(InputError, match="has the splits train, test, val; keep train and"):
        read_folder(tmp_path, 0.2, 16000)
