import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.data.sources.json_manifest import list_json
from ast_jax.data.sources.manifest import Example
from ast_jax.errors import InputError
from tests.data.sources.conftest import CLASSES


def write_json(file, *clips):
    file.write_text(json.dumps({"data": clips}))
    return file


def test_json_is_a_split_named_after_the_file(folder):
    file = write_json(
        folder / "train_1.json",
        {"wav": "sub/b.wav", "labels": "/m/d, /m/s,/m/d", "video_id": 3},
        {"wav": "none.wav", "labels": "/m/m"},
        {"wav": str(folder / "a.wav"), "labels": "/m/m"},
    )
    manifest = list_json(file, None)
    assert manifest.labels == ["Speech", "Male speech, man", "Dog"]
    assert manifest.splits == {
        "train_1": [
            Example("sub/b.wav", str(folder / "sub" / "b.wav"), (0, 2)),
            Example(str(folder / "a.wav"), str(folder / "a.wav"), (1,)),
        ]
    }
    assert manifest.missing == [f"{file}, entry 2: {folder / 'none.wav'} does not exist"]


def test_each_json_of_a_folder_is_a_split_and_paths_are_relative_to_it(folder, monkeypatch):
    (folder / "lists").mkdir()
    for name in ("train", "eval"):
        write_json(folder / "lists" / f"{name}.json", {"wav": "../a.wav", "labels": "/m/s"})
    monkeypatch.chdir(folder / "sub")
    manifest = list_json(folder / "lists", folder / "classes.csv")
    assert list(manifest.splits) == ["eval", "train"]
    path = str(folder / "lists" / "../a.wav")
    assert manifest.splits["train"] == [Example("../a.wav", path, (0,))]


CLIP = {"wav": "a.wav", "labels": "/m/s"}


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (CLIP, r"'a\.wav' is in .*x\.json, entry 1 already"),
        ("a.wav", "is not an object"),
        (None, "is not an object"),
        ({"wav": "a.wav"}, "has no string under 'labels'"),
        ({"wav": ["a.wav"], "labels": "/m/s"}, "has no string under 'wav'"),
        ({"wav": "sub/b.wav", "labels": ["/m/s"]}, "has no string under 'labels'"),
        ({"wav": "", "labels": "/m/s"}, "wav is empty"),
        ({"wav": "sub/b.wav", "labels": "/m/s,"}, "label '' is not in the class list"),
        ({"wav": "sub/b.wav", "labels": "Speech"}, "label 'Speech' is not in the class list"),
        ({"wav": "a\0.wav", "labels": "/m/s"}, r"wav 'a\\x00\.wav' has a line break or an invalid"),
        ({"wav": "\ud800", "labels": "/m/s"}, r"wav '\\ud800' has a line break or an invalid"),
        ({"wav": "b.wav", "labels": "x" * 10**6}, "label 'x{79}…' is not in the class list"),
    ],
)
def test_a_malformed_json_entry_is_named(folder, clip, message):
    with pytest.raises(InputError, match=rf"x\.json, entry 2: {message}"):
        list_json(write_json(folder / "x.json", CLIP, clip), None)


def test_a_too_long_path_counts_as_missing(folder):
    clips = [CLIP, {"wav": "x" * 10**5, "labels": "/m/s"}]
    assert len(list_json(write_json(folder / "x.json", *clips), None).missing) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[" * 10**5, "cannot be read as JSON"),
        (b'{"data":\n[{"wav" "a"}]}', r"cannot be read as JSON \(.* line 2 column "),
        (b"[]", "not an object with a list under 'data'"),
        (b'{"data": {"wav": 1}}', "not an object with a list under 'data'"),
        (b'{"data": []}', "none of its sound files exists"),
        (
            b'{"data": [{"wav": "no.wav", "labels": "/m/s"}]}',
            r"none of its sound files exists \(.*no",
        ),
    ],
)
def test_json_without_a_manifest_is_refused(folder, content, message):
    (folder / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.json: {message}"):
        list_json(folder / "x.json", None)


def test_json_tells_which_csv_is_the_class_list_and_takes_no_other(folder):
    file = write_json(folder / "x.json", CLIP)
    (folder / "clips.csv").write_text("path,labels\na.wav,dog\n")
    (folder / "empty.csv").touch()
    assert list_json(file, None).notes == [f"{folder / 'classes.csv'}: is the class list"]
    (folder / "classes.csv").unlink()
    with pytest.raises(InputError, match="has 0 CSV files with the columns index, mid and"):
        list_json(file, None)


def test_json_with_a_byte_order_mark_is_read(folder):
    file = write_json(folder / "x.json", CLIP)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(list_json(file, None).splits["x"]) == 1


def test_json_clip_without_labels_is_negative_and_noted(folder):
    clips = [CLIP, {"wav": "sub/b.wav", "labels": ""}]
    manifest = list_json(write_json(folder / "Train.json", *clips), folder / "classes.csv")
    assert [clip.labels for clip in manifest.splits["train"]] == [(0,), ()]
    assert manifest.notes == [
        f"{folder / 'Train.json'}: 1 clips have no label, such as 'sub/b.wav'; they are negative "
        f"examples of every class, for --loss binary_cross_entropy"
    ]


def test_json_files_of_the_same_split_are_refused(folder):
    for name in ("Train", "train"):
        write_json(folder / f"{name}.json", CLIP)
    with pytest.raises(InputError, match=r"train\.json: another file is the split train, too"):
        list_json(folder, None)


def test_json_needs_one_class_list_and_a_valid_split_name(folder):
    file = write_json(folder / "x.json", CLIP)
    (folder / "more.csv").write_text(CLASSES)
    with pytest.raises(InputError, match="has 2 CSV files with the columns index, mid and"):
        list_json(file, None)
    assert list_json(file, folder / "more.csv").splits.keys() == {"x"}
    with pytest.raises(InputError, match="'x y' cannot be a split's name"):
        list_json(file.rename(folder / "x y.json"), folder / "more.csv")
    with pytest.raises(InputError, match=r"sub: has no \.json file"):
        list_json(folder / "sub", None)
    with pytest.raises(InputError, match=r"none\.json: no such file or folder"):
        list_json(folder / "none.json", None)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda children: (
        st.lists(children) | st.dictionaries(st.sampled_from(["wav", "labels"]), children)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(content=ANY_JSON | st.fixed_dictionaries({"data": st.lists(ANY_JSON)}))
def test_any_json_gives_a_manifest_or_an_input_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    (folder / "any_classes.csv").write_text(CLASSES)
    (folder / "any.json").write_text(json.dumps(content))
    message = ""
    try:
        list_json(folder / "any.json", folder / "any_classes.csv")
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
