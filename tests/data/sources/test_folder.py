import shutil
import zlib

import numpy as np
import pytest
import soundfile

from ast_jax.config import FolderData
from ast_jax.data.sources.folder import list_folder
from ast_jax.data.sources.manifest import Example
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


BY_HASH = FolderData(stratify=False, recursive=False)  # as earlier versions


def ids(clips):
    return [clip.id for clip in clips]


def test_a_folder_is_a_class_and_files_are_held_out_by_name(folder):
    manifest = list_folder(folder, None, BY_HASH)
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
    for stratify in (True, False):
        most = FolderData(holdout=1 - 1e-6, stratify=stratify)
        assert len(list_folder(folder, None, most).splits["train"]) == 2
        least = FolderData(holdout=1e-6, stratify=stratify)
        assert len(list_folder(folder, None, least).splits["test"]) == 2
    for holdout in (0, 1, float("nan")):
        with pytest.raises(InputError, match=f"holdout is {holdout}"):
            list_folder(folder, None, FolderData(holdout=holdout))
    with pytest.raises(InputError, match="group is '\\('"):
        list_folder(folder, None, FolderData(group="("))


def test_each_class_holds_out_the_same_share(folder):
    splits = list_folder(folder).splits
    held = ids(splits["test"])
    assert sorted(name.partition("/")[0] for name in held) == ["cat"] * 4 + ["dog"] * 2
    hashes = {name: zlib.crc32(name.encode()) for name in held + ids(splits["train"])}
    for label, count in (("cat", 4), ("dog", 2)):
        of_class = sorted((n for n in hashes if n.startswith(label)), key=hashes.get)
        assert set(of_class[:count]) == {name for name in held if name.startswith(label)}


def test_a_class_with_one_file_is_trained_on(tmp_path):
    touch(tmp_path, "a/1.wav", "b/1.wav", "b/2.wav")
    splits = list_folder(tmp_path).splits
    assert (len(splits["train"]), splits["test"][0].labels) == (2, (1,))
    (tmp_path / "b/2.wav").unlink()
    assert list(list_folder(tmp_path).splits) == ["train"]
    with pytest.raises(InputError, match="no class has two sound files; add some, as one of a"):
        read_folder(tmp_path, FolderData(), 16000)


def test_subfolders_belong_to_the_class_above_them(tmp_path):
    touch(tmp_path, "a/x/y/1.wav", "a/x/2.wav", "a/1.wav", "b/1.wav", "b/2.wav", "b/.h/3.wav")
    (tmp_path / "a" / "x" / "loop").symlink_to(tmp_path / "a")
    manifest = list_folder(tmp_path)
    clips = {clip.id: clip for clips in manifest.splits.values() for clip in clips}
    assert set(clips) == {"a/x/y/1.wav", "a/x/2.wav", "a/1.wav", "b/1.wav", "b/2.wav"}
    assert clips["a/x/y/1.wav"] == Example("a/x/y/1.wav", str(tmp_path / "a/x/y/1.wav"), (0,))
    note, hidden = manifest.notes
    assert note.startswith(f"{tmp_path}: the files of 2 subfolders, such as 'a/x")
    assert note.endswith(", have the class of the folder above")
    assert hidden == f"{tmp_path}: passed over 1 hidden files or folders: '.h'"
    flat = list_folder(tmp_path, data=FolderData(recursive=False))
    assert sum(map(len, flat.splits.values())) == 3
    assert flat.notes == [
        f"{tmp_path}: passed over 1 subfolders, such as 'a/x', as data.recursive is False",
        hidden,
    ]


def test_files_passed_over_are_counted_by_ending(folder):
    touch(folder, "dog/a.TXT", "cat/b.json", "cat/none")
    (folder / "dog" / "x.wav").rmdir()
    assert list_folder(folder).notes == [
        f"{folder}: passed over 1 sound files that are in no class folder, such as 'read me.wav'",
        f"{folder}: passed over files that are no sound files: 2 .txt, 1 .json, 1 without suffix",
        f"{folder}: passed over 2 hidden files or folders: '.git', '._1.wav'",
    ]


