import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ast_jax
from ast_jax.cli.main import main


def classify(*arguments):
    return main(["classify", *map(str, arguments)])


@pytest.fixture
def refused(capsys):
    """Returns a function that runs the command, asserts its failure and returns the message."""

    def run(*arguments):
        assert classify(*arguments) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("ast-jax: ")
        return line.removeprefix("ast-jax: ")

    return run


# ---- output


def test_prints_the_best_labels_of_every_file(capsys, checkpoint, sounds):
    assert classify(*sounds, "--checkpoint", checkpoint / "ours", "--top-k", 2) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [lines[0], lines[3], len(lines)] == [*sounds, 6]
    for line in (*lines[1:3], *lines[4:]):
        assert re.fullmatch(r"  +\d+\.\d%  (rain|wind|café|owl)", line)
    assert printed.err == ""


def test_json_is_valid_and_matches_the_python_api(capsys, checkpoint, sounds):
    assert classify(*sounds, "--checkpoint", checkpoint / "ours", "--json") == 0
    results = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    classifier = ast_jax.load(checkpoint / "ours")
    assert results == [{"file": sound, "labels": classifier(sound)} for sound in sounds]
    assert {label["label"] for label in results[0]["labels"]} == {"rain", "wind", "café", "owl"}


@pytest.mark.parametrize("name", ["ours", "huggingface", "x.safetensors"])
def test_every_checkpoint_format_classifies(capsys, checkpoint, sounds, name):
    assert classify(sounds[0], "--checkpoint", checkpoint / name, "--json") == 0
    ((result,),) = [json.loads(capsys.readouterr().out)]
    scores = sorted(label["score"] for label in result["labels"])
    expected = ast_jax.load(checkpoint / "ours")(sounds[0])
    np.testing.assert_allclose(scores, sorted(x["score"] for x in expected), rtol=1e-4)


def test_a_pth_classifies(capsys, pth, sounds):
    assert classify(sounds[0], "--checkpoint", pth) == 0
    assert "LABEL_" in capsys.readouterr().out


def test_a_clip_longer_than_the_models_input_gets_a_note(capsys, checkpoint, tmp_path):
    soundfile.write(tmp_path / "long.wav", 0.1 * np.ones(48000), 16000)
    assert classify(tmp_path / "long.wav", "--checkpoint", checkpoint / "ours") == 0
    assert capsys.readouterr().err == (
        f"note: {tmp_path / 'long.wav'} lasts 3.0 s; the model uses the first 1.3 s\n"
    )


# ---- invalid sounds


def write_bad_sounds(folder):
    good = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(folder / "good.wav", good, 16000)
    (folder / "empty.wav").touch()
    (folder / "cut.wav").write_bytes((folder / "good.wav").read_bytes()[:9000])
    (folder / "text.wav").write_text("This is no sound.")
    soundfile.write(folder / "nan.wav", good * np.nan, 16000, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(0), 16000)
    soundfile.write(folder / "short.wav", good[:399], 16000)
    (folder / "folder.wav").mkdir()


BAD_SOUNDS = {
    "missing.wav": "does not exist",
    "empty.wav": "is empty",
    "cut.wav": "is truncated",
    "text.wav": "cannot be read as audio",
    "nan.wav": "NaN or infinite samples",
    "silent.wav": "holds no samples",
    "short.wav": "399 samples and a frame takes 400",
    "folder.wav": "is a folder",
}


@pytest.mark.parametrize(("name", "complaint"), BAD_SOUNDS.items())
def test_a_sound_that_cannot_be_used_is_named(refused, checkpoint, tmp_path, name, complaint):
    write_bad_sounds(tmp_path)
    message = refused(tmp_path / name, "--checkpoint", checkpoint / "ours")
    assert message.startswith(str(tmp_path / name))
    assert complaint in message
    assert message.count(str(tmp_path / name)) == 1


