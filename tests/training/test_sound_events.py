"""Training a frame-level model on strong labels, from a list of events to a classifier."""

import csv
import json
import re

import numpy as np
import pytest
import soundfile
from flax import traverse_util

import ast_jax
from ast_jax.checkpoint.format import load_checkpoint, save_checkpoint
from ast_jax.cli.classify import classify
from ast_jax.cli.evaluate import evaluate
from ast_jax.cli.long_recordings import WindowOptions
from ast_jax.columns import Columns
from ast_jax.config import AugmentConfig, OptimizerConfig, StrongData, SyntheticData
from ast_jax.data.strong_recordings import read_strong
from ast_jax.errors import InputError
from ast_jax.inference.events import EventTracker, find_events
from ast_jax.runs.workdir import describe_data
from ast_jax.training.loop import fit, set_up
from ast_jax.training.plot_batch import describe_target
from tests.small_run import MODEL, history_of, small

TONES = {"high": 3000, "low": 500}


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Returns a list of the tones in recordings of noise, one of them long."""
    folder = tmp_path_factory.mktemp("events")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(17):
        seconds = 1.28 if i else 5.0
        waveform = rng.normal(0, 0.01, int(16000 * seconds))
        for label, hertz in TONES.items():
            start = rng.uniform(0, seconds - 0.5)
            end = start + rng.uniform(0.25, 0.5)
            inside = slice(int(16000 * start), int(16000 * end))
            phase = 2 * np.pi * hertz * np.arange(len(waveform)) / 16000
            waveform[inside] += 0.3 * np.sin(phase)[inside]
            rows.append((f"{i}.wav", round(start, 3), round(end, 3), label))
        soundfile.write(folder / f"{i}.wav", waveform, 16000)
    with open(folder / "events.tsv", "w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerows([("filename", "onset", "offset", "event_label"), *rows])
    return folder / "events.tsv"


def config(workdir, events, **changes):
    """Returns a run that learns the tones in seconds."""
    config = small(
        workdir,
        model=MODEL.replace(time_stride=8, max_length=128),
        data=StrongData(train=str(events), evaluation=str(events)),
        loss="binary_cross_entropy",
        augment=AugmentConfig(frequency_mask=4),
        optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", warmup_steps=2),
        num_epochs=12,
        evaluate_every=6,
    )
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.fixture(scope="module", autouse=True)
def quick_runs(no_plots, share_functions):
    """Disables plots, and shares jitted functions."""


@pytest.fixture(scope="module")
def finished(events, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "events"
    return workdir, fit(config(workdir, events))


def test_a_run_learns_when_sounds_are_and_reports_it(finished):
    workdir, result = finished
    assert result.scores.mean_average_precision > 0.95
    assert result.scores.accuracy > 0.8  # of frames of which every class is right
    history = history_of(workdir)
    assert history[-1]["event_f1"] > 0.8
    results = json.loads((workdir / "results.json").read_text())
    assert results["event_f1"] == history[-1]["event_f1"]
    assert [row["label"] for row in results["classes"]] == ["high", "low"]
    assert [row["events"] for row in results["classes"]] == [17, 17]
    header, *found = (workdir / "events.csv").read_text().splitlines()
    assert header == "filename,start,end,label,peak"
    assert 30 < len(found) < 40


def test_the_classifier_finds_the_events_of_a_long_recording(finished, events):
    classifier = ast_jax.load(finished[0])
    recording = events.parent / "0.wav"
    found = list(find_events(classifier.windows(recording), EventTracker(classifier.labels, 0.5)))
    lines = [line.split("\t") for line in events.read_text().splitlines()]
    true = [(float(on), float(off), label) for name, on, off, label in lines if name == "0.wav"]
    for start, end, label in true:
        (event,) = [event for event in found if event.label == label and event.peak > 0.7]
        assert event.start == pytest.approx(start, abs=0.2)
        assert event.end == pytest.approx(end, abs=0.2)


def test_classify_prints_events_or_the_highest_scores_with_a_note(finished, events, capsys):
    recording = str(events.parent / "3.wav")
    checkpoint = str(finished[0])
    assert classify((recording,), checkpoint=checkpoint) == 0
    printed = capsys.readouterr()
    assert "is frame-level; a label's score is the highest over time" in printed.err
    assert printed.out.count("%") == 2
    options = WindowOptions(events=True)
    assert classify((recording, "none.wav"), checkpoint=checkpoint, windows=options) == 1
    printed = capsys.readouterr()
    assert {"high", "low"} <= set(printed.out.split())
    assert "none.wav" in printed.err
    with pytest.raises(InputError, match="leave window and hop out"):
        classify((recording,), checkpoint=checkpoint, windows=WindowOptions(window=1.0))


def test_evaluate_scores_a_list_of_events(finished, events, tmp_path, capsys):
    workdir, result = finished
    output = tmp_path / "scores"
    run = str(workdir)
    assert evaluate((run,), data=str(events), output=str(output), json=True) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content == json.loads((output / "results.json").read_text())
    for name, value in result.scores._asdict().items():
        assert content[name] == (value and pytest.approx(value, rel=1e-5)), name
    assert content["event_f1"] == json.loads((workdir / "results.json").read_text())["event_f1"]
    assert re.search(r"trained on (\d+) of the \1 clips", printed.err)
    with pytest.raises(InputError, match="is frame-level; evaluate it on a list of events"):
        evaluate((run,), data=str(events.parent))
    with pytest.raises(InputError, match="which goes with one checkpoint"):
        evaluate((run, run), data=str(events))
    with pytest.raises(InputError, match="--recordings is for a list of events"):
        evaluate((run,), data=str(events.parent), recordings="x")


def test_other_times_are_other_recordings_for_a_run_that_resumes(events, tmp_path):
    descriptions = []
    for text in (events.read_text(), events.read_text().replace("\t0.", "\t0.0", 1)):
        (tmp_path / "list.tsv").write_text(text)
        data = StrongData(train=str(tmp_path / "list.tsv"), dir=str(events.parent))
        model = config(tmp_path / "run", events).model
        descriptions.append(describe_data(read_strong(data, Columns.of(model, 16000))))
    before, after = descriptions
    assert before["labels"] == after["labels"]
    assert before["train"] != after["train"] or before["evaluation"] != after["evaluation"]


def test_a_clip_level_checkpoint_gives_its_encoder_and_the_head_is_new(
    finished, events, tmp_path, capsys
):
    frames = load_checkpoint(finished[0] / "model")
    clips = frames._replace(config=frames.config.replace(frame_level=False))
    save_checkpoint(tmp_path / "clips", clips)
    run, _ = set_up(config(tmp_path / "run", events, init_from=str(tmp_path / "clips")))
    assert "its encoder is kept, and the frame-level head is untrained" in capsys.readouterr().out
    assert run.initial.config.frame_level
    for name, array in traverse_util.flatten_dict(run.initial.params["ast"], sep="/").items():
        np.testing.assert_array_equal(
            array, traverse_util.flatten_dict(frames.params["ast"], sep="/")[name]
        )
    new, old = (each.params["classifier"]["dense"]["kernel"] for each in (run.initial, frames))
    assert not np.allclose(new, old)


def test_mixup_and_balanced_sampling_take_the_labels_along(events, tmp_path):
    data = StrongData(train=str(events), evaluation=str(events), balanced=True)
    run, _ = set_up(config(tmp_path / "run", events, data=data, augment=AugmentConfig(mixup=1.0)))
    targets = np.concatenate([run.train_batches(step)["targets"] for step in range(4)])
    assert targets.shape == (32, *run.initial.config.output_shape)
    assert ((targets > 0) & (targets < 1)).any()
    assert targets.max() == pytest.approx(1)  # where both clips have a class


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss", "cross_entropy", "set loss=binary_cross_entropy"),
        ("augment.roll", 10, "augment.roll is 10, and it moves sounds and not their times; set"),
        ("augment.patchout_time", 1, "augment.patchout_time is 1, and a frame-level model"),
        ("model.mask_padding", True, "set model.mask_padding=False"),
    ],
)
def test_what_moves_or_leaves_out_labels_is_refused(events, tmp_path, field, value, message):
    run = config(tmp_path / "run", events)
    *group, name = field.split(".")
    setattr(getattr(run, group[0]) if group else run, name, value)
    with pytest.raises(InputError, match=message):
        fit(run)
    assert not (tmp_path / "run").exists()


def test_a_frame_level_model_needs_times(tmp_path):
    run = small(tmp_path / "run", data=SyntheticData(train_clips=2, evaluation_clips=1))
    run.model.frame_level = True
    with pytest.raises(InputError, match=r"model\.frame_level is True and the data has no times"):
        fit(run)


def test_a_picture_of_a_batch_names_the_classes_at_any_time():
    target = np.array([[0, 0.3, 0], [0, 0.7, 1]])
    assert describe_target(target, ["a", "b", "c"]) == "c, 0.70 b"
