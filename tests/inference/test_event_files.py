import csv
import json

import pytest

from ast_jax.errors import InputError
from ast_jax.inference.event_files import check_event_file, open_event_file
from ast_jax.inference.events import Event

EVENTS = [
    ("a b.wav", Event(0.3, 12.5, 'Child speech, "kid"', 0.87654321, 0.5)),
    ("café.wav", Event(3600.0, 3610.0, "dog", 1.0, 1 / 3)),
]


def written(path, events=EVENTS):
    with open_event_file(path, len({recording for recording, _ in events})) as write:
        for recording, event in events:
            write(recording, event)
    return path.read_bytes().decode()


def test_csv_has_a_row_an_event(tmp_path):
    written(tmp_path / "new" / "events.csv")
    with open(tmp_path / "new" / "events.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["file", "start", "end", "label", "peak", "mean"],
        ["a b.wav", "0.3", "12.5", 'Child speech, "kid"', "0.876543", "0.5"],
        ["café.wav", "3600.0", "3610.0", "dog", "1.0", "0.333333"],
    ]


def test_csv_keeps_line_breaks_in_names(tmp_path):
    event = Event(0.0, 1.0, "a\rb", 0.5, 0.5)
    text = written(tmp_path / "x.csv", [("c\nd.wav", event)])
    assert text.endswith('\n"c\nd.wav",0.0,1.0,"a\rb",0.5,0.5\n')


def test_json_lines_have_an_object_an_event(tmp_path):
    lines = written(tmp_path / "events.JSONL").splitlines()
    assert json.loads(lines[1]) == {
        "file": "café.wav", "start": 3600.0, "end": 3610.0, "label": "dog", "peak": 1.0,
        "mean": 0.333333,
    }  # fmt: skip
    assert len(lines) == 2


def test_audacity_labels_are_separated_by_tabs(tmp_path):
    events = [("a.wav", Event(0.3, 12.5, "dog\tor\ncat", 1.0, 1.0))]
    assert written(tmp_path / "events.txt", events) == "0.300000\t12.500000\tdog\\tor\\ncat\n"


def test_rttm_lines_have_ten_fields(tmp_path):
    assert written(tmp_path / "events.rttm").splitlines() == [
        'SPEAKER a_b.wav 1 0.300000 12.200000 <NA> <NA> Child_speech,_"kid" 0.500000 <NA>',
        "SPEAKER café.wav 1 3600.000000 10.000000 <NA> <NA> dog 0.333333 <NA>",
    ]
    (line,) = written(tmp_path / "b.rttm", [("a", Event(0, 1, "", 1, 1))]).splitlines()
    assert line.split()[7] == "<NA>"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt", ".rttm"])
def test_events_are_in_the_file_as_they_are_written(tmp_path, suffix):
    """Also those of a recording with a name that is no valid UTF-8."""
    file = tmp_path / f"events{suffix}"
    with open_event_file(file) as write:
        write("caf\udce9.wav", EVENTS[1][1])
        assert "dog" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("bytes_free", [0, 60, 100])
def test_a_full_disk_leaves_whole_lines(tmp_path, bytes_free):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            written(tmp_path / "x.csv", [("a.wav", EVENTS[1][1])] * 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if bytes_free < 100:
        assert not list(tmp_path.iterdir())
    else:
        rows = (tmp_path / "x.csv").read_text().splitlines()[1:]
        assert rows == ["a.wav,3600.0,3610.0,dog,1.0,0.333333"]


def test_a_failure_keeps_events_and_leaves_no_file_without_any(tmp_path):
    no_event = ("a.wav", None)
    for name, events in [("none.csv", [no_event]), ("one.csv", [*EVENTS[:1], no_event])]:
        with pytest.raises(TypeError):
            written(tmp_path / name, events)
    assert [file.name for file in tmp_path.iterdir()] == ["one.csv"]
    assert len((tmp_path / "one.csv").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "recordings", "message"),
    [
        ("events.xls", 1, r"ends in none of \.csv, \.jsonl, \.txt, \.rttm"),
        ("events.txt", 2, "labels do not name their recording, and there are 2"),
        ("old.csv", 1, "old.csv: exists already"),
        ("s3://bucket/events.csv", 1, "is remote"),
    ],
)
def test_unusable_outputs_are_refused(tmp_path, monkeypatch, name, recordings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.csv").touch()
    with pytest.raises(InputError, match=message):
        check_event_file(name, recordings)
    assert [file.name for file in tmp_path.iterdir()] == ["old.csv"]
