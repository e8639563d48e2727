import csv
import io
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
        f"note: {tmp_path / 'long.wav'} lasts 3.0 s; the model uses the first 1.3 s: "
        f"--window 1.28 classifies all of it\n"
    )
    for name in "abc":
        (tmp_path / f"{name}.wav").symlink_to(tmp_path / "long.wav")
    assert classify(tmp_path, "--checkpoint", checkpoint / "ours") == 0
    assert capsys.readouterr().err == (
        f"note: {tmp_path / 'a.wav'} lasts 3.0 s; the model uses the first 1.3 s: "
        "--window 1.28 classifies all of it\n"
        "note: the model uses the first 1.3 s of 3 other files, too\n"
    )


# ---- folders, standard input, files of results


def test_folders_are_read_recursively_in_the_order_of_names(capsys, checkpoint, tmp_path):
    folder = tmp_path / "sounds"
    for name in ("b.wav", "a/2.flac", "a/1.WAV", "c/d/e.ogg", ".hidden/x.wav", "a/.1.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        kind = "OGG" if name.endswith("ogg") else "FLAC" if name.endswith("flac") else "WAV"
        soundfile.write(folder / name, 0.1 * np.ones(16000), 16000, format=kind)
    for name in ("a/notes.txt", "list.TXT", "c/d/labels.csv", "README"):
        (folder / name).touch()
    (folder / "c" / "loop").symlink_to(folder)
    assert classify(folder, folder / "b.wav", "--checkpoint", checkpoint / "ours", "--json") == 0
    printed = capsys.readouterr()
    names = ["a/1.WAV", "a/2.flac", "b.wav", "c/d/e.ogg", "b.wav"]
    assert [result["file"] for result in json.loads(printed.out)] == [
        str(folder / name) for name in names
    ]
    assert printed.err == (
        f"note: {folder}: passed over files that are no sound files: 2 .txt, 1 without suffix, "
        f"1 .csv\n"
    )


def test_a_folder_without_sounds_does_not_stop_the_rest(capsys, checkpoint, sounds, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").touch()
    assert classify(tmp_path / "empty", sounds[0], "--checkpoint", checkpoint / "ours") == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(sounds[0])
    assert printed.err == (
        f"ast-jax: {tmp_path / 'empty'}: has no sound files; passed over files that are no "
        f"sound files: 1 .txt\n"
    )


def test_a_part_of_a_folder_that_cannot_be_used_does_not_stop_the_rest(
    capsys, checkpoint, sounds, tmp_path, monkeypatch
):
    folder = tmp_path / "sounds"
    (folder / "closed").mkdir(parents=True)
    os.mkfifo(folder / "fifo.wav")
    (folder / "link.wav").symlink_to(folder / "none.wav")
    shutil.copy(sounds[0], folder / "a.wav")
    listdir = os.listdir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr("os.listdir", refuse)  # these tests may run as root
    assert classify(folder, sounds[1], "--checkpoint", checkpoint / "ours", "--json") == 1
    printed = capsys.readouterr()
    found = [result["file"] for result in json.loads(printed.out)]
    assert found == [str(folder / "a.wav"), sounds[1]]
    assert printed.err.splitlines() == [
        f"ast-jax: {folder}/closed: cannot be read (Permission denied); give a readable folder",
        f"ast-jax: {folder}/fifo.wav: is a pipe or a device, not a file; give a file",
        f"ast-jax: {folder}/link.wav does not exist: give the path of a sound file",
    ]


@pytest.mark.parametrize("name", [b"a\nb\x1b[2J", b"\xff\xfe"])
def test_names_are_printed_in_one_line(capsys, checkpoint, sounds, tmp_path, name):
    shown = {b"a\nb\x1b[2J": r"a\nb\x1b[2J", b"\xff\xfe": r"\udcff\udcfe"}[name]
    good, bad = (os.fsdecode(os.path.join(bytes(tmp_path), name + end)) for end in (b"1", b"2"))
    shutil.copy(sounds[0], good)
    Path(bad).write_bytes(b"no sound" * 9)
    output = tmp_path / "out.csv"
    options = ("--checkpoint", checkpoint / "ours", "--top-k", 1)
    assert classify(good, bad, *options) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"{tmp_path}/{shown}1"
    assert len(printed.out.splitlines()) == 2
    (line,) = printed.err.splitlines()
    assert line.startswith(f"ast-jax: {tmp_path}/{shown}2 cannot be read as audio")
    assert printed.err.isprintable() or printed.err[:-1].isprintable()

    assert classify(good, bad, *options, "--output", output) == 1
    (row,) = csv.DictReader(io.StringIO(output.read_text(encoding="utf-8")))
    assert row["file"] in (good, f"{tmp_path}/{shown}1")
    assert classify(good, bad, *options, "--json") == 1
    capsys.readouterr()


def test_a_name_that_is_too_long_does_not_stop_the_rest(capsys, checkpoint, sounds):
    assert classify("x" * 5000, sounds[0], "--checkpoint", checkpoint / "ours") == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(sounds[0])
    assert "cannot be read (File name too long)" in printed.err
    assert len(printed.err) < 300


def test_a_long_file_is_not_read_beyond_the_model(capsys, checkpoint, tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal(16000 * 60)
    samples[-1] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16000, "FLOAT")
    assert classify(tmp_path / "a.wav", "--checkpoint", checkpoint / "ours", "--json") == 0
    printed = capsys.readouterr()
    used = ast_jax.load(checkpoint / "ours").seconds
    assert printed.err == (
        f"note: {tmp_path}/a.wav lasts 60.0 s; the model uses the first {used:.1f} s: "
        f"--window {used} classifies all of it\n"
    )
    soundfile.write(tmp_path / "b.wav", samples[:32000], 16000, "FLOAT")
    classify(tmp_path / "b.wav", "--checkpoint", checkpoint / "ours", "--json")
    (long,), (short,) = json.loads(printed.out), json.loads(capsys.readouterr().out)
    assert long["labels"] == short["labels"]


def test_loud_sounds_are_noted_and_scaled_on_demand(capsys, checkpoint, sounds, tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 16000).astype(np.float32)
    samples[5] = 1
    soundfile.write(tmp_path / "full.wav", samples, 16000, "FLOAT")
    soundfile.write(tmp_path / "loud.wav", 2 * samples, 16000, "FLOAT")
    options = ("--checkpoint", checkpoint / "ours", "--json")
    labels = []
    for arguments in (["full.wav"], ["loud.wav"], ["loud.wav", "--scale-loud"]):
        assert classify(tmp_path / arguments[0], *arguments[1:], *options) == 0
        printed = capsys.readouterr()
        labels.append(json.loads(printed.out)[0]["labels"])
        assert ("loud.wav reaches 2, and samples" in printed.err) == (arguments == ["loud.wav"])
    assert labels[0] == labels[2] != labels[1]


class Stdin:
    def __init__(self, content, is_terminal=False):
        self.buffer = io.BytesIO(content)
        self.isatty = lambda: is_terminal


def test_a_dash_reads_a_sound_file_from_standard_input(capsys, checkpoint, sounds, monkeypatch):
    monkeypatch.setattr("sys.stdin", Stdin(Path(sounds[1]).read_bytes()))
    assert classify("-", "--checkpoint", checkpoint / "ours", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert results == [{"file": "-", "labels": ast_jax.load(checkpoint / "ours")(sounds[1])}]


@pytest.mark.parametrize(
    ("stdin", "complaint"),
    [
        (Stdin(b""), "-: standard input is empty; pipe a sound file into it"),
        (Stdin(b"", True), "-: standard input is a terminal; pipe a sound file into it"),
        (None, "-: standard input is a terminal; pipe a sound file into it"),
        (Stdin(b"no sound"), "-: the sound given as bytes cannot be read as audio"),
    ],
)
def test_unusable_standard_input_is_refused(refused, checkpoint, monkeypatch, stdin, complaint):
    monkeypatch.setattr("sys.stdin", stdin)
    assert refused("-", "--checkpoint", checkpoint / "ours").startswith(complaint)


def test_labels_do_not_depend_on_the_batch_size(capsys, checkpoint, sounds, tmp_path):
    write_bad_sounds(tmp_path)
    files = [*sounds, tmp_path / "cut.wav", *sounds, tmp_path / "short.wav", tmp_path / "good.wav"]
    printed = []
    for size in (1, 2, 100):
        options = ("--checkpoint", checkpoint / "ours", "--json", "--batch-size", size)
        assert classify(*files, *options) == 1
        printed.append(json.loads(capsys.readouterr().out))
    names = [str(file) for file in (*sounds, *sounds, tmp_path / "good.wav")]
    for results in printed:
        assert [result["file"] for result in results] == names
        for found, expected in zip(results, printed[0], strict=True):
            for label, other in zip(found["labels"], expected["labels"], strict=True):
                assert label["label"] == other["label"]
                assert label["score"] == pytest.approx(other["score"], rel=1e-5)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_output_holds_the_labels_of_every_file(capsys, checkpoint, sounds, tmp_path, suffix):
    output = tmp_path / "new" / f"labels{suffix}"
    write_bad_sounds(tmp_path)
    files = [sounds[0], tmp_path / "cut.wav", sounds[1]]
    options = ("--checkpoint", checkpoint / "ours", "--top-k", 2, "--output", output)
    assert classify(*files, *options) == 1
    printed = capsys.readouterr()
    assert printed.out == f"wrote the labels of 2 files to {output}\n"
    assert "cut.wav is truncated" in printed.err
    classifier = ast_jax.load(checkpoint / "ours")
    expected = [{"file": sound, "labels": classifier(sound, top_k=2)} for sound in sounds]
    text = output.read_text(encoding="utf-8")
    if suffix == ".jsonl":
        assert [json.loads(line) for line in text.splitlines()] == expected
    else:
        assert list(csv.DictReader(io.StringIO(text))) == [
            {"file": one["file"], "label": label["label"], "score": str(label["score"])}
            for one in expected
            for label in one["labels"]
        ]


def interrupted_after(monkeypatch, output):
    """Interrupts the command when it reads a long sound; returns the output's lines at that."""
    lines = []

    def interrupt(*arguments):
        lines.extend(output.read_text().splitlines())
        raise KeyboardInterrupt

    monkeypatch.setattr("ast_jax.cli.sound_files.note_length", interrupt)
    return lines


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_interrupted_command_continues_its_output(
    capsys, checkpoint, sounds, tmp_path, monkeypatch, suffix
):
    output, whole = tmp_path / f"labels{suffix}", tmp_path / f"whole{suffix}"
    long, bad = tmp_path / "long.wav", tmp_path / "bad.wav"
    soundfile.write(long, 0.1 * np.ones(48000), 16000)
    bad.write_bytes(b"no sound")
    files = [bad, *sounds, long, sounds[0]]
    options = ("--checkpoint", checkpoint / "ours", "--output")
    with monkeypatch.context() as patch:
        lines = interrupted_after(patch, output)
        assert classify(*files, *options, output) == 130
    assert len(lines) == {".csv": 9, ".jsonl": 2}[suffix]
    assert output.read_text().splitlines() == lines
    with output.open("a") as file:
        file.write("half of a li")
    capsys.readouterr()
    assert classify(*files, *options, output) == 1
    printed = capsys.readouterr()
    assert f"note: {output} is continued: it has 2 of 5 files\n" in printed.err
    assert printed.out == f"wrote the labels of 2 files to {output}\n"
    assert classify(*files, *options, whole) == 1
    assert output.read_text() == whole.read_text()
    assert not list(tmp_path.glob("*.progress"))


def test_an_output_that_cannot_be_written_is_refused(refused, sounds, tmp_path):
    for name, complaint in [
        ("a.wav", "exists already; choose another output or remove it first"),
        ("labels.txt", "ends in none of .csv, .jsonl; choose one of them"),
    ]:
        message = refused(*sounds, "--checkpoint", "none", "--output", tmp_path / name)
        assert message == f"{tmp_path / name}: {complaint}"
    message = refused(*sounds, "--checkpoint", "none", "--output", "x.csv", "--json")
    assert message == "--json prints what --output writes to x.csv; leave one out"


def test_a_full_disk_is_reported_with_the_outputs_name(refused, checkpoint, sounds, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    output = tmp_path / "labels.csv"

    def open_full(path, mode, **options):
        return open("/dev/full" if path == str(output) else path, mode, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ast_jax.cli.output_file.open", open_full, raising=False)
        message = refused(*sounds, "--checkpoint", checkpoint / "ours", "--output", output)
    assert message == f"{output}: No space left on device"
    assert not list(tmp_path.glob("labels.csv*"))


# ---- invalid sounds


def test_no_files_are_refused(refused):
    message = refused("--checkpoint", "none")
    assert message == "no sound files are given; name files, folders or -"


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
    "folder.wav": "has no sound files; passed over files that are no sound files: none",
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
