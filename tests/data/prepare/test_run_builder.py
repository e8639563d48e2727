import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ast_jax.data.prepare.builder
import ast_jax.data.prepare.run_builder
import ast_jax.data.prepare.shard
from ast_jax.audio.decode import read_recording
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.prepared import VERSION, open_prepared
from ast_jax.errors import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a source with ten training clips, two test clips and a missing one."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    lines = ["path,labels,split", "none.wav,x,test"]
    for i in range(12):
        split = "train" if i < 10 else "test"
        soundfile.write(folder / f"{i}.wav", rng.uniform(-1, 1, 500 + i), 16000)
        lines.append(f"{i}.wav,{'xy'[i % 2]},{split}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def plain(source, tmp_path_factory):
    """Returns the set that one process writes without interruption, in files of three clips."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ast_jax.data.prepare.builder, "CLIPS_PER_SHARD", 3)
        return prepare("csv", source, folder)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(ast_jax.data.prepare.builder, "CLIPS_PER_SHARD", 3)


def assert_same(made, plain):
    assert made[1:] == plain[1:]
    first, second = open_prepared(made.folder), open_prepared(plain.folder)
    assert first._replace(folder=None, splits={}) == second._replace(folder=None, splits={})
    assert list(first.splits) == list(second.splits)
    for split in first.splits:
        assert [n for _, n in first.splits[split]] == [n for _, n in second.splits[split]]
        a, b = first.clips(split), second.clips(split)
        assert list(a.names) == list(b.names)
        assert a.lengths() == b.lengths()
        np.testing.assert_array_equal(a.all_targets(), b.all_targets())
        for x, y in zip(a.waveforms, b.waveforms, strict=True):
            np.testing.assert_array_equal(x, y)
    for name in ("skipped.csv", "metadata.json", "features.json"):
        assert (made.folder / name).read_bytes() == (plain.folder / name).read_bytes()


def test_prepare_reports_what_it_wrote(source, plain):
    assert plain.folder.parts[-2:] == ("csv", VERSION)
    assert plain.splits == {"train": 10, "test": 2}
    assert plain.damaged == []
    (line,) = plain.missing
    assert f"{source / 'none.wav'} does not exist" in line


def test_no_temporary_files_are_left(plain):
    assert os.listdir(plain.folder.parent) == [VERSION]
    assert os.listdir(plain.folder.parent.parent) == ["csv"]


def test_an_existing_output_is_refused(source, plain):
    with pytest.raises(InputError, match=rf"{plain.folder}: exists; remove it or choose another"):
        prepare("csv", source, plain.folder.parents[1])


def test_an_output_can_be_relative_with_unusual_names(source, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = prepare("csv", source, "~/a b/é")
    assert made.folder == tmp_path / "~" / "a b" / "é" / "csv" / VERSION
    assert_same(made, plain)


def test_two_processes_write_the_same_set_as_one(source, plain, tmp_path):
    assert_same(prepare("csv", source, tmp_path, processes=2), plain)
    assert not multiprocessing.active_children()


def test_damaged_files_beyond_the_limit_stop_every_process(source, tmp_path):
    for name in ("list.csv", *(f"{i}.wav" for i in range(12))):
        (tmp_path / name).write_bytes((source / name).read_bytes() if name != "4.wav" else b"bad")
    with pytest.raises(InputError, match=r"4\.wav cannot be read as audio.*--max-damaged"):
        prepare("csv", tmp_path, tmp_path / "out", processes=2)
    assert not multiprocessing.active_children()
    made = prepare("csv", tmp_path, tmp_path / "out", max_damaged=1)
    assert made.splits == {"train": 9, "test": 2}
    assert len(made.damaged) == 1


def die(shard, labels):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dying_process_is_reported_and_the_same_command_resumes(
    source, plain, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(ast_jax.data.prepare.run_builder, "_write", die)
        with pytest.raises(
            InputError, match=r"decoded clips died.*repeat the command to resume, with"
        ):
            prepare("csv", source, tmp_path, processes=2)
    assert not multiprocessing.active_children()
    assert_same(prepare("csv", source, tmp_path), plain)


# Arguments: source, output, and the function in which the process dies.
KILLED = """
import os, signal, sys
import ast_jax.data.prepare.builder as builder
import ast_jax.data.prepare.shard as shard
from ast_jax.data.prepare.run_builder import prepare

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

source, output, where = sys.argv[1:]
builder.CLIPS_PER_SHARD = 3
if where == "decoding":
    load = shard.read_recording
    shard.read_recording = lambda path, *a, **k: die() if "7.wav" in path else load(path, *a, **k)
elif where == "moving":
    take = builder.AudioBuilder._take
    builder.AudioBuilder._take = lambda *split: die() if split[1] == "train" else take(*split)
else:
    builder.AudioBuilder._write_skipped = die
prepare("csv", source, output)
"""


@pytest.mark.parametrize(
    ("where", "decoded_again"),
    [
        ("decoding", [6, 7, 8, 9]),
        ("moving", [10, 11]),  # moved files are deleted with their incomplete folder
        ("finishing", [10, 11, *range(10)]),
    ],
)
def test_a_killed_run_leaves_no_set_and_resumes(
    source, plain, tmp_path, monkeypatch, where, decoded_again
):
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path), where]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == -signal.SIGKILL, run.stderr
    with pytest.raises(InputError, match="does not contain a prepared set"):
        open_prepared(tmp_path)
    decoded = []

    def load(path, rate, **options):
        decoded.append(int(Path(path).stem))
        return read_recording(path, rate, **options)

    monkeypatch.setattr(ast_jax.data.prepare.shard, "read_recording", load)
    made = prepare("csv", source, tmp_path)
    assert decoded == decoded_again
    assert_same(made, plain)
    assert os.listdir(made.folder.parent) == [VERSION]


PROCESSES = """
import multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from ast_jax.data.prepare.run_builder import prepare

def die():
    # Waits until the processes run and the first file is being written.
    while not any(Path(sys.argv[2]).rglob("*.part")):
        time.sleep(0.01)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    threading.Thread(target=die, daemon=True).start()
    prepare("csv", sys.argv[1], sys.argv[2], processes=2)
"""


def test_worker_processes_end_with_a_killed_run(tmp_path):
    (tmp_path / "source").mkdir()
    soundfile.write(tmp_path / "source" / "0.wav", np.zeros(16000), 16000)
    lines = ["path,labels,id", *(f"0.wav,x,{i}" for i in range(3000))]
    (tmp_path / "source" / "list.csv").write_text("\n".join(lines))
    (tmp_path / "main.py").write_text(PROCESSES)
    command = [sys.executable, tmp_path / "main.py", tmp_path / "source", tmp_path / "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "output").open("w") as output:
        run = subprocess.run(command, env=environment, stdout=output, timeout=120)
    assert run.returncode == -signal.SIGKILL
    processes = [int(pid) for pid in (tmp_path / "output").read_text().split()]
    assert len(processes) == 2
    for _ in range(300):
        if not any(Path(f"/proc/{pid}").exists() for pid in processes):
            break
        time.sleep(0.1)
    else:
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        pytest.fail(f"{processes} still ran")


def test_an_unknown_beam_runner_is_refused(source, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(InputError, match=r"Beam has no runner 'NoRunner'.*try DirectRunner"):
        prepare("csv", source, tmp_path, beam_runner="NoRunner")


def test_missing_beam_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    with pytest.raises(InputError, match=r"needs Apache Beam; install it with pip install"):
        prepare("csv", source, tmp_path, beam_runner="DirectRunner")
