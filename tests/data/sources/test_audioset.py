import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.data.sources.audioset import Files, Segment, list_audioset
from ast_jax.data.sources.manifest import Example
from ast_jax.errors import InputError
from ast_jax.labels import class_names

HEAD = "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2\n# YTID, start_seconds, …\n"
SPEECH, MALE = "/m/09x0r", "/m/05zppz"


def write_list(folder, name, *rows):
    (folder / f"{name}_segments.csv").write_text(HEAD + "".join(f"{row}\n" for row in rows))


def row(video, start=30, end=40, labels=SPEECH):
    return f'{video}, {start:.3f}, {end:.3f}, "{labels}"'


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_lists_are_splits_with_the_527_published_labels(tmp_path):
    write_list(tmp_path, "balanced_train", row("abcdefghijk", labels=f"{MALE},{SPEECH},{MALE}"))
    write_list(tmp_path, "eval", row("-bcdefghijk"), row("_bcdefghijk", labels=MALE))
    paths = [
        touch(tmp_path / "sound" / "a" / name)
        for name in ("abcdefghijk.wav", "-bcdefghijk.flac", "_bcdefghijk.OGG")
    ]
    touch(tmp_path / "sound" / "abcdefghijk.txt")
    manifest = list_audioset(tmp_path, None)
    assert tuple(manifest.labels) == class_names("audioset")
    assert manifest.splits == {
        "balanced": [Example("abcdefghijk", paths[0], (0, 1))],
        "eval": [Example("-bcdefghijk", paths[1], (0,)), Example("_bcdefghijk", paths[2], (1,))],
    }
    assert manifest.missing == []


def test_a_clip_without_a_sound_file_is_listed_with_its_line(tmp_path):
    write_list(tmp_path, "unbalanced_train", row("abc"), "", row("def"))
    touch(tmp_path / "abc.wav")
    manifest = list_audioset(tmp_path, None)
    assert [clip.id for clip in manifest.splits["unbalanced"]] == ["abc"]
    file = tmp_path / "unbalanced_train_segments.csv"
    assert manifest.missing == [f"{file}, line 6: no sound file of def"]


@settings(deadline=None)
@given(
    video=st.text("abcXY019-_", min_size=11, max_size=11),
    start=st.integers(0, 500_000),
    length=st.integers(1, 10_000),
    y=st.sampled_from(["", "Y"]),
    style=st.sampled_from(["", "start", "start_end"]),
    form=st.sampled_from(["short", "{:.3f}", "ms"]),
)
def test_every_naming_scheme_of_files_is_found(
    tmp_path_factory, video, start, length, y, style, form
):
    times = [start, start + length][: style.count("_") + 1 if style else 0]
    texts = {
        "short": [str(time / 1000).removesuffix(".0") for time in times],
        "{:.3f}": [f"{time / 1000:.3f}" for time in times],
        "ms": [str(time) for time in times],
    }[form]
    folder = tmp_path_factory.mktemp("sound")
    path = touch(folder / ("_".join([y + video, *texts]) + ".wav"))
    files = Files(folder)
    segment = Segment(4, video, start / 1000, (start + length) / 1000, (0,))
    assert files.find(segment) == path
    assert files.find(segment._replace(video="zzzzzzzzzzz")) is None
    if style:
        assert files.find(segment._replace(start=segment.start + 600, end=9999.0)) is None


def test_a_file_of_another_segment_is_not_used(tmp_path):
    write_list(tmp_path, "eval", row("abc"), row("def"), row("ghi"), row("jkl"))
    for name in ("abc_30_41.wav", "def_31.wav", "ghi_30_40000.wav", "jkl.wav"):
        touch(tmp_path / name)
    manifest = list_audioset(tmp_path, None)
    assert [clip.id for clip in manifest.splits["eval"]] == ["jkl"]
    assert len(manifest.missing) == 3


def test_links_to_folders_are_followed_once(tmp_path):
    lists, disk = tmp_path / "lists", tmp_path / "disk"
    lists.mkdir()
    touch(disk / "abc.wav")
    (lists / "sound").symlink_to(disk)
    (disk / "back").symlink_to(lists)
    write_list(lists, "eval", row("abc"))
    assert list_audioset(lists, None).splits["eval"][0].path == str(lists / "sound" / "abc.wav")


def test_the_first_of_several_files_by_name_is_used(tmp_path):
    for name in ("b/abc.wav", "a/abc.wav", "a/abc.flac"):
        touch(tmp_path / name)
    write_list(tmp_path, "eval", row("abc"))
    assert list_audioset(tmp_path, None).splits["eval"][0].path == str(tmp_path / "a" / "abc.flac")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('def, 30.000, "/m/09x0r"', "has 3 fields, not 4"),
        ("def, 0.000, 10.000, /m/09x0r,/m/05zppz", "has 5 fields, not 4"),
        (row("d/f"), "'d/f' is not a YouTube id"),
        (row(""), "'' is not a YouTube id"),
        ('def, nan, 10.000, "/m/09x0r"', "'nan' and '10.000' must be seconds"),
        ('def, 1, 1e3, "/m/09x0r"', "'1' and '1e3' must be seconds"),
        ('def, -1, 10.000, "/m/09x0r"', "'-1' and '10.000' must be seconds"),
        (row("def", 40, 30), "the end, '30.000', must come after the start"),
        (row("def", labels="/m/none"), "label '/m/none' is not one of AudioSet's 527"),
        (row("def", labels=""), "label '' is not one of"),
        (row("abc"), "'abc' is in line 4 already"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    touch(tmp_path / "abc.wav")
    write_list(tmp_path, "eval", row("abc"), line)
    with pytest.raises(InputError, match=rf"eval_segments\.csv, line 5: {re.escape(message)}"):
        list_audioset(tmp_path, None)


def test_a_folder_without_lists_or_sound_and_a_class_csv_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"has none of balanced_train_segments\.csv"):
        list_audioset(tmp_path, None)
    with pytest.raises(InputError, match=r"c\.csv: AudioSet has its own classes"):
        list_audioset(tmp_path, tmp_path / "c.csv")
    write_list(tmp_path, "balanced_train", row("abc"))
    write_list(tmp_path, "eval", row("def"))
    with pytest.raises(InputError, match=r"none of its sound files exists \(.*abc\); add them"):
        list_audioset(tmp_path, None)


def test_a_list_without_existing_clips_is_no_split(tmp_path):
    write_list(tmp_path, "balanced_train", row("abc"))
    write_list(tmp_path, "unbalanced_train", row("def"))
    write_list(tmp_path, "eval")
    touch(tmp_path / "abc.wav")
    manifest = list_audioset(tmp_path, None)
    assert list(manifest.splits) == ["balanced"]
    (line,) = manifest.missing
    assert re.search(r"unbalanced_train_segments\.csv, line \d+: no sound file of def", line)
