import json
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ast_jax.data.prepare.builder
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.prepared import (
    CLIPS_FILE,
    VERSION,
    PreparedSet,
    default_splits,
    open_prepared,
    read_prepared,
)
from ast_jax.data.recorded_waveforms import RecordedWaveforms
from ast_jax.errors import InputError

SPLITS = {"a": 5, "b": 7, "c": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns a prepared set with three splits in files of two clips, and its samples."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    samples, lines = {}, ["path,labels,split"]
    for split, count in SPLITS.items():
        samples[split] = []
        for i in range(count):
            clip = rng.integers(-32768, 32768, 500 + 10 * i).astype(np.int16)
            soundfile.write(folder / f"{split}{i}.wav", clip, 16000)
            samples[split].append(clip)
            lines.append(f"{split}{i}.wav,{'x;y;z'[: 1 + 2 * (i % 3)]},{split}")
    (folder / "list.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ast_jax.data.prepare.builder, "CLIPS_PER_SHARD", 2)
        prepare("csv", folder, folder / "out")
    return folder / "out", samples


@pytest.fixture
def copy(made, tmp_path):
    """Returns the folder of a copy that a test can damage."""
    shutil.copytree(made[0] / "csv", tmp_path / "csv")
    return tmp_path / "csv" / VERSION


def test_a_set_round_trips(made):
    folder, samples = made
    prepared = open_prepared(folder)
    assert prepared == open_prepared(folder / "csv" / VERSION) == open_prepared(str(folder), "csv")
    assert prepared.folder == folder / "csv" / VERSION
    assert (prepared.name, prepared.labels) == ("csv", ["x", "y", "z"])
    assert prepared.sampling_rate == 16000
    assert len(prepared.digest) == 64
    assert {s: sum(n for _, n in files) for s, files in prepared.splits.items()} == SPLITS
    for split, expected in samples.items():
        clips = prepared.clips(split)
        assert len(clips.waveforms) == len(expected)
        assert list(clips.names) == [f"{split}{i}.wav" for i in range(len(expected))]
        assert clips.lengths() == [len(clip) for clip in expected]
        assert clips.all_targets().sum(axis=1).tolist() == [1 + i % 3 for i in range(len(expected))]
        for waveform, clip in zip(clips.waveforms, expected, strict=True):
            assert waveform.dtype == np.int16
            np.testing.assert_array_equal(waveform, clip)


def test_several_splits_are_concatenated_in_the_order_given(made):
    folder, samples = made
    clips = open_prepared(folder).clips("c + a")
    expected = samples["c"] + samples["a"]
    assert [name[0] for name in clips.names] == ["c"] * 3 + ["a"] * 5
    assert clips.all_targets().sum(axis=1).tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    for index in (-1, *range(8)):
        np.testing.assert_array_equal(clips.waveforms[index], expected[index])
    with pytest.raises(IndexError):
        clips.waveforms[8]


def test_a_missing_split_is_named_with_the_existing_ones(made):
    for splits in ("a+d", "d", "a+", "a b"):
        with pytest.raises(InputError, match=r"has no split '.*'; it has a, b, c$"):
            open_prepared(made[0]).clips(splits)


def test_files_without_clips_are_skipped(made):
    (path, count), *_ = open_prepared(made[0]).splits["a"]
    waveforms = RecordedWaveforms([("none", 0), (path, count), ("none", 0), (path, count)])
    assert len(waveforms) == 4
    for index, same in ((0, 2), (1, 3)):
        np.testing.assert_array_equal(waveforms[index], waveforms[same])
    assert len(RecordedWaveforms([])) == 0


def test_waveforms_can_be_pickled_and_are_read_only(made):
    waveforms = open_prepared(made[0]).clips("b").waveforms
    waveforms[3]  # opens a file
    other = pickle.loads(pickle.dumps(waveforms))
    assert not other._readers
    for ours, theirs in zip(waveforms, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="read-only"):
        waveforms[0][0] = 1


def test_hundreds_of_threads_read_the_same_as_one(made):
    folder, samples = made
    expected = [clip for split in samples.values() for clip in split]
    start = threading.Barrier(200)

    def read(number, waveforms):
        order = np.random.default_rng(number).integers(0, len(expected), 20)
        start.wait()
        return all(np.array_equal(waveforms[i], expected[i]) for i in order)

    with ThreadPoolExecutor(200) as pool:
        for _ in range(3):  # all threads open the files at the same time
            waveforms = open_prepared(folder).clips("a+b+c").waveforms
            assert all(pool.map(read, range(200), [waveforms] * 200))


# ---- invalid sets


def test_a_folder_without_a_set_is_rejected(made, tmp_path):
    with pytest.raises(InputError, match=r"none: no such folder; give the --output of"):
        open_prepared(tmp_path / "none")
    with pytest.raises(InputError, match=r"does not contain a prepared set; make one with"):
        open_prepared(tmp_path)
    with pytest.raises(InputError, match=r"does not contain a prepared set 'esc50'; make one"):
        open_prepared(made[0], "esc50")


def test_a_path_that_is_no_utf8_is_rejected(made, tmp_path):
    link = tmp_path / "\udcff"
    link.symlink_to(made[0])
    with pytest.raises(InputError, match=r"udcff.*: array_record opens paths of UTF-8 only"):
        open_prepared(link)


def test_several_sets_need_a_name(copy, tmp_path):
    shutil.copytree(tmp_path / "csv", tmp_path / "json")
    with pytest.raises(
        InputError, match=r"several prepared sets; set data\.name \(or --name\) to one of csv, j"
    ):
        open_prepared(tmp_path)
    assert open_prepared(tmp_path, "csv").folder == copy


def test_an_interrupted_runs_folder_is_rejected(copy, tmp_path):
    shutil.copytree(copy, copy.parent / f"incomplete.ABC123_{VERSION}")
    assert open_prepared(tmp_path).folder == copy
    shutil.rmtree(copy)
    with pytest.raises(InputError, match="does not contain a prepared set"):
        open_prepared(tmp_path)


def change(file, **fields):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | fields))


