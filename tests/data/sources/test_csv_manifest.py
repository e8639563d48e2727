import math
import os

import pytest

from ast_jax.data.sources.csv_manifest import list_csv
from ast_jax.data.sources.manifest import Example
from ast_jax.errors import InputError


def write(folder, content):
    (folder / "clips.csv").write_text(content)
    return folder / "clips.csv"


def clips_of(folder, content, classes=None):
    return list_csv(write(folder, content), classes)


def test_csv_defaults_to_its_own_classes_and_one_training_split(folder):
    manifest = clips_of(folder, "path,labels\na.wav,dog ; cat;dog\nsub/b.wav,ant\nno.wav,bee\n")
    assert manifest.labels == ["ant", "bee", "cat", "dog"]
    assert manifest.splits == {
        "train": [
            Example("a.wav", str(folder / "a.wav"), (2, 3)),
            Example("sub/b.wav", str(folder / "sub" / "b.wav"), (0,)),
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
        "test": [Example("1", path, (0, 2))],
        "train": [Example("1", path, (1,)), Example("a.wav", path, (1,))],
    }
    # In a folder, the CSV that is not the class list has the clips.
    assert list_csv(folder, folder / "sub" / ".." / "classes.csv") == manifest
    with pytest.raises(InputError, match="has 2 CSV files that could list the clips"):
        list_csv(folder, None)


@pytest.mark.parametrize(
    "content",
    [
        "filename,category\nsub/b.wav,dog\n",
        "sep=;\nFile;Class\nsub/b.wav;dog\n",
        "File Name\tlabel\tnotes\nsub/b.wav\tdog\tx\n",
        "\ufefffname;Label\nsub/b;dog\n",  # without the suffix
        "id,,PATH,labels\nsub/b.wav,,sub/b.wav,dog\n,,,\n",
        ",path,labels\n0,sub/b.wav,dog\n",  # pandas' index
        'path, labels\nsub/b.wav, "dog"\n',
        "path,labels,file,class\nsub/b.wav,dog,none.wav,cat\n",  # the first names win
    ],
)
def test_csv_columns_may_have_the_names_that_people_give_them(folder, content):
    manifest = clips_of(folder, content)
    (clip,) = manifest.splits["train"]
    assert (clip.path, manifest.labels) == (str(folder / "sub" / "b.wav"), ["dog"])


def test_csv_notes_say_which_columns_are_read(folder):
    content = "fname,category,fold,notes\na.wav,dog,1,x\n"
    assert clips_of(folder, content).notes == [
        f"{folder / 'clips.csv'}: reads path from 'fname', labels from 'category', "
        f"split from 'fold'"
    ]


def test_csv_columns_can_be_named(folder):
    content = "name,genre,label\na.wav,dog|cat,0\n"
    columns = {"path": "name", "labels": "Genre"}
    manifest = list_csv(write(folder, content), columns=columns, label_separator="|")
    assert manifest.labels == ["cat", "dog"]
    assert manifest.splits["train"][0].labels == (0, 1)


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            "file,wav,label\n",
            {},
            r"'file', 'wav' could all be the path; choose with --column path=",
        ),
        ("path,label,Category\n", {}, "'label', 'Category' could all be the labels"),
        ("a,b\n", {}, "has the columns 'a', 'b', and none of paths; call it path, filename"),
        ("slice_file_name,class\n", {}, "prepare UrbanSound8K as urbansound8k"),
        ("path\n", {}, r"has no column of labels \(labels, label, category, class, or --column"),
        ("path,labels\na.wav,\n", {}, "no row has a label; add some, as there are no classes"),
        ("path,genre\na.wav,rock\n", {}, "'genre' is no class, as it is 'rock' in line 2 and not"),
        ("path,labels\n", {"path": "x"}, "has no column 'x', but 'path', 'labels'; correct --col"),
        ("path,labels\n", {"paths": "x"}, "--column paths=x: give one of path, labels, split"),
        ("path,labels,start\n", {}, "has the column 'start' and none of the end of a segment"),
        ("path,labels,offset,duration\n", {}, "has the column 'offset' and none of the start of"),
        ("path,labels,onset,end\n", {}, "the columns 'onset', 'end' may not belong together"),
    ],
)
def test_csv_with_doubtful_columns_is_refused(folder, content, columns, message):
    with pytest.raises(InputError, match=message):
        list_csv(write(folder, content), columns=columns)


