import csv
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ast_jax
from ast_jax.cli.long_recordings import WindowOptions
from ast_jax.cli.main import main
from ast_jax.cli.output_file import OutputFile
from ast_jax.cli.result_formats import LABELS
from ast_jax.cli.window_formats import EVENTS, WINDOWS, LabeledWindow
from ast_jax.inference.events import Event, EventTracker, find_events
from ast_jax.inference.windows import aggregate
from ast_jax.thresholds import Calibration, Thresholds


def classify(*arguments):
    return main(["classify", *map(str, arguments)])


def recording(seconds, seed=0):
    """Returns noise that changes its level each half second."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(10.0 ** rng.uniform(-4, -1, 2 * seconds), 8000)
    return (levels * rng.standard_normal(16000 * seconds)).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    """Returns the paths of two recordings, of 5 and 3 s."""
    paths = [tmp_path / "a.wav", tmp_path / "b.flac"]
    soundfile.write(paths[0], recording(5), 16000)
    soundfile.write(paths[1], recording(3, seed=1), 16000)
    return [str(path) for path in paths]


@pytest.fixture(autouse=True)
def load_once(classifier, monkeypatch):
    """Lets all commands share a classifier, as each would compile its own."""
    monkeypatch.setattr("ast_jax.cli.classify.load_classifier", lambda *arguments: classifier)


@pytest.fixture
def options(checkpoint):
    return ("--checkpoint", checkpoint / "ours", "--window", 1, "--hop", 0.5)


@pytest.fixture(scope="module")
def classifier(checkpoint):
    return ast_jax.load(checkpoint / "ours")


def windows_of(classifier, file, **arguments):
    return list(classifier.windows(file, 1, 0.5, **arguments))


# ---- windows


def test_windows_are_a_table_a_json_list_and_files(capsys, classifier, files, options, tmp_path):
    assert classify(*files, *options, "--top-k", 2, "--json", "--batch-size", 3) == 0
    found = json.loads(capsys.readouterr().out)
    expected = [
        (file, window, classifier.best_labels(window.scores, 2))
        for file in files
        for window in windows_of(classifier, file)
    ]
    assert len(found) == len(expected) == 9 + 5
    for item, (file, window, labels) in zip(found, expected, strict=True):
        assert (item["file"], item["start"], item["end"]) == (file, *window[:2])
        assert [label["label"] for label in item["labels"]] == [x["label"] for x in labels]
        assert [label["score"] for label in item["labels"]] == pytest.approx(
            [x["score"] for x in labels], rel=1e-5
        )

    assert classify(*files, *options) == 0
    printed = capsys.readouterr()
    first, *lines = printed.out.splitlines()
    assert (first, lines[9], len(lines), printed.err) == (*files, 15, "")
    assert re.fullmatch(r"   0:00:00.00   0:00:01.00  +\d\d\.\d%  (rain|wind|café|owl)", lines[0])

    for suffix in (".csv", ".jsonl"):
        output = tmp_path / f"x{suffix}"
        assert classify(*files, *options, "--top-k", 2, "--output", output) == 0
        assert capsys.readouterr().out == f"wrote the windows of 2 files to {output}\n"
        text = output.read_text()
        if suffix == ".jsonl":
            items = [json.loads(line) for line in text.splitlines()]
            assert [i["end"] for i in items] == [i["end"] for i in found]
        else:
            rows = list(csv.DictReader(io.StringIO(text)))
            assert list(rows[0]) == ["file", "start", "end", "label", "score"]
            assert [row["label"] for row in rows] == [
                label["label"] for item in found for label in item["labels"]
            ]


def test_the_aggregate_labels_each_recording(capsys, classifier, files, options):
    for how in ("mean", "max", "noisy-or"):
        assert classify(*files, *options, "--aggregate", how, "--json") == 0
        for item, file in zip(json.loads(capsys.readouterr().out), files, strict=True):
            windows = windows_of(classifier, file)
            scores = aggregate((window.scores for window in windows), how)
            expected = classifier.best_labels(scores, 5)
            assert item["file"] == file
            assert [x["score"] for x in item["labels"]] == pytest.approx(
                [x["score"] for x in expected], rel=1e-5
            )


def test_a_folder_and_standard_input_are_recordings(capsys, files, options, tmp_path, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(Path(files[0]).read_bytes())
        isatty = staticmethod(lambda: False)

    monkeypatch.setattr("sys.stdin", Stdin)
    assert classify(tmp_path, "-", *options, "--json") == 0
    items = json.loads(capsys.readouterr().out)
    assert [item["file"] for item in items] == [files[0]] * 9 + [files[1]] * 5 + ["-"] * 9


def test_loud_recordings_are_scaled_on_demand(capsys, checkpoint, tmp_path):
    samples = np.clip(10 * recording(3), -1, 1)
    samples[40000] = 1
    for name, scale in (("full.wav", 1), ("loud.wav", 2)):
        soundfile.write(tmp_path / name, scale * samples, 16000, "FLOAT")
    outputs = []
    for arguments in (["full.wav"], ["loud.wav"], ["loud.wav", "--scale-loud"]):
        options = ("--checkpoint", checkpoint / "ours", "--window", 1, "--json", *arguments[1:])
        assert classify(tmp_path / arguments[0], *options) == 0
        printed = capsys.readouterr()
        outputs.append([item["labels"] for item in json.loads(printed.out)])
        assert ("loud.wav reaches 2, and samples" in printed.err) == (arguments == ["loud.wav"])
    assert outputs[0] == outputs[2] != outputs[1]

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["dd", f"if={tmp_path}/loud.wav", f"of={pipe}", "status=none"]):
        assert classify(pipe, *options) == 0
    (labels,) = json.loads(capsys.readouterr().out)[:1]
    assert labels["labels"] == outputs[0][0]


# ---- events


def test_events_are_those_of_the_tracker(capsys, classifier, files, options, tmp_path):
    windows = [window for file in files for window in windows_of(classifier, file)]
    scores = np.sort(np.ravel([window.scores for window in windows]))[-12:]
    gap = np.diff(scores).argmax()  # rounding by batch must not matter
    on = float(scores[gap : gap + 2].mean())
    tracker = EventTracker(classifier.labels, on, min_duration=1.2, max_gap=0.5)
    expected = [
        (file, event)
        for file in files
        for event in find_events(windows_of(classifier, file), tracker)
    ]
    arguments = (*files, *options, "--events", "--threshold", on)
    arguments += ("--min-duration", 1.2, "--max-gap", 0.5)
    assert classify(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert expected
    assert [(i["file"], i["start"], i["end"], i["label"]) for i in found] == [
        (file, event.start, event.end, event.label) for file, event in expected
    ]
    assert classify(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [files[0], "        start          end    peak    mean"]
    for suffix, length in ((".csv", len(found) + 1), (".jsonl", len(found)), (".rttm", len(found))):
        output = tmp_path / f"events{suffix}"
        assert classify(*arguments, "--output", output) == 0
        assert len(output.read_text().splitlines()) == length
    assert "wrote the events of 2 files" in capsys.readouterr().out


def test_thresholds_of_a_file_are_used_with_its_calibration(capsys, classifier, files, options):
    labels = classifier.labels
    thresholds = Thresholds(
        labels, np.array([0.3, np.inf, 0.2, np.inf]), Calibration(2.0, np.array([0, 1, 0.5, 0]))
    )
    path = f"{files[0]}.json"
    thresholds.write(path)
    windows = windows_of(classifier, files[0], thresholds=thresholds)
    expected = list(find_events(windows, EventTracker(labels, thresholds.values)))
    assert classify(files[0], *options, "--events", "--thresholds", path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(i["start"], i["label"]) for i in found] == [(e.start, e.label) for e in expected]
    assert [i["peak"] for i in found] == pytest.approx([e.peak for e in expected], abs=2e-6)
    before = WindowOptions(events=True, thresholds=path).resumed()
    Thresholds(labels, thresholds.values).write(path)
    assert before != WindowOptions(events=True, thresholds=path).resumed()


def test_a_recording_without_events_says_so_and_a_timeline_is_drawn(
    capsys, files, options, tmp_path
):
    picture = tmp_path / "new" / "x.png"
    arguments = (files[0], *options, "--events", "--threshold", 1, "--timeline", picture)
    assert classify(*arguments) == 0
    assert capsys.readouterr().out == f"{files[0]}\n  none\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert classify(*arguments) == 1
    assert f"{picture}: exists already" in capsys.readouterr().err


def test_labels_are_printed_in_one_line():
    label = "a\nb\x1b[2J"
    window = LabeledWindow(0.0, 1.0, [{"label": label, "score": 0.5}])
    for text in (
        WINDOWS.to_text(window),
        EVENTS.to_text(Event(0.0, 1.0, label, 0.5, 0.5)),
        LABELS.to_text(window.labels),
    ):
        assert text.endswith(r"%  a\nb\x1b[2J")


# ---- damage, interruptions


def test_what_precedes_damage_is_kept(capsys, files, options, tmp_path):
    samples = np.repeat(recording(5), 3)
    samples[-8000] = np.nan
    soundfile.write(tmp_path / "cut.wav", samples, 48000, "FLOAT")
    arguments = (tmp_path / "cut.wav", files[1], *options)
    assert classify(*arguments, "--json") == 1
    printed = capsys.readouterr()
    items = json.loads(printed.out)
    ends = [item["end"] for item in items if item["file"].endswith("cut.wav")]
    assert 3 < ends[-1] < 5
    assert [item["file"] for item in items[len(ends) :]] == [files[1]] * 5
    message, note = printed.err.splitlines()
    assert message == (
        f"ast-jax: {tmp_path}/cut.wav holds NaN or infinite samples: repair it or leave it out"
    )
    assert note == (
        f"note: {tmp_path}/cut.wav: the results are of the {ends[-1]:.1f} s that could be read"
    )
    assert classify(*arguments, "--events", "--threshold", 0.1, "--json") == 1
    events = json.loads(capsys.readouterr().out)
    assert max(e["end"] for e in events if e["file"].endswith("cut.wav")) == ends[-1]


def test_unusable_files_do_not_stop_others(capsys, files, options, tmp_path):
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16000)
    (tmp_path / "text.wav").write_text("no sound")
    bad = [tmp_path / name for name in ("empty.wav", "short.wav", "text.wav", "none.wav")]
    assert classify(*bad, files[1], *options, "--json") == 1
    printed = capsys.readouterr()
    assert {item["file"] for item in json.loads(printed.out)} == {files[1]}
    assert [line.split(":")[1].split()[0] for line in printed.err.splitlines()] == list(
        map(str, bad)
    )


def test_an_interrupted_command_continues_with_the_file_that_was_not_finished(
    capsys, files, options, tmp_path, monkeypatch
):
    third = shutil.copy(files[0], f"{tmp_path}/c.wav")
    output, whole = tmp_path / "x.csv", tmp_path / "whole.csv"
    arguments = (*files, third, *options, "--batch-size", 1, "--output")
    with monkeypatch.context() as patch:
        write = OutputFile.write

        def interrupt(self, text):
            if third in text and text.split(",")[1] > "1":
                raise KeyboardInterrupt
            write(self, text)

        patch.setattr(OutputFile, "write", interrupt)
        assert classify(*arguments, output) == 130
    assert len(output.read_text().splitlines()) == 1 + 9 + 5 + 2  # what was found is kept
    assert classify(*arguments, output, "--top-k", 3) == 1
    assert "was begun with --top-k 'None' and not '3'" in capsys.readouterr().err
    assert classify(*arguments, output) == 0
    assert "is continued: it has 2 of 3 files" in capsys.readouterr().err
    assert classify(*arguments, whole) == 0
    assert output.read_text() == whole.read_text()
    assert classify(*arguments, output) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_continued_command_fails_if_a_finished_file_was_damaged(
    capsys, files, options, tmp_path, monkeypatch
):
    damaged, output = tmp_path / "damaged.wav", tmp_path / "x.csv"
    soundfile.write(damaged, np.append(recording(5), np.float32("nan")), 16000, "FLOAT")
    arguments = (damaged, *files, *options, "--output", output)
    with monkeypatch.context() as patch:
        finish = OutputFile.finish

        def interrupt(self, file, **changes):
            finish(self, file, **changes)
            raise KeyboardInterrupt

        patch.setattr(OutputFile, "finish", interrupt)
        assert classify(*arguments) == 130
    capsys.readouterr()
    assert classify(*arguments) == 1
    printed = capsys.readouterr()
    assert f"ast-jax: {damaged}: could not be read to its end" in printed.err
    assert printed.out == f"wrote the windows of 2 files to {output}\n"


def test_nothing_is_written_if_no_file_can_be_used(capsys, options, tmp_path):
    output = tmp_path / "new" / "x.csv"
    assert classify(tmp_path / "none.wav", *options, "--output", output) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"ast-jax: {tmp_path}/none.wav does not exist: give the path of a sound file",
        f"ast-jax: {output}: is not written, as none of the files can be used",
    ]
    assert not output.exists()


# ---- options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--window 0.02", "window is 0.02 s and a frame takes 0.025 s: give a longer window"),
        ("--window 2", "window is 2 s and the model's input has 1.295 s: give a shorter window"),
        ("--window 0", "window is 0.0: give a positive number of seconds"),
        ("--window -1", "window is -1.0: give a positive number of seconds"),
        ("--window nan", "window is nan: give a positive number of seconds"),
        ("--hop 0", "hop is 0.0: give a positive number of seconds"),
        ("--window 0.5 --hop 1", "hop is 1 s and window 0.5 s, which leaves out what is between"),
        ("--events --aggregate mean", "--events and --aggregate exclude each other; leave one out"),
        ("--threshold 0.5", "--threshold is for events; add --events, or leave it out"),
        ("--window 1 --min-duration 1", "--min-duration is for events; add --events"),
        ("--timeline x.png", "--timeline is for events; add --events, or leave it out"),
        ("--events --top-k 3", "--top-k is for labels, and --events finds all events; leave one"),
        ("--events --threshold 50", "--threshold is 50.0; give a number over 0 and up to 1"),
        ("--events --threshold nan", "--threshold is nan; give a number over 0 and up to 1"),
        ("--events --thresholds x --threshold 0.5", "--threshold and --thresholds are both given"),
        ("--events --thresholds none.json", "none.json: no such file"),
        ("--events --min-duration -1", "min_duration"),
        ("--events --timeline x.jpg", "x.jpg: does not end in .png; choose a name that does"),
        ("--events --timeline x.png", "x.png: shows one recording, and there are 2; leave out"),
        ("--events --output x.txt", "x.txt: Audacity's labels do not name their recording"),
        ("--events --output x.wav", "x.wav: ends in none of .csv, .jsonl, .txt, .rttm; choose"),
        ("--window 1 --output x.rttm", "x.rttm: ends in none of .csv, .jsonl; choose one of them"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    capsys, checkpoint, files, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert classify(*files, "--checkpoint", checkpoint / "ours", *arguments.split()) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"ast-jax: {message}")
    assert sorted(tmp_path.iterdir()) == before


# ---- long files


MEASURE = """
import resource, sys
from ast_jax.cli.main import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def write_silence(path, seconds):
    """Writes a WAV of 16 kHz that takes no place on the disk."""
    size = 32000 * seconds
    header = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", size + 36, b"WAVEfmt ", 16, 1, 1, 16000,
                         32000, 2, 16, b"data", size)  # fmt: skip
    path.write_bytes(header)
    os.truncate(path, len(header) + size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["--window=1.25", "--events"])
def test_ten_hours_take_little_more_memory_than_a_minute(checkpoint, tmp_path, kind):
    memory = []
    for seconds in (60, 36000):
        path, output = tmp_path / f"{seconds}.wav", tmp_path / f"{seconds}.csv"
        write_silence(path, seconds)
        command = (sys.executable, "-c", MEASURE, "classify", path, kind, "--output", output)
        run = subprocess.run(
            [*command, "--checkpoint", checkpoint / "ours"],
            check=True,
            capture_output=True,
            text=True,
        )
        memory.append(int(run.stderr) / 1024)  # MB
    assert memory[1] < memory[0] + 100
    if kind == "--window=1.25":
        assert output.read_text().splitlines()[-1].startswith(f"{path},35998.75,36000.0,")