def test_a_set_of_another_version_is_rejected(copy, tmp_path):
    old = copy.rename(copy.parent / "0.9.0")
    change(old / "dataset_info.json", version="0.9.0")
    with pytest.raises(InputError) as caught:
        open_prepared(tmp_path)
    expected = f"{old}: has format version 0.9.0 and this release reads {VERSION}; prepare it again"
    assert str(caught.value) == expected
    shutil.copytree(old, copy)
    change(copy / "dataset_info.json", version=VERSION)
    assert open_prepared(tmp_path).folder == copy


@pytest.mark.parametrize("file", ["dataset_info.json", "metadata.json", CLIPS_FILE])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"null", b"{}", b"PK\x03\x04junk"])
def test_a_set_with_a_damaged_list_is_rejected_by_name(copy, file, content):
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    with pytest.raises(InputError, match=str(copy)):
        open_prepared(copy)


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("dataset_info.json", {"splits": 3}),
        ("dataset_info.json", {"splits": [{"name": "a"}]}),
        ("dataset_info.json", {"splits": [{"name": "a", "shardLengths": ["x"], "numBytes": "1"}]}),
        ("metadata.json", {"labels": None}),
        ("metadata.json", {"sampling_rate": "fast"}),
        ("dataset_info.json", {"splits": [{"name": "a", "shardLengths": [-1], "numBytes": 0}]}),
    ],
)
def test_a_set_with_fields_of_a_wrong_type_is_rejected(copy, file, fields):
    change(copy / file, **fields)
    with pytest.raises(InputError, match=r"damaged or incomplete \(.*\); prepare it again$"):
        open_prepared(copy)


@pytest.mark.parametrize("split", SPLITS)
def test_a_set_with_a_missing_or_truncated_file_is_rejected(copy, split):
    file = sorted(copy.glob(f"csv-{split}.array_record-*"))[-1]
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"split {split} has \d+ bytes instead of \d+; prep"):
        open_prepared(copy)
    file.unlink()
    with pytest.raises(InputError, match=rf"incomplete \(FileNotFoundError.*{file.name}"):
        open_prepared(copy)


@pytest.mark.parametrize("size", [0, 40, 300, -100, -1])
def test_a_truncated_list_of_clips_is_rejected(copy, size):
    content = (copy / CLIPS_FILE).read_bytes()
    (copy / CLIPS_FILE).write_bytes(content[:size])
    with pytest.raises(InputError, match="damaged or incomplete"):
        open_prepared(copy)