def test_what_archives_and_drives_add_is_no_class(tmp_path):
    touch(tmp_path, "a/1.wav", "b/1.wav", "b/2.wav", "__MACOSX/a/._1.wav", "b/@eaDir/x.wav")
    manifest = list_folder(tmp_path)
    assert manifest.labels == ["a", "b"]
    assert manifest.notes == [
        f"{tmp_path}: passed over 2 hidden files or folders: '__MACOSX', '@eaDir'"
    ]
    touch(tmp_path / "split", "train/a/1.wav", "test/a/1.wav", "__MACOSX/._train")
    manifest = list_folder(tmp_path / "split")
    assert list(manifest.splits) == ["train", "test"]
    assert "'__MACOSX'" in manifest.notes[0]


def test_splits_are_found_in_any_case(tmp_path):
    touch(tmp_path, "TEST/a/1.wav", "Train/a/1.wav", "Train/b/1.wav")
    manifest = list_folder(tmp_path)
    assert list(manifest.splits) == ["train", "test"]
    assert ids(manifest.splits["train"]) == ["a/1.wav", "b/1.wav"]
    touch(tmp_path, "test/a/1.wav")
    with pytest.raises(InputError, match="test: another folder is the split test, too; rename"):
        list_folder(tmp_path)


def test_classes_that_differ_in_case_alone_are_noted(tmp_path):
    touch(tmp_path, "Dog/1.wav", "dog/1.wav", "cat/1.wav", "cat/2.wav")
    assert list_folder(tmp_path).notes == [
        f"{tmp_path}: classes differ in case alone: 'Dog' and 'dog'"
    ]


@pytest.mark.parametrize("group", [r"^(.*)_\d+", r"^[a-z]+\d+(?=_)", r"^(.*)_(\d+)"])
def test_pieces_of_a_recording_stay_together(tmp_path, group):
    names = [f"{label}/rec{i}_{j}.wav" for label in "ab" for i in range(10) for j in range(5)]
    touch(tmp_path, *names)
    splits = list_folder(tmp_path, data=FolderData(group=group)).splits
    recordings = {
        split: {name.partition("/")[2].partition("_")[0] for name in ids(clips)}
        for split, clips in splits.items()
    }
    assert not recordings["train"] & recordings["test"]
    assert [clip.labels for clip in splits["test"]].count((0,)) == 10
    assert [clip.labels for clip in splits["test"]].count((1,)) == 10


def test_a_file_without_a_recording_is_named(tmp_path):
    touch(tmp_path, "a/r_1.wav", "a/x.wav", "b/r_2.wav", "b/q_1.wav")
    for group in (r"^(.*)_\d+", "q?_"):
        with pytest.raises(
            InputError, match=r"a/x\.wav: data\.group '.*' finds no recording in 'x"
        ):
            list_folder(tmp_path, data=FolderData(group=group))
    with pytest.raises(InputError, match=r"no class has two recordings \(data.group\); add some"):
        read_folder(tmp_path, FolderData(group=r"\.wav"), 16000)


def test_a_recording_in_two_given_splits_is_noted(tmp_path):
    touch(tmp_path, "train/a/r_1.wav", "train/b/q_1.wav", "test/a/r_2.wav", "test/b/p_1.wav")
    manifest = list_folder(tmp_path, data=FolderData(group=r"^(.*)_\d+"))
    assert manifest.notes == [f"{tmp_path}: group 'r' has clips in both train and test"]
    assert list_folder(tmp_path).notes == []


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
            Example("a/1.wav", str(tmp_path / "train/a/1.wav"), (0,)),
            Example("b/1.wav", str(tmp_path / "train/b/1.wav"), (1,)),
        ],
        other: [
            Example("b/1.wav", str(tmp_path / other / "b/1.wav"), (1,)),
            Example("b/2.ogg", str(tmp_path / other / "b/2.ogg"), (1,)),
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
        ((), "has no folders; give one with a folder for each class"),
        (("dog/1.wav", "cat/1.txt"), r"cat: has no sound files \(passed over .*: 1 .txt\); add"),
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
    data = read_folder(tmp_path, FolderData(), 16000)
    assert data.train.targets.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert data.evaluation.names == [str(tmp_path / "val" / "b" / "3.wav")]
    touch(tmp_path, "test/a/1.wav")
    with pytest.raises(InputError, match="has the splits train, test, val; keep train and"):
        read_folder(tmp_path, FolderData(), 16000)