def test_csv_with_a_column_of_0_and_1_for_each_class(folder):
    content = "filename,Dog,Split,cat\na.wav,1,Test,0\nsub/b.wav,1.0,Train,TRUE\nn.wav,0,x,0\n"
    (folder / "n.wav").touch()
    manifest = clips_of(folder, content)
    assert manifest.labels == ["Dog", "cat"]
    assert {split: clips[0].labels for split, clips in manifest.splits.items()} == {
        "test": (0,),
        "train": (0, 1),
        "x": (),
    }
    assert f"{folder / 'clips.csv'}: each of 2 columns is a class: Dog, cat" in manifest.notes


def test_an_index_that_pandas_named_is_no_class(folder):
    content = "Unnamed: 0.1,Unnamed: 0,path,dog,cat\n0,0,a.wav,1,0\n1,1,sub/b.wav,0,1\n"
    assert clips_of(folder, content).labels == ["dog", "cat"]


def test_csv_rows_with_start_and_end_are_segments(folder):
    content = "\n".join(
        [
            "segment_id\tstart_time_seconds\tend_time_seconds\tlabel",
            "a\t0.000\t2.5\t/m/s",
            "a\t0.0\t2.500\t/m/d",  # of the same segment
            "a\t1\t2.5\t/m/s",
            "none\t1\t2.5\t/m/s",
            "none\t1\t2.5\t/m/d",
            "sub/b\t\t\t/m/s",
            "sub/b\t3\t\t/m/s",
        ]
    )
    (folder / "clips.tsv").write_text(content)
    manifest = list_csv(folder / "clips.tsv")
    a, b = str(folder / "a.wav"), str(folder / "sub" / "b.wav")
    assert manifest.labels == ["/m/d", "/m/s"]
    assert manifest.splits["train"] == [
        Example("a:0.0-2.5", a, (0, 1), (0, 2.5)),
        Example("a:1.0-2.5", a, (1,), (1, 2.5)),
        Example("sub/b", b, (1,)),
        Example("sub/b:3.0-inf", b, (1,), (3, math.inf)),
    ]
    assert len(manifest.missing) == 1


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("2,1", "end '1' must come after start '2'"),
        ("1,1", "end '1' must come after start '1'"),
        ("-1,1", "start '-1' and end '1' must be seconds"),
        ("nan,1", "start 'nan' and end '1' must be seconds"),
        ("0,inf", "start '0' and end 'inf' must be seconds"),
        ('"0,5",1', "start '0,5' and end '1' must be seconds, such as 2.5"),
        ("1_0,11", "start '1_0' and"),
        ("0,1e999", "end '1e999' must be seconds"),
        ("0,00:01", "end '00:01' must be seconds"),
    ],
)
def test_csv_segments_with_doubtful_times_are_refused(folder, times, message):
    with pytest.raises(InputError, match=rf"clips\.csv, line 2: .*{message}"):
        clips_of(folder, f"path,start,end,labels\na.wav,{times},dog\n")


def test_csv_folds_are_splits(folder):
    content = "file,class,fold\na.wav,dog,1\nsub/b.wav,dog,10.0\n"
    assert list(clips_of(folder, content).splits) == ["fold1", "fold10"]


def test_csv_clips_without_labels_are_negative_and_noted(folder):
    manifest = clips_of(folder, "path,labels\na.wav,\nsub/b.wav,dog\n")
    assert [clip.labels for clip in manifest.splits["train"]] == [(), (0,)]
    assert "1 clips have no label, such as 'a.wav'; they are negative" in manifest.notes[0]