def test_invalid_sounds_do_not_stop_valid_ones_and_json_stays_valid(capsys, checkpoint, tmp_path):
    write_bad_sounds(tmp_path)
    files = [*(tmp_path / name for name in BAD_SOUNDS), tmp_path / "good.wav"]
    assert classify(*files, "--checkpoint", checkpoint / "ours", "--json") == 1
    printed = capsys.readouterr()
    (result,) = json.loads(printed.out)
    assert result["file"] == str(tmp_path / "good.wav")
    assert len(printed.err.splitlines()) == len(BAD_SOUNDS)


def test_an_invalid_sound_alone_gives_an_empty_json_list(capsys, checkpoint, tmp_path):
    assert classify(tmp_path / "none", "--checkpoint", checkpoint / "ours", "--json") == 1
    assert json.loads(capsys.readouterr().out) == []


def test_an_error_names_the_path_once(capsys, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert classify(".//none.wav", "--checkpoint", checkpoint / "ours") == 1
    assert capsys.readouterr().err.count("none.wav") == 1


# ---- invalid checkpoints


def test_a_missing_checkpoint_is_named(refused, sounds, tmp_path):
    message = refused(sounds[0], "--checkpoint", tmp_path / "none")
    assert message == f"{tmp_path / 'none'}: no such file or folder; give the path of a checkpoint"


@pytest.mark.parametrize("name", ["ours", "huggingface"])
def test_a_checkpoint_with_only_its_configuration_is_refused(
    refused, checkpoint, sounds, tmp_path, name
):
    path = shutil.copytree(checkpoint / name, tmp_path / "partial")
    if name == "ours":
        shutil.rmtree(path / "params")
    else:
        (path / "model.safetensors").unlink()
    assert refused(sounds[0], "--checkpoint", path).startswith(str(path))


def test_a_folder_of_something_else_is_refused(refused, sounds, tmp_path):
    assert refused(sounds[0], "--checkpoint", tmp_path).startswith(
        f"{tmp_path}: no checkpoint: neither one of ast_jax nor model.safetensors nor "
    )


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_files_are_refused(refused, checkpoint, pth, sounds, tmp_path, share):
    for source in (pth, checkpoint / "x.safetensors"):
        path = shutil.copy(source, tmp_path / source.name)
        os.truncate(path, int(path.stat().st_size * share))
        assert refused(sounds[0], "--checkpoint", path).startswith(f"{path}: not a complete ")


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_code_in_a_checkpoint_does_not_run(refused, sounds, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": Malicious(tmp_path / "touched")}, tmp_path / "x.pth")
    message = refused(sounds[0], "--checkpoint", tmp_path / "x.pth")
    assert message.startswith(f"{tmp_path / 'x.pth'}: holds more than tensors (pickled code")
    assert not (tmp_path / "touched").exists()


def test_a_sound_given_as_checkpoint_is_refused(refused, sounds):
    pytest.importorskip("torch")
    assert refused(sounds[0], "--checkpoint", sounds[0]).startswith(f"{sounds[0]}: ")


# ---- as a command


def run_command(*arguments, **options):
    command = [sys.executable, "-m", "ast_jax.cli.main", *map(str, arguments)]
    root = Path(__file__).parent.parent.parent
    return subprocess.run(command, check=False, cwd=root, **options)


def test_the_command_refuses_a_damaged_checkpoint_in_one_sentence(checkpoint, sounds, tmp_path):
    path = shutil.copytree(checkpoint / "ours", tmp_path / "cut")
    largest = max((path / "params").rglob("*"), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    run = run_command("classify", sounds[0], "--checkpoint", path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"ast-jax: {path / 'params'}: damaged or incomplete (")


def test_the_command_prints_any_file_name_and_handles_a_closed_pipe(checkpoint, tmp_path):
    odd = tmp_path / "é ☃.wav"
    soundfile.write(odd, 0.1 * np.ones(16000), 16000)
    arguments = ("classify", odd, "--checkpoint", checkpoint / "ours")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    run = run_command(*arguments, capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(str(tmp_path / r"\xe9 \u2603.wav"))
    assert r"caf\xe9" in run.stdout

    reading, writing = os.pipe()
    os.close(reading)
    run = run_command(*arguments, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, "")
