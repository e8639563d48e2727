import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ast_jax
from ast_jax.cli.main import main
from ast_jax.npz import read_npz


@pytest.fixture
def explain(checkpoint, tmp_path, monkeypatch):
    """Returns a function that runs the command in an empty folder with our checkpoint."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments):
        return main(["explain", *map(str, arguments), "--checkpoint", str(checkpoint / "ours")])

    return run


def written():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_writes_a_picture_and_arrays_of_each_file(explain, capsys, sounds, checkpoint):
    assert explain(*sounds, "--output", "maps", "--labels", "owl", "rain") == 0
    names = ["a.relevance.npz", "a.relevance.png", "b.relevance.npz", "b.relevance.png"]
    assert written() == [f"maps/{name}" for name in names]
    classifier = ast_jax.load(checkpoint / "ours")
    expected = classifier.explain(sounds[1], ["owl", "rain"])
    np.testing.assert_allclose(read_npz("maps/b.relevance.npz")["maps"], expected.maps, rtol=1e-5)
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[5]] == sounds
    assert lines[1:5] == [
        f"  {expected_score(classifier, sounds[0], 'owl'):6.1%}  owl",
        f"  {expected_score(classifier, sounds[0], 'rain'):6.1%}  rain",
        "  wrote maps/a.relevance.png",
        "  wrote maps/a.relevance.npz",
    ]


def expected_score(classifier, sound, label):
    return {each["label"]: each["score"] for each in classifier(sound)}[label]


def test_writes_one_file_or_into_the_current_folder(explain, sounds, monkeypatch):
    assert explain(sounds[0], "--method", "rollout", "--output", "new/x.NPZ") == 0
    assert written() == ["new/x.NPZ"]
    shutil.rmtree("new")
    stdin = io.TextIOWrapper(io.BytesIO(Path(sounds[0]).read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert explain("-", "--method", "rollout", "--top-k", 1) == 0
    assert written() == ["standard_input.rollout.npz", "standard_input.rollout.png"]


def test_a_file_that_cannot_be_read_does_not_stop_the_others(explain, capsys, sounds, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF and no more")
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16000)
    files = [tmp_path / "none.wav", tmp_path / "bad.wav", tmp_path / "short.wav", sounds[0]]
    assert explain(*files, "--method", "heads") == 1
    assert written() == ["a.heads.npz", "a.heads.png"]
    lines = capsys.readouterr().err.splitlines()
    assert [
        line.startswith(f"ast-jax: {file}") for line, file in zip(lines, files[:3], strict=True)
    ]


def test_a_long_file_gets_a_note(explain, capsys, tmp_path):
    soundfile.write(tmp_path / "long.wav", 0.1 * np.ones(48000), 16000)
    assert explain(tmp_path / "long.wav", "--method", "rollout", "--output", "x.npz") == 0
    assert capsys.readouterr().err == (
        f"note: {tmp_path / 'long.wav'} lasts 3.0 s; the model uses the first 1.3 s: cut the part "
        f"to explain into a file of its own\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no sound files are given; name files, folders or -"),
        (["a.wav", "--labels", "ovl"], "the model has no class 'ovl'; did you mean owl?"),
        (
            ["a.wav", "--labels", "owl", "--top-k", "1"],
            "--labels and --top-k are both given; leave one of them out",
        ),
        (["a.wav", "a.wav"], "two files are named 'a', and so would be their pictures; "
         "explain them one by one, each with another --output"),
        (["a.wav", "b/a.flac"], "two files are named 'a', and so would be their pictures; "
         "explain them one by one, each with another --output"),
        (["a.wav", "b.wav", "--output", "x.png"],
         "x.png: is one file and there are 2 sounds; give a folder"),
        (["a.wav", "--output", "old.png"],
         "old.png: exists already; choose another output or remove it first"),
        (["old.wav", "--method", "rollout"],
         "old.rollout.npz: exists already; choose another output or remove it first"),
    ],
)  # fmt: skip
def test_unusable_arguments_are_refused_before_any_sound_is_read(
    explain, capsys, arguments, message
):
    for name in ("old.png", "old.rollout.npz"):
        Path(name).touch()
    assert explain(*arguments) == 1
    assert capsys.readouterr().err == f"ast-jax: {message}\n"
    assert written() == ["old.png", "old.rollout.npz"]
