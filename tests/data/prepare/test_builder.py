import csv
import hashlib
import os

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

import ast_jax.data.prepare.builder
import ast_jax.data.prepare.shard
from ast_jax.audio.decode import load_audio, read_recording
from ast_jax.audio.pcm import to_int16
from ast_jax.data.prepare.builder import (
    SKIPPED_FILE,
    AudioBuilder,
    source_digest,
    write_one_by_one,
)
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.prepared import VERSION, open_prepared
from ast_jax.data.sources.manifest import Example, Manifest
from ast_jax.errors import InputError

# TFDS warns when it reads a set from its folder.
BY_FOLDER = r"ignore:label\(\) is deprecated:DeprecationWarning"


def write_source(folder, clips, missing=0):
    """Writes a CSV source; the first clip of a split has both classes, the others one."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels", "split"])
        for split, count in clips.items():
            for i in range(count):
                soundfile.write(folder / f"{split}{i}.wav", rng.uniform(-1, 1, 500 + i), 16000)
                rows.writerow([f"{split}{i}.wav", "x;y" if i == 0 else "xy"[i % 2], split])
        rows.writerows([f"none{i}.wav", "x", split] for i in range(missing))
    return folder


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source", {"train": 7, "test": 2}, missing=2)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(ast_jax.data.prepare.builder, "CLIPS_PER_SHARD", 3)


def damage(source, *names):
    for name in names:
        (source / name).write_bytes(b"no sound")


def build(source, output, kind="csv", **options):
    builder = AudioBuilder(kind, source=source, data_dir=output, **options)
    builder.download_and_prepare()
    return builder


def skipped(folder):
    with (folder / SKIPPED_FILE).open(newline="") as file:
        return list(csv.reader(file))


def test_a_set_has_the_clips_of_the_source(source, tmp_path):
    builder = build(source, tmp_path / "out")
    assert builder.info.splits["train"].shard_lengths == [3, 3, 1]
    assert builder.info.splits["test"].shard_lengths == [2]
    for split, count in (("train", 7), ("test", 2)):
        clips = builder.as_data_source(split)
        assert len(clips) == count
        for i, clip in enumerate(clips):
            assert clip["id"].decode() == f"{split}{i}.wav"
            assert list(clip["labels"]) == ([0, 1] if i == 0 else [i % 2])
            expected = to_int16(load_audio(source / f"{split}{i}.wav"))
            np.testing.assert_array_equal(clip["audio"], expected)


@pytest.mark.filterwarnings(BY_FOLDER)
def test_tfds_reads_a_set_from_its_folder(source, tmp_path):
    build(source, tmp_path / "out", max_damaged=0)
    plain = tfds.builder_from_directory(tmp_path / "out" / "csv" / VERSION)
    assert plain.info.metadata["labels"] == ["x", "y"]
    assert plain.info.features["labels"].feature.names == ["x", "y"]
    ids = [f"train{i}.wav".encode() for i in range(7)]
    assert [clip["id"] for clip in plain.as_data_source("train")] == ids
    assert [clip["id"] for clip in plain.as_data_source("train[2:4]")] == ids[2:4]


@pytest.mark.filterwarnings(BY_FOLDER)
def test_a_file_without_clips_is_read(source, tmp_path):
    damage(source, "train3.wav", "train4.wav", "train5.wav")
    builder = build(source, tmp_path / "out", max_damaged=3)
    assert builder.info.splits["train"].shard_lengths == [3, 0, 1]
    plain = tfds.builder_from_directory(tmp_path / "out" / "csv" / VERSION)
    ids = [clip["id"].decode() for clip in plain.as_data_source("train")]
    clips = open_prepared(tmp_path / "out").clips("train")
    assert ids == list(clips.names) == [f"train{i}.wav" for i in (0, 1, 2, 6)]
    assert (
        [len(waveform) for waveform in clips.waveforms] == clips.lengths() == [500, 501, 502, 506]
    )


def test_a_set_records_its_version_classes_and_the_digest_of_its_source(source, tmp_path):
    builder = build(source, tmp_path / "out", sampling_rate=8000)
    prepared = open_prepared(tmp_path / "out")
    assert prepared.folder.name == VERSION == str(builder.version)
    assert prepared.labels == ["x", "y"]
    assert prepared.sampling_rate == 8000
    assert prepared.digest == source_digest(builder.manifest)
    assert prepared.clips("test").lengths() == [250, 251]


def test_missing_and_damaged_clips_are_listed_and_skipped(source, tmp_path):
    damage(source, "train1.wav")
    soundfile.write(source / "test1.wav", np.zeros(399), 16000)
    builder = build(source, tmp_path / "out", max_damaged=2)
    head, *rows = skipped(tmp_path / "out" / "csv" / VERSION)
    assert head == ["kind", "what"]
    assert [kind for kind, _ in rows] == ["missing", "missing", "damaged", "damaged"]
    for (_, line), name in zip(rows, ["none0", "none1", "train1", "test1"], strict=True):
        assert f"{source / name}.wav" in line
    assert builder.damaged == [line for _, line in rows[2:]]
    prepared = open_prepared(tmp_path / "out")
    assert len(prepared.clips("train").waveforms) == 6
    assert list(prepared.clips("test").names) == ["test0.wav"]


@pytest.mark.parametrize("allowed", [0, 1])
def test_too_many_damaged_files_raise_an_error_that_names_one(source, tmp_path, allowed):
    damage(source, "train1.wav", "train5.wav")
    message = rf"train[15]\.wav.* --max-damaged is {allowed} and {allowed + 1} cannot be used"
    with pytest.raises(InputError, match=message):
        build(source, tmp_path / "out", max_damaged=allowed)
    assert not (tmp_path / "out" / "csv" / VERSION).exists()


def test_a_split_without_a_clip_is_refused(source, tmp_path):
    damage(source, "test0.wav", "test1.wav")
    with pytest.raises(InputError, match="split test has no clip that can be read"):
        build(source, tmp_path / "out", max_damaged=9)
    with pytest.raises(InputError, match="does not contain a prepared set"):
        open_prepared(tmp_path / "out")


@pytest.fixture
def decoded(monkeypatch):
    """Returns a list of the files decoded so far; those in `decoded.stop` raise instead."""

    class Names(list):
        stop = ()

    names = Names()

    def load(path, rate, **options):
        if os.path.basename(path) in names.stop:
            raise KeyboardInterrupt
        names.append(os.path.basename(path))
        return read_recording(path, rate, **options)

    monkeypatch.setattr(ast_jax.data.prepare.shard, "read_recording", load)
    return names


def interrupt(decoded, *arguments, at, **options):
    decoded.stop = (at,)
    with pytest.raises(KeyboardInterrupt):
        build(*arguments, **options)
    decoded.clear()
    decoded.stop = ()


def test_finished_files_are_not_decoded_again(source, tmp_path, decoded):
    interrupt(decoded, source, tmp_path / "out", at="train4.wav")
    build(source, tmp_path / "out")
    assert decoded == [*(f"train{i}.wav" for i in range(3, 7)), "test0.wav", "test1.wav"]
    assert open_prepared(tmp_path / "out").clips("train").lengths() == [*range(500, 507)]


def replace(source):
    soundfile.write(source / "train0.wav", np.zeros(1000), 16000)


def relabel(source):
    text = (source / "list.csv").read_text()
    (source / "list.csv").write_text(text.replace("train6.wav,x", "train6.wav,y"))


@pytest.mark.parametrize("change", [replace, relabel])
def test_a_changed_source_starts_over(source, tmp_path, decoded, change):
    interrupt(decoded, source, tmp_path / "out", at="test0.wav")
    change(source)
    build(source, tmp_path / "out")
    assert len(decoded) == 9


def test_another_rate_starts_over(source, tmp_path, decoded):
    interrupt(decoded, source, tmp_path / "out", at="test0.wav")
    build(source, tmp_path / "out", sampling_rate=8000)
    assert open_prepared(tmp_path / "out").clips("train").lengths() == [
        250,
        251,
        251,
        252,
        252,
        253,
        253,
    ]


def test_another_source_with_the_same_names_and_sizes_starts_over(source, tmp_path, decoded):
    other = write_source(tmp_path / "other", {"train": 7, "test": 2})
    soundfile.write(other / "train0.wav", np.zeros(500), 16000)
    interrupt(decoded, source, tmp_path / "out", at="test0.wav")
    build(other, tmp_path / "out")
    assert len(decoded) == 9
    assert not open_prepared(tmp_path / "out").clips("train").waveforms[0].any()


def test_other_file_sizes_start_over(source, tmp_path, decoded, monkeypatch):
    interrupt(decoded, source, tmp_path / "out", at="test0.wav")
    monkeypatch.setattr(ast_jax.data.prepare.builder, "CLIPS_PER_SHARD", 2)
    build(source, tmp_path / "out")
    assert open_prepared(tmp_path / "out").clips("train").lengths() == [*range(500, 507)]


def rewrite(file, content, output):
    """Writes a file until its timestamp is later than those of the output."""
    newest = max(path.stat().st_mtime_ns for path in output.rglob("*"))
    while file.stat().st_ctime_ns <= newest:
        file.write_bytes(content)


def test_a_file_changed_in_place_is_decoded_again(source, tmp_path, decoded):
    interrupt(decoded, source, tmp_path / "out", at="test0.wav")
    content = bytearray((source / "train1.wav").read_bytes())
    content[-1] ^= 1
    rewrite(source / "train1.wav", content, tmp_path / "out")
    build(source, tmp_path / "out")
    assert decoded == ["train0.wav", "train1.wav", "train2.wav", "test0.wav", "test1.wav"]
    waveform = open_prepared(tmp_path / "out").clips("train").waveforms[1]
    np.testing.assert_array_equal(waveform, to_int16(load_audio(source / "train1.wav")))


def test_a_damaged_file_repaired_in_place_is_decoded_by_the_next_run(source, tmp_path, decoded):
    file = source / "train4.wav"
    whole = file.read_bytes()
    file.write_bytes(bytes(len(whole)))
    with pytest.raises(InputError, match=r"train4\.wav"):
        build(source, tmp_path / "out")
    decoded.clear()
    rewrite(file, whole, tmp_path / "out")
    build(source, tmp_path / "out")
    assert decoded[:3] == ["train3.wav", "train4.wav", "train5.wav"]
    assert "train0.wav" not in decoded
    assert open_prepared(tmp_path / "out").clips("train").lengths() == [*range(500, 507)]


def test_a_large_split_has_a_limited_number_of_files(source, monkeypatch, tmp_path):
    monkeypatch.setattr(ast_jax.data.prepare.builder, "CLIPS_PER_SHARD", 1)
    monkeypatch.setattr(ast_jax.data.prepare.builder, "MAX_SHARDS", 3)
    builder = build(source, tmp_path / "out")
    assert builder.info.splits["train"].shard_lengths == [3, 3, 1]
    assert builder.info.splits["test"].shard_lengths == [1, 1]


def test_the_digest_depends_on_classes_ids_labels_and_sizes(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"123")

    def digest(labels=("x", "y"), split="train", id="1", path="a", of=(0,), segment=None):
        example = Example(id, str(tmp_path / path), of, segment)
        return source_digest(Manifest(list(labels), {split: [example]}, []))

    assert digest() == digest(path="b")
    (tmp_path / "b").write_bytes(b"1234")
    others = [digest(["x", "z"]), digest(split="test"), digest(id="2"), digest(path="b")]
    others += [digest(segment=(0, 1)), digest(segment=(0, 2))]
    assert len({digest(), digest(of=(0, 1)), *others}) == 8
    assert source_digest(Manifest([], {}, []), scale_loud=True) != source_digest(
        Manifest([], {}, [])
    )
    # As of earlier versions, so that prepared sets keep theirs.
    content = '["x", "y"]["train", "1", [0], 3]'
    assert digest() == hashlib.sha256(content.encode()).hexdigest()


def test_names_of_columns_are_for_csv(tmp_path):
    with pytest.raises(InputError, match="are for csv, not for json; leave them out"):
        AudioBuilder("json", source=tmp_path, columns={"path": "x"}, data_dir=tmp_path)


def test_the_recordings_of_esc10_are_prepared_as_they_are_decoded(esc10, tmp_path, monkeypatch):
    from ast_jax.data.sources import SOURCES, list_esc50

    def some(source, classes):
        labels, splits, missing, _ = list_esc50(source, classes)
        return Manifest(labels, {s: splits[s][:5] for s in ("fold1", "fold2")}, missing)

    monkeypatch.setitem(SOURCES, "esc50", some)
    build(esc10, tmp_path / "out", kind="esc50")
    prepared = open_prepared(tmp_path / "out")
    assert len(prepared.labels) == 10
    examples = some(esc10, None).splits["fold1"]
    clips = prepared.clips("fold1")
    for example, waveform, target in zip(
        examples, clips.waveforms, clips.all_targets(), strict=True
    ):
        np.testing.assert_array_equal(waveform, to_int16(load_audio(example.path)))
        assert (target.argmax(),) == example.labels


@pytest.mark.filterwarnings(BY_FOLDER)
def test_beam_writes_the_same_set(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    monkeypatch.setattr(ast_jax.data.prepare.builder, "CLIPS_PER_SHARD", 2)
    # More than ten files with different lengths, as TFDS orders the tenth before the second.
    source = write_source(tmp_path / "source", {"train": 25, "test": 2})
    damage(source, "train4.wav", "train22.wav", "train23.wav")
    made = [
        prepare("csv", source, tmp_path / name, max_damaged=3, beam_runner=runner)
        for name, runner in (("plain", ""), ("beam", "DirectRunner"))
    ]
    assert made[0][1:] == made[1][1:]
    plain, beam = (open_prepared(each.folder) for each in made)
    for split in ("train", "test"):
        ours, theirs = (prepared.clips(split) for prepared in (beam, plain))
        assert [n for _, n in beam.splits[split]] == [n for _, n in plain.splits[split]]
        assert list(ours.names) == list(theirs.names)
        assert ours.lengths() == theirs.lengths()
        np.testing.assert_array_equal(ours.all_targets(), theirs.all_targets())
        for a, b in zip(ours.waveforms, theirs.waveforms, strict=True):
            np.testing.assert_array_equal(a, b)
        records = [tfds.builder_from_directory(each.folder).as_data_source(split) for each in made]
        assert [clip["id"] for clip in records[0]] == [clip["id"] for clip in records[1]]


def test_a_source_that_changed_since_the_interruption_starts_over(tmp_path):
    for number, name in enumerate(("old", "new")):
        rng = np.random.default_rng(number)
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(1600), 16000)
    source = tmp_path / "clips.csv"

    def build(name, write_shards=write_one_by_one):
        source.write_text(f"id,path,labels\nclip,{name}.wav,dog\n")
        builder = AudioBuilder(
            "csv", source=source, data_dir=tmp_path / "out", write_shards=write_shards
        )
        builder.download_and_prepare()
        return builder

    def interrupted(shards, labels):
        list(write_one_by_one(shards, labels))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("old", interrupted)
    (clip,) = build("new").as_data_source("train")
    expected = soundfile.read(tmp_path / "new.wav", dtype="int16")[0]
    np.testing.assert_array_equal(clip["audio"], expected)