@pytest.mark.parametrize("separator", [",", "|", "/"])
def test_labels_that_split_into_others_are_refused_until_the_separator_is_given(folder, separator):
    content = f'path;labels\na.wav;"dog{separator} cat"\nsub/b.wav;dog\nn.wav;cat\n'
    with pytest.raises(InputError, match=r"may be 'dog', 'cat', which are labels, too; pass --lab"):
        clips_of(folder, content)
    file = write(folder, content)
    assert list_csv(file, label_separator=separator).labels == ["cat", "dog"]
    assert list_csv(file, label_separator=";").labels == ["cat", "dog", f"dog{separator} cat"]
    with pytest.raises(InputError, match=r"line 2: label 'Dog,/m/s' may be 'Dog', '/m/s'"):
        clips_of(folder, 'path,labels\na.wav,"Dog,/m/s"\n', folder / "classes.csv")


def test_labels_that_share_a_part_or_differ_in_case_are_noted(folder):
    content = 'path;labels\na.wav;"dog,cat"\nsub/b.wav;"dog,bird"\nn.wav;Bird\nm.wav;bird\n'
    case, parts = clips_of(folder, content).notes
    assert case.endswith("clips.csv: classes differ in case alone: 'Bird' and 'bird'")
    assert (
        "labels such as 'dog,bird' and 'dog,cat' share a part; pass --label-separator ','" in parts
    )


@pytest.mark.parametrize(
    "labels", ["['dog', 'cat']", "[dog, cat]", "('dog',)", "{'dog'}", "[]", "[0 1]"]
)
def test_a_printed_list_of_labels_is_refused(folder, labels):
    with pytest.raises(InputError, match=r"line 2: labels .* looks like a printed list; write"):
        clips_of(folder, f'path,labels\na.wav,"{labels}"\n')


def test_a_label_in_brackets_is_a_label(folder):
    assert clips_of(folder, "path,labels\na.wav,[noise]\n").labels == ["[noise]"]


def test_a_path_without_suffix_that_fits_two_files_is_refused(folder):
    (folder / "a.flac").touch()
    with pytest.raises(InputError, match=r"line 2: .*a may be a\.flac or a\.wav; write the suffix"):
        clips_of(folder, "path,labels\na,dog\n")


def test_a_path_of_windows_is_told(folder):
    with pytest.raises(InputError, match=r"b\.wav does not exist \(write / instead of"):
        clips_of(folder, "path,labels\nsub\\b.wav,dog\n")


def test_a_pipe_is_refused_without_waiting_for_it(folder):
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(InputError, match=r"pipe\.csv: is a pipe or a device, not a file"):
        list_csv(folder / "pipe.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.wav,Speech", r"'a\.wav' is in .*clips\.csv, line 2 already"),
        ("sub/b.wav,Speech,train,a.wav", r"'a\.wav' is in .*clips\.csv, line 2 already"),
        ("sub/b.wav", "ends before the column labels; add labels, or an empty field"),
        ("sub/b.wav,Speech;", "a label is empty"),
        ("sub/b.wav,speech", "label 'speech' is not in the class list"),
        (",Speech", "path is empty"),
        ("sub/b.wav,Speech,../x", r"'\.\./x' cannot be a split's name"),
        ("sub/b.wav,Speech,x,\x01", r"id '\\x01' has"),
        ("sub/b.wav,Speech,x,y,z", "has 5 fields, the line of column names 4"),
    ],
)
def test_a_malformed_csv_line_is_named(folder, line, message):
    content = f"path,labels,split,id\na.wav,Speech\n{line}\n"
    with pytest.raises(InputError, match=rf"clips\.csv, line 3: {message}"):
        clips_of(folder, content, folder / "classes.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the first line has the columns '', and none of paths; call it path, filename"),
        ("path,labels\n", "no row has a label; add some, as there are no classes"),
        (
            "path,labels,split\na.wav,x,a\nno.wav,x,b\n",
            r"none of its sound files exists \(.*line 3",
        ),
    ],
)
def test_csv_without_clips_is_refused(folder, content, message):
    with pytest.raises(InputError, match=rf"clips\.csv: {message}"):
        clips_of(folder, content)