def test_a_list_of_clips_with_changed_bytes_is_rejected(copy):
    content = bytearray((copy / CLIPS_FILE).read_bytes())
    position = content.index(b"\x93NUMPY") + 200
    content[position] ^= 1
    (copy / CLIPS_FILE).write_bytes(content)
    with pytest.raises(InputError, match="damaged or incomplete"):
        open_prepared(copy)


@pytest.mark.parametrize("part", ["ids", "samples", "labels", "label_counts"])
def test_a_list_that_does_not_match_the_files_is_rejected(copy, part):
    with np.load(copy / CLIPS_FILE) as arrays:
        content = dict(arrays)
    content[f"b/{part}"] = content[f"b/{part}"][:-1]
    np.savez(copy / CLIPS_FILE, **content)
    with pytest.raises(InputError, match="files of split b differ in their number of clips"):
        open_prepared(copy)


@pytest.mark.parametrize(
    ("part", "value", "complaint"),
    [
        ("labels", -1, "numbers from -1 to 2 where they must be from 0 to 2"),
        ("labels", 3, "numbers from 0 to 3"),
        ("label_counts", -4, "numbers from -4 to"),
        ("samples", 0, "numbers from 0 to"),
        ("samples", 2**62, "numbers from 510 to 4611686018427387904"),
    ],
)
def test_numbers_that_would_index_beyond_an_array_are_rejected(copy, part, value, complaint):
    with np.load(copy / CLIPS_FILE) as arrays:
        content = dict(arrays)
    array = content[f"b/{part}"].astype(np.int64)
    if part == "label_counts":  # of the same sum
        array[1] += array[0] - value
    array[0] = value
    np.savez(copy / CLIPS_FILE, **content | {f"b/{part}": array})
    with pytest.raises(InputError, match=rf"{copy}: damaged or incomplete .*{complaint}"):
        open_prepared(copy)


def test_a_list_of_another_kind_is_rejected(copy):
    with np.load(copy / CLIPS_FILE) as arrays:
        content = dict(arrays)
    for array in (content["b/labels"].astype(float), content["b/labels"][None]):
        np.savez(copy / CLIPS_FILE, **content | {"b/labels": array})
        with pytest.raises(InputError, match=r"damaged or incomplete|differ in their number"):
            open_prepared(copy)
    np.savez_compressed(copy / CLIPS_FILE, **content)
    with pytest.raises(InputError, match="is compressed"):
        open_prepared(copy)


@pytest.mark.parametrize("field", ["labels", "sampling_rate", "source_digest"])
def test_another_word_or_number_in_the_metadata_is_seen(copy, field):
    content = json.loads((copy / "metadata.json").read_text())
    value = {"labels": ["x", "y", "w"], "sampling_rate": 16001, "source_digest": "0"}[field]
    change(copy / "metadata.json", **{field: value})
    with pytest.raises(InputError, match="its checksum differs"):
        open_prepared(copy)
    del content["checksum"]  # as of an earlier version
    for rate in (0, -5, 10**30):
        (copy / "metadata.json").write_text(json.dumps(content | {"sampling_rate": rate}))
        with pytest.raises(InputError, match=f"a sampling rate of {rate} Hz"):
            open_prepared(copy)
    (copy / "metadata.json").write_text(json.dumps(content | {"cl%cksum": "6a707944"}))
    with pytest.raises(InputError, match=r"metadata\.json has an unknown field 'cl%cksum'"):
        open_prepared(copy)
    (copy / "metadata.json").write_text(json.dumps(content))
    assert open_prepared(copy).labels == ["x", "y", "z"]


def test_every_flipped_bit_of_a_file_is_seen_or_changes_nothing(copy, made):
    path, count = open_prepared(copy).splits["a"][0]
    good, rng, seen = Path(path).read_bytes(), np.random.default_rng(0), 0
    for place in rng.integers(0, 3000, 150).tolist():  # the rest is padding
        content = bytearray(good)
        content[place] ^= 1 << (place % 8)
        Path(path).write_bytes(content)
        waveforms = RecordedWaveforms([(path, count)])
        for index in range(count):
            try:
                np.testing.assert_array_equal(waveforms[index], made[1]["a"][index])
            except InputError:
                seen += 1
    assert seen > 100


