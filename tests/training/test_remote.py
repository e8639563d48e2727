"""A run at gs:// or s3:// is the same as a local one, on one or several machines."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
import soundfile

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import load_checkpoint
from ast_jax.checkpoint.load import LAST_FILE
from ast_jax.config import PreparedData
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.training_data import load_data
from ast_jax.errors import InputError
from ast_jax.runs.mirror import run_folder
from ast_jax.runs.workdir import describe_data
from ast_jax.storage import delete, list_files, local_files, upload
from ast_jax.training import loop
from ast_jax.training.loop import fit, set_up
from tests import small_run

pytestmark = pytest.mark.usefixtures("no_plots", "share_functions")
ROOT = Path(__file__).parents[2]


def small(workdir, **changes):
    """Returns the configuration of a run of two epochs of two batches."""
    return small_run.small(workdir, **{"num_epochs": 2, **changes})


@pytest.fixture(scope="module")
def local(tmp_path_factory, no_plots, share_functions):
    """Returns the folder of the same run on this machine."""
    workdir = tmp_path_factory.mktemp("local") / "run"
    fit(small(workdir))
    return workdir


def copy_to(url, folder):
    """Uploads a folder."""
    upload(url, folder, local_files(folder))


def assert_same(folder, other):
    """Asserts that two runs have the same history and parameters."""
    assert small_run.history_of(folder) == small_run.history_of(other)
    one, another = (load_checkpoint(path / "model").params for path in (folder, other))
    jax.tree.map(np.testing.assert_array_equal, one, another)


def test_a_remote_run_matches_a_local_one_and_is_uploaded_whole(bucket, local, tmp_path, capsys):
    url = f"{bucket}/some/run"
    fit(small(url))
    assert f"checkpoints are in {url}" in capsys.readouterr().out.replace("\n", " ")
    folder = run_folder(url)
    assert_same(folder, local)
    assert list_files(url).keys() == local_files(folder).keys() - {".lock"}
    written = {name.split("/")[0] for name in list_files(url)}
    assert written == {path.name for path in local.iterdir()} - {".lock"}

    shutil.rmtree(tmp_path / "cache")
    classifier = ast_jax.load(url)
    expected = load_checkpoint(local / "model")
    assert classifier.labels == list(expected.config.id2label.values())
    assert ASTFeatureExtractor.from_pretrained(url) == expected.feature_extractor
    assert not run_folder(url).exists()
    downloaded = local_files(tmp_path / "cache" / "ast_jax" / "downloads")
    assert not [name for name in downloaded if "/checkpoints/" in name]


def test_an_interrupted_run_resumes_on_another_machine(bucket, local, tmp_path, monkeypatch):
    url = f"{bucket}/run"
    with monkeypatch.context() as patch:
        steps = iter(range(1, 10))
        patch.setattr(loop, "is_stop_requested", lambda *arguments: next(steps) == 3)
        with pytest.raises(KeyboardInterrupt):
            fit(small(url))
    assert "checkpoints/3/_CHECKPOINT_METADATA" in list_files(url)
    newest = ast_jax.load(url)  # the newest checkpoint of a run that is not finished
    assert len(newest.labels) == 10
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    fit(small(url))
    assert_same(run_folder(url), local)
    assert len(json.loads((run_folder(url) / "sessions.json").read_text())) == 2
    assert "checkpoints/3/_CHECKPOINT_METADATA" not in list_files(url)  # two of three are kept


def test_another_configuration_is_refused(bucket, local):
    copy_to(f"{bucket}/run", local)
    with pytest.raises(InputError, match=f"^{bucket}/run: holds a run with another seed"):
        fit(small(f"{bucket}/run", seed=1))


def test_training_does_not_start_if_the_bucket_cannot_be_written(bucket, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise PermissionError("Access denied")

    system = fsspec.filesystem(bucket.partition("://")[0], use_listings_cache=False)
    monkeypatch.setattr(system, "put_file", refuse)
    monkeypatch.setattr(system, "rm_file", refuse)
    monkeypatch.setattr(loop, "train", lambda *arguments: pytest.fail("a step was taken"))
    url = f"{bucket}/run"
    message = f"^{url}: cannot be written .Access denied.; check its .* network$"
    with pytest.raises(InputError, match=message):
        fit(small(url))
    assert not run_folder(url).exists()
    assert "note: " not in capsys.readouterr().err


def test_a_failed_upload_does_not_hide_why_a_run_failed(bucket, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise PermissionError("Access denied")

    def fail(run, state):
        (run.workdir / "history.json").write_text("[]")
        (run.workdir / "checkpoints" / "1" / "config").mkdir(parents=True)
        (run.workdir / "checkpoints" / "1" / "config" / "config.json").touch()
        system = fsspec.filesystem(bucket.partition("://")[0], use_listings_cache=False)
        monkeypatch.setattr(system, "put_file", refuse)
        raise InputError("training diverged")

    monkeypatch.setattr(loop, "train", fail)
    with pytest.raises(InputError, match=r"^training diverged$"):
        fit(small(f"{bucket}/run"))
    note = capsys.readouterr().err
    assert f"note: {bucket}/run: cannot be written (Access denied)" in note
    folder = run_folder(f"{bucket}/run")
    assert f"everything is in {folder}, and the same command uploads it" in note


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(bucket, monkeypatch):
    def fail(*arguments):
        assert "run.json" in list_files(f"{bucket}/run")
        raise InputError("a clip is damaged")

    monkeypatch.setattr(loop, "train", fail)
    with pytest.raises(InputError, match="a clip is damaged"):
        fit(small(f"{bucket}/run"))
    assert list_files(f"{bucket}/run") == {}


def test_a_remote_prepared_set_and_a_remote_checkpoint_are_the_local_ones(bucket, local, tmp_path):
    generator = np.random.default_rng(0)
    for index in range(16):
        split, label = ("train", "test")[index % 2], f"{index // 2 % 2}"
        file = tmp_path / "sounds" / split / label / f"{index}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, generator.uniform(-0.1, 0.1, 8000), 16000)
    prepare("folder", tmp_path / "sounds", tmp_path / "prepared", processes=1)
    copy_to(f"{bucket}/set", tmp_path / "prepared")
    copy_to(f"{bucket}/run", local)

    def data_and_start(checkpoint, prepared):
        data = PreparedData(dir=str(prepared), train="train", evaluation="test")
        config = small(tmp_path / "run", init_from=str(checkpoint), data=data, num_epochs=3)
        return load_data(config), set_up(config)[0].initial

    ours, start = data_and_start(f"{bucket}/run", f"{bucket}/set")
    theirs, expected = data_and_start(local, tmp_path / "prepared")
    assert describe_data(ours) == describe_data(theirs)
    for one, another in zip(ours.train.waveforms, theirs.train.waveforms, strict=True):
        np.testing.assert_array_equal(one, another)
    assert start.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, start.params, expected.params)


@pytest.mark.slow
def test_two_processes_without_a_shared_disk_train_in_a_bucket(bucket, local, tmp_path, free_port):
    """ZeRO-1 over both: a checkpoint needs the optimizer's state of the other process."""
    (tmp_path / "config.py").write_text(
        "from ast_jax.config import *\nfrom ast_jax.models.config import *\n"
        f"def get_config():\n    return {small(f'{bucket}/run', shard_optimizer=True)!r}\n"
    )

    def run(machines, *flags):
        command = [sys.executable, "train.py", str(tmp_path / "config.py"), *flags]
        command += [f"--coordinator=localhost:{free_port()}", "--num-processes=2"]
        started = [
            subprocess.Popen(
                [*command, f"--process-id={process}"],
                cwd=ROOT,
                env=os.environ | {
                    "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2",
                    "XDG_CACHE_HOME": str(tmp_path / machine),
                },
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for process, machine in enumerate(machines)
        ]  # fmt: skip
        outputs = [process.communicate(timeout=400)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0], outputs
        return outputs

    run(["one", "two"], "--num_epochs=2")
    assert not (tmp_path / "two" / "ast_jax" / "runs").exists()
    # The same run without what followed its first epoch, on other machines.
    names = [
        name for name in list_files(f"{bucket}/run") if re.match("model/|checkpoints/4/", name)
    ]
    assert f"checkpoints/4/{LAST_FILE}" in names
    delete(f"{bucket}/run", names)
    outputs = run(["three", "four"], "--num_epochs=2")
    assert "resuming after step 2 of 4" in outputs[0]
    (folder,) = (tmp_path / "three" / "ast_jax" / "runs").glob("*/run")
    ours, theirs = (small_run.history_of(path) for path in (folder, local))
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(yours["loss"], rel=1e-6)
        assert mine["accuracy"] == yours["accuracy"]
