import csv
import io
import json
import os
import signal
import sys
import threading

import numpy as np
import pytest
import soundfile

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.cli import stream as command
from ast_jax.cli.main import main
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.events import EventTracker, find_events
from ast_jax.thresholds import Calibration, Thresholds
from tests.params import random_params

from .conftest import CONFIG

RATE = 16000
LENGTHS = ("--window", "0.4", "--hop", "0.2")


def sound():
    """4 s of noise of varying loudness, int16."""
    rng = np.random.default_rng(0)
    loudness = np.repeat(10.0 ** rng.uniform(-4, -0.5, 16), RATE // 4)
    return (32767 * loudness * rng.uniform(-1, 1, len(loudness))).astype(np.int16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Returns a small checkpoint with scores that vary from 0 to 1 with the sound."""
    config = CONFIG.replace(
        hidden_size=16, intermediate_size=8, max_length=48, num_mel_bins=16, patch_size=8,
        problem_type="multi_label_classification",
    )  # fmt: skip
    extractor = ASTFeatureExtractor(max_length=48, num_mel_bins=16)
    params = random_params(config, 0.3)
    classifier = AudioClassifier(Checkpoint(config, extractor, params))
    windows = classifier.windows(sound(), 0.4, sampling_rate=RATE)
    scores = np.stack([window.scores for window in windows])
    dense = params["classifier"]["dense"]
    dense["kernel"] *= 20
    dense["bias"] = 20 * (dense["bias"] - np.log(scores / (1 - scores)).mean(axis=0))
    path = tmp_path_factory.mktemp("stream") / "checkpoint"
    save_checkpoint(path, Checkpoint(config, extractor, params))
    return path


def wav(samples, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, "PCM_16", format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def classifier(checkpoint):
    return ast_jax.load(checkpoint)


@pytest.fixture
def stream(classifier, tmp_path, monkeypatch):
    """Returns a function that runs the command with bytes on standard input, and loads nothing."""
    monkeypatch.setattr(command, "load_classifier", lambda checkpoint, dtype: classifier)

    def run(content, *arguments):
        (tmp_path / "stdin").write_bytes(content)
        with open(tmp_path / "stdin", encoding="utf-8") as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            return main(["stream", "--checkpoint", "", *map(str, arguments)])

    return run


def expected_events(classifier, on=0.5, thresholds=None, **options):
    windows = classifier.windows(
        sound(), 0.4, 0.2, sampling_rate=RATE, batch_size=1, thresholds=thresholds
    )
    tracker = EventTracker(classifier.labels, on, **options)
    return [
        {"file": "-", "start": event.start, "end": event.end, "label": event.label,
         "peak": round(event.peak, 6), "mean": round(event.mean, 6)}
        for event in find_events(windows, tracker)
    ]  # fmt: skip


def json_lines(capsys):
    printed = capsys.readouterr().out
    assert printed.isascii()
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        (wav(sound()), ()),
        (sound().tobytes(), ("--format", "s16", "--rate", RATE)),
        (
            np.repeat(sound() / np.float32(2**15), 2).tobytes(),
            ("--format", "f32", "--rate", RATE, "--channels", 2),
        ),
    ],
    ids=["wav", "s16", "stereo f32"],
)
def test_events_are_those_of_the_offline_windows(capsys, classifier, stream, content, arguments):
    options = (*LENGTHS, "--max-gap", 0.2, "--min-duration", 0.6)
    assert stream(content, *options, *arguments, "--json") == 0
    expected = expected_events(classifier, max_gap=0.2, min_duration=0.6)
    assert json_lines(capsys) == expected
    assert len(expected) > 3


def test_a_line_has_times_scores_and_label(capsys, classifier, stream):
    assert stream(wav(sound()), *LENGTHS) == 0
    printed = capsys.readouterr()
    first = expected_events(classifier)[0]
    assert printed.out.splitlines()[0] == (
        f"   0:00:0{first['start']:.2f}   0:00:0{first['end']:.2f}  {first['peak']:6.1%}  "
        f"{first['mean']:6.1%}  {first['label']}"
    )
    assert printed.err == ("note: a window of 0.4 s is classified every 0.2 s; Ctrl-C ends\n")


def test_thresholds_and_calibration_of_a_file_are_used(capsys, classifier, stream, tmp_path):
    thresholds = Thresholds(
        ["owl", "rain", "wind", "café"], np.array([0.9, 0.2, np.inf, 0.7]), Calibration(2.0, -0.3)
    )
    thresholds.write(tmp_path / "thresholds.json")
    arguments = (*LENGTHS, "--thresholds", tmp_path / "thresholds.json", "--json")
    assert stream(wav(sound()), *arguments) == 0
    expected = expected_events(classifier, thresholds.for_labels(classifier.labels), thresholds)
    assert json_lines(capsys) == expected
    assert {event["label"] for event in expected} == {"owl", "rain", "café"}


def test_events_are_written_to_a_file(capsys, classifier, stream, tmp_path):
    output = tmp_path / "events.csv"
    arguments = (*LENGTHS, "--output", output)
    assert stream(wav(sound()), *arguments) == 0
    with open(output, encoding="utf-8", newline="") as file:
        rows = [{key: str(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == [
        {key: str(value) for key, value in event.items()} for event in expected_events(classifier)
    ]
    assert capsys.readouterr().out == ""


# ---- while the stream goes on


@pytest.fixture
def pipe(monkeypatch):
    """Makes standard input a pipe; returns its end for writing, and closes it at the end."""
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as stdin, open(writing, "wb", buffering=0) as target:
        monkeypatch.setattr("sys.stdin", stdin)
        yield target


def test_an_event_is_printed_when_it_has_ended(checkpoint, classifier, pipe, monkeypatch, capsys):
    """The end of the stream is sent after the first event is printed."""
    printed = threading.Event()
    print_json = command._print_json

    def print_and_tell(*arguments):
        print_json(*arguments)
        printed.set()

    monkeypatch.setattr(command, "_print_json", print_and_tell)
    waited = []

    def send():
        pipe.write(wav(sound()))
        waited.append(printed.wait(60))
        pipe.close()

    thread = threading.Thread(target=send)
    thread.start()
    options = [*LENGTHS, "--json"]
    assert main(["stream", "--checkpoint", str(checkpoint), *options]) == 0
    thread.join()
    assert waited == [True]
    assert json_lines(capsys) == expected_events(classifier)


def test_ctrl_c_prints_the_open_events(checkpoint, classifier, pipe, monkeypatch, capsys, handled):
    """It comes while the command waits for sound."""
    threading.Thread(target=pipe.write, args=[wav(sound())]).start()
    pushed = []
    add = command.Pace.add

    def interrupt_at_the_end(pace, busy, seconds):
        add(pace, busy, seconds)
        pushed.append(seconds)
        if sum(pushed) >= 4:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    monkeypatch.setattr(command.Pace, "add", interrupt_at_the_end)
    assert main(["stream", "--checkpoint", str(checkpoint), *LENGTHS, "--json"]) == 130
    expected = expected_events(classifier)
    assert json_lines(capsys) == expected
    assert expected[-1]["end"] > 3.6  # the start of the last window


def test_sound_is_taken_while_nobody_asks_for_it(monkeypatch):
    """A recorder loses sound if the pipe is full, of 64 KiB, and the model is still loading."""
    monkeypatch.setattr(command, "AHEAD", 10 * 2**16)
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb", buffering=0) as target:
        chunks = command.read_stdin_ahead(source.fileno())
        sent = []

        def send():
            for _ in range(200):
                sent.append(target.write(bytes(2**13)))  # as recorders do
            target.close()

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        for _ in range(600):
            thread.join(0.1)
            if sum(sent) >= 10 * 2**16:
                break
        # Beside `AHEAD` two chunks may be read, and the pipe is full.
        assert 10 * 2**16 <= sum(sent) <= 14 * 2**16
        assert b"".join(chunks) == bytes(200 * 2**13)


def test_standard_input_that_cannot_be_read_is_refused(tmp_path):
    with (tmp_path / "x").open("w") as file, pytest.raises(InputError, match="cannot be read"):
        next(command.read_stdin_ahead(file.fileno()))


def test_a_slow_device_is_told_once(capsys):
    pace = command.Pace()
    for _ in range(100):  # a short delay that is made up for
        pace.add(4, 2)
        pace.add(0, 2)
    assert capsys.readouterr().err == ""
    for _ in range(100):
        pace.add(1.5, 1)
    assert pace.behind == 50
    assert capsys.readouterr().err == (
        "note: computing takes longer than the sound lasts, and a live stream is 6 s behind by "
        "now; nothing is left out, and a longer --hop takes less time\n"
    )


def test_loud_samples_and_odd_bytes_are_told_once(stream, capsys):
    samples = np.float32(2000) * sound() / np.float32(2**15)
    assert stream(samples.tobytes() + b"12", "--format", "f32", "--rate", RATE) == 0
    notes = capsys.readouterr().err.splitlines()[1:]
    assert len(notes) == 2
    assert notes[0].startswith("note: standard input reaches 14")
    assert notes[1] == "note: standard input ends within a sample; bytes that are left out: 2"


# ---- what cannot be used


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", (), "standard input is empty; pipe sound into it"),
        (b"", ("--format", "s16", "--rate", 8000), "standard input is empty"),
        (b"no sound", (), "standard input has no WAV header: send a WAV, or give --format"),
        (wav(sound()[:100]), (), "standard input: the recording has 100 samples and a frame takes"),
        (wav(sound()[:0]), (), "standard input: the recording has 0 samples"),
        (b"", ("--format", "s16"), "--rate is missing; give"),
        (b"", ("--format", "s16", "--rate", 1), "sampling_rate is 1; give a whole number of Hz"),
        (b"", ("--format", "s16", "--rate", 8000, "--channels", 65), "--channels is 65; give up"),
        (b"", ("--rate", 8000), "--rate and --channels are for raw samples"),
        (b"", ("--threshold", 0.5, "--thresholds", "x.json"), "are both given; leave one out"),
        (b"", ("--threshold", 0), "--threshold is 0.0; give a number over 0 and up to 1"),
        (b"", ("--thresholds", "x.json"), "x.json: no such file"),
        (b"", ("--output", "x.mp3"), "x.mp3: ends in none of .csv, .jsonl, .txt, .rttm"),
        (b"", ("--output", "x.csv", "--json"), "--json prints what --output writes to x.csv"),
        (b"", ("--hop", 0), "hop is 0.0: give a positive number of seconds"),
        (b"", ("--window", 9), "window is 9 s and the model's input has 0.495 s: give a shorter"),
    ],
)
def test_unusable_input_is_refused(
    capsys, stream, tmp_path, monkeypatch, content, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert stream(content, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("ast-jax: ")
    assert message in printed.err.splitlines()[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["stdin"]


def test_what_precedes_damage_is_printed(capsys, classifier, stream, tmp_path):
    samples = sound() / np.float32(2**15)
    content = samples.tobytes() + np.float32([np.nan]).tobytes() * 2**17
    arguments = (*LENGTHS, "--format", "f32", "--rate", RATE)
    assert stream(content, *arguments, "--json") == 1
    printed = capsys.readouterr()
    assert "standard input: the waveform holds NaN or infinite samples" in printed.err
    found = [json.loads(line) for line in printed.out.splitlines()]
    whole_chunks = len(samples) * 4 // 2**16 * 2**16 / 4 / RATE
    assert max(event["end"] for event in found) > whole_chunks - 0.5
    assert found[:2] == expected_events(classifier)[:2]


@pytest.mark.parametrize("stdin", [None, "terminal"])
def test_a_terminal_and_a_closed_standard_input_are_refused(capsys, monkeypatch, stdin):
    if stdin:
        main_end, other_end = os.openpty()
        stdin = open(other_end, encoding="utf-8")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["stream", "--checkpoint", "none"]) == 1
    assert "standard input is a terminal or closed; pipe sound" in capsys.readouterr().err
    if stdin:
        stdin.close()
        os.close(main_end)