def test_a_damaged_or_removed_file_is_named_when_it_is_read(copy):
    prepared = open_prepared(copy)
    path = Path(prepared.splits["a"][1][0])
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # in the samples
    path.write_bytes(content)
    clips = open_prepared(copy).clips("a")  # the size is unchanged
    clips.waveforms[0]
    with pytest.raises(InputError, match=rf"{path}: cannot be read \(.*\); prepare the set again"):
        clips.waveforms[2]
    path.unlink()
    with pytest.raises(InputError, match=rf"{path}: cannot be read \(.*No such file"):
        prepared.clips("a").waveforms[2]


# ---- training and evaluation splits


def with_splits(prepared, name, *splits):
    return prepared._replace(name=name, splits={split: [] for split in splits})


@pytest.mark.parametrize(
    ("name", "splits", "expected"),
    [
        ("csv", ["train", "test"], ("train", "test")),
        ("json", ["dev", "train"], ("train", "dev")),
        ("esc50", ["fold1", "fold2", "fold3"], ("fold1+fold3", "fold2")),
        ("urbansound8k", ["fold1", "fold2", "fold10"], ("fold1+fold10", "fold2")),
        ("fsd50k", ["train", "val", "eval"], ("train", "val")),
        ("audioset", ["balanced", "unbalanced", "eval"], ("balanced+unbalanced", "eval")),
        ("speech_commands", ["train", "validation", "test"], ("train", "validation")),
    ],
)
def test_benchmarks_and_sets_of_two_splits_have_default_splits(
    made, monkeypatch, name, splits, expected
):
    monkeypatch.setattr(PreparedSet, "clips", lambda self, splits: splits)
    prepared = with_splits(open_prepared(made[0]), name, *splits)
    data = read_prepared(prepared, 16000, "", "", fold=2)
    assert (data.train, data.evaluation) == expected


def test_given_splits_are_used(made):
    data = read_prepared(open_prepared(made[0]), 16000, "a+b", "c", fold=1)
    assert data.labels == ["x", "y", "z"]
    assert (len(data.train.waveforms), len(data.evaluation.waveforms)) == (12, 3)


@pytest.mark.parametrize(("train", "evaluation"), [("", ""), ("a", ""), ("", "a")])
def test_splits_without_a_default_must_be_given(made, train, evaluation):
    message = r"has the splits a, b, c; set data\.train and data\.evaluation to the ones"
    with pytest.raises(InputError, match=message):
        read_prepared(open_prepared(made[0]), 16000, train, evaluation, fold=1)


def test_a_set_of_one_split_asks_for_another(made):
    prepared = with_splits(open_prepared(made[0]), "csv", "train")
    with pytest.raises(InputError, match=r"has only the split train; prepare it again with anot"):
        read_prepared(prepared, 16000, "", "", fold=1)


@pytest.mark.parametrize(("train", "evaluation"), [("a", "a"), ("a + b", "b"), ("a+b", "c+ a")])
def test_a_split_cannot_be_for_training_and_evaluation(made, train, evaluation):
    with pytest.raises(InputError, match=r"data\.train is '.*'; no split may be in both"):
        read_prepared(open_prepared(made[0]), 16000, train, evaluation, fold=1)


def test_a_set_at_another_sampling_rate_is_rejected(made):
    with pytest.raises(
        InputError, match=r"has a sampling rate of 16000 Hz and .* with --sampling-rate 8000$"
    ):
        read_prepared(open_prepared(made[0]), 8000, "a", "b", fold=1)


def test_default_splits_of_audioset_are_the_existing_ones(made):
    prepared = with_splits(open_prepared(made[0]), "audioset", "balanced", "eval")
    assert default_splits(prepared, 1) == ("balanced", "eval")
    prepared = with_splits(prepared, "audioset", "balanced", "unbalanced", "eval")
    assert default_splits(prepared, 1) == ("balanced+unbalanced", "eval")


def test_a_set_of_another_name_is_rejected(made):
    folder = open_prepared(made[0]).folder
    assert open_prepared(folder, folder.parent.name).folder == folder
    with pytest.raises(InputError, match=r"is a prepared set of '.*' and data\.name is 'audioset'"):
        open_prepared(folder, "audioset")
