import csv

import pytest

from ast_jax.data.sources.folds import list_esc50, list_urbansound8k
from ast_jax.data.sources.manifest import Example
from ast_jax.data.training_data import read_esc50
from ast_jax.errors import InputError

HEADER = "filename,fold,target,category,esc10,src_file,take\n"


@pytest.fixture
def esc(tmp_path):
    """Returns a small ESC-50: two classes with targets 7 and 41, two clips per fold."""
    names = [f"{fold}-1-A-{target}.wav" for fold in range(1, 6) for target in (41, 7)]
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    for name in names:
        (tmp_path / "audio" / name).touch()
    rows = [
        f"{name},{name[0]},{name[6:-4]},{'hen' if name[6] == '7' else 'chainsaw'},True,1,A\n"
        for name in names
    ]
    (tmp_path / "meta" / "esc50.csv").write_text(HEADER + "".join(rows))
    return tmp_path


def test_folds_are_splits_and_classes_are_ordered_by_target(esc):
    manifest = list_esc50(esc, None)
    assert manifest.labels == ["hen", "chainsaw"]
    assert list(manifest.splits) == ["fold1", "fold2", "fold3", "fold4", "fold5"]
    assert manifest.splits["fold3"] == [
        Example("3-1-A-41.wav", str(esc / "audio" / "3-1-A-41.wav"), (1,)),
        Example("3-1-A-7.wav", str(esc / "audio" / "3-1-A-7.wav"), (0,)),
    ]
    assert manifest.missing == []


def test_missing_recordings_are_listed_and_empty_folds_skipped(esc):
    for name in ("2-1-A-41.wav", "2-1-A-7.wav", "5-1-A-7.wav"):
        (esc / "audio" / name).unlink()
    manifest = list_esc50(esc, None)
    assert {split: len(clips) for split, clips in manifest.splits.items()} == {
        "fold1": 2, "fold3": 2, "fold4": 2, "fold5": 1,
    }  # fmt: skip
    file = esc / "meta" / "esc50.csv"
    assert manifest.missing == [
        f"{file}, line {line}: {esc / 'audio' / name} does not exist"
        for line, name in ((4, "2-1-A-41.wav"), (5, "2-1-A-7.wav"), (11, "5-1-A-7.wav"))
    ]
    assert manifest.labels == ["hen", "chainsaw"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3-1-A-7.wav,three,7,hen", "fold and target must be whole numbers, not 'three'"),
        ("3-1-A-7.wav,6,7,hen", "fold is 6; ESC-50 has folds 1 to 5"),
        ("3-1-A-7.wav,3", "target is empty"),
        ("3-1-A-7.wav,3,7", "category is empty"),
        (",3,7,hen", "filename is empty"),
        ("../3-1-A-7.wav,3,7,hen", r"filename '\.\./3-1-A-7\.wav' is outside of"),
        ("/3-1-A-7.wav,3,7,hen", "filename '/3-1-A-7.wav' is outside of"),
        ("1-1-A-7.wav,3,7,hen", r"'1-1-A-7\.wav' is in .*esc50\.csv, line 3 already"),
        ("3-1-A-7.wav,3,7,hen,a,b,c,d", "has 8 fields, the line of column names 7"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(esc, row, message):
    file = esc / "meta" / "esc50.csv"
    lines = file.read_text().splitlines()
    assert lines[6].startswith("3-1-A-7.wav,3,7,")
    lines[6] = row
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"esc50\.csv, line 7: {message}"):
        list_esc50(esc, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3,7,hen", "3,7,rooster", "target 7 is both 'hen' and 'rooster'"),
        (",chainsaw", ",hen", "category 'hen' has several targets"),
        ("fold", "split", "the first line names no column 'fold'"),
    ],
)
def test_a_list_that_contradicts_itself_is_named(esc, old, new, message):
    file = esc / "meta" / "esc50.csv"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"esc50\.csv: {message}"):
        list_esc50(esc, None)


def test_invalid_folders_and_a_class_csv_are_refused(esc):
    with pytest.raises(InputError, match=r"audio/meta/esc50\.csv: no such file"):
        list_esc50(esc / "audio", None)
    with pytest.raises(InputError, match="has its own classes"):
        list_esc50(esc, esc / "meta" / "esc50.csv")
    for file in (esc / "audio").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"esc50\.csv: none of its sound files exists"):
        list_esc50(esc, None)


def test_the_real_esc10_has_five_folds_of_80_clips_of_ten_classes(esc10):
    manifest = list_esc50(esc10, None)
    assert {split: len(clips) for split, clips in manifest.splits.items()} == dict.fromkeys(
        ["fold1", "fold2", "fold3", "fold4", "fold5"], 80
    )
    assert manifest.missing == []
    with (esc10 / "meta" / "esc50.csv").open() as file:
        rows = list(csv.DictReader(file))
    clips = [clip for clips in manifest.splits.values() for clip in clips]
    assert [(clip.id, manifest.labels[clip.labels[0]]) for clip in clips] == [
        (row["filename"], row["category"]) for row in rows
    ]


def test_urbansound8k_is_read_as_it_comes(tmp_path):
    names = {f"{fold}-3-0-{i}.wav": fold for fold in range(1, 11) for i in range(2)}
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for name, fold in names.items():
        (tmp_path / "audio" / f"fold{fold}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "audio" / f"fold{fold}" / name).touch()
        label = "3,dog_bark" if name.endswith("0.wav") else "1,car_horn"
        rows.append(f"{name},{fold},2.5,6.5,1,{fold},{label}")  # times in the recording
    (tmp_path / "metadata").mkdir()
    file = tmp_path / "metadata" / "UrbanSound8K.csv"
    file.write_text("\n".join(rows))
    manifest = list_urbansound8k(tmp_path)
    assert manifest.labels == ["car_horn", "dog_bark"]
    assert list(manifest.splits) == [f"fold{i}" for i in range(1, 11)]
    path = str(tmp_path / "audio" / "fold10" / "10-3-0-1.wav")
    assert manifest.splits["fold10"][1] == Example("10-3-0-1.wav", path, (0,))
    file.write_text(file.read_text().replace(",10,3", ",11,3"))
    with pytest.raises(InputError, match="fold is 11; UrbanSound8K has folds 1 to 10"):
        list_urbansound8k(tmp_path)


def test_reading_into_memory_refuses_a_missing_recording(esc):
    (esc / "audio" / "5-1-A-7.wav").unlink()
    with pytest.raises(InputError, match=r"line 11: .*5-1-A-7\.wav does not exist; restore it or"):
        read_esc50(esc, 1, 16000)
