import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.data.sources.json_csv import list_csv, list_json
from ast_jax.errors import InputError

CLASSES = 'index,mid,display_name\n0,/m/s,"Speech"\n1,/m/m,"Male speech, man"\n2,/m/d,Dog\n'


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "sub/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "classes.csv").write_text(CLASSES)
    return tmp_path


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
            ("sub/b.wav", str(folder / "sub" / "b.wav"), (0, 2)),
            (str(folder / "a.wav"), str(folder / "a.wav"), (1,)),
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
    assert manifest.splits["train"] == [("../a.wav", path, (0,))]


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
        ({"wav": "sub/b.wav", "labels": ""}, "labels is empty"),
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


def test_json_needs_one_class_list_and_a_valid_split_name(folder):
    file = write_json(folder / "x.json", CLIP)
    (folder / "more.csv").write_text(CLASSES)
    with pytest.raises(InputError, match="has 2 CSV files instead of one class list"):
        list_json(file, None)
    assert list_json(file, folder / "more.csv").splits.keys() == {"x"}
    with pytest.raises(InputError, match="'x y' cannot be a split's name"):
        list_json(file.rename(folder / "x y.json"), folder / "more.csv")
    with pytest.raises(InputError, match=r"sub: has no \.json file"):
        list_json(folder / "sub", None)
    with pytest.raises(InputError, match=r"none\.json: no such file or folder"):
        list_json(folder / "none.json", None)


def clips_of(folder, content, classes=None):
    (folder / "clips.csv").write_text(content)
    return list_csv(folder / "clips.csv", classes)


def test_csv_defaults_to_its_own_classes_and_one_training_split(folder):
    manifest = clips_of(folder, "path,labels\na.wav,dog ; cat;dog\nsub/b.wav,ant\nno.wav,bee\n")
    assert manifest.labels == ["ant", "bee", "cat", "dog"]
    assert manifest.splits == {
        "train": [
            ("a.wav", str(folder / "a.wav"), (2, 3)),
            ("sub/b.wav", str(folder / "sub" / "b.wav"), (0,)),
        ]
    }
    file = folder / "clips.csv"
    assert manifest.missing == [f"{file}, line 4: {folder / 'no.wav'} does not exist"]


def recordings_csv(folder, split=None):
    """Returns a CSV of eight recordings in three pieces each, of one or two classes."""
    lines = ["path,labels,id,group" + (",split" if split else "")]
    for i in range(24):
        line = f"a.wav,{('dog', 'cat', 'dog;cat')[i % 3]},{i},r{i // 3}"
        lines.append(line + (f",{split(i)}" if split else ""))
    return "\n".join(lines) + "\n"


def test_csv_with_groups_and_no_splits_holds_out_whole_groups(folder):
    manifest = clips_of(folder, recordings_csv(folder))
    groups = {
        split: {int(clip.id) // 3 for clip in clips} for split, clips in manifest.splits.items()
    }
    assert not groups["train"] & groups["test"]
    assert len(groups["test"]) in (1, 2)  # a fifth of eight
    assert sum(map(len, manifest.splits.values())) == 24
    assert manifest.notes == []
    alone = clips_of(folder, "path,labels,group\na.wav,dog,x\nsub/b.wav,cat,x\n")
    assert list(alone.splits) == ["train"]


def test_csv_with_groups_in_several_given_splits_is_noted(folder):
    manifest = clips_of(folder, recordings_csv(folder, lambda i: "test" if i > 16 else "train"))
    assert {split: len(clips) for split, clips in manifest.splits.items()} == {
        "train": 17,
        "test": 7,
    }
    file = folder / "clips.csv"
    assert manifest.notes == [f"{file}: group 'r5' has clips in both train and test"]
    whole = clips_of(folder, recordings_csv(folder, lambda i: "test" if i > 17 else "train"))
    assert whole.notes == []


def test_csv_reads_splits_ids_and_a_class_list(folder):
    content = (
        "id,split,labels,path\n"
        f"1,test,Dog;/m/s,{folder / 'a.wav'}\n"
        '1,,"Male speech, man",a.wav\n'
        ",train,/m/m,a.wav\n"
    )
    manifest = clips_of(folder, content, folder / "classes.csv")
    assert manifest.labels == ["Speech", "Male speech, man", "Dog"]
    path = str(folder / "a.wav")
    assert manifest.splits == {
        "test": [("1", path, (0, 2))],
        "train": [("1", path, (1,)), ("a.wav", path, (1,))],
    }
    # In a folder, the CSV that is not the class list has the clips.
    assert list_csv(folder, folder / "sub" / ".." / "classes.csv") == manifest
    with pytest.raises(InputError, match="has 2 CSV files that could list the clips"):
        list_csv(folder, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.wav,Speech", r"'a\.wav' is in .*clips\.csv, line 2 already"),
        ("sub/b.wav,Speech,train,a.wav", r"'a\.wav' is in .*clips\.csv, line 2 already"),
        ("sub/b.wav", "labels is empty"),
        ("sub/b.wav,Speech;", "a label is empty"),
        ("sub/b.wav,speech", "label 'speech' is not in the class list"),
        (",Speech", "path is empty"),
        ("sub/b.wav,Speech,../x", r"'\.\./x' cannot be a split's name"),
        ("sub/b.wav,Speech,x,\x01", r"id '\\x01' has"),
        ("sub/b.wav,Speech,x,y,z", "has 5 fields, the first line 4"),
    ],
)
def test_a_malformed_csv_line_is_named(folder, line, message):
    content = f"path,labels,split,id\na.wav,Speech\n{line}\n"
    with pytest.raises(InputError, match=rf"clips\.csv, line 3: {message}"):
        clips_of(folder, content, folder / "classes.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the first line names no column 'path'; name path, labels there"),
        ("path,labels\n", "none of its sound files exists;"),
        (
            "path,labels,split\na.wav,x,a\nno.wav,x,b\n",
            r"none of its sound files exists \(.*line 3",
        ),
    ],
)
def test_csv_without_clips_is_refused(folder, content, message):
    with pytest.raises(InputError, match=rf"clips\.csv: {message}"):
        clips_of(folder, content)


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
