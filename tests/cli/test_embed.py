import json
import shutil

import numpy as np
import pytest
import soundfile
from raw_sets import write_esc50

import ast_jax
from ast_jax.cli.main import main
from ast_jax.data.prepared import open_prepared
from ast_jax.inference import embedding_parts


def embed(*arguments):
    return main(["embed", *map(str, arguments)])


def load(path):
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of four sounds and a file that is none."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(1)
    for name, seconds in [("a.wav", 1), ("b/c.flac", 0.5), ("d.wav", 2.95), ("e.wav", 1.2)]:
        (folder / name).parent.mkdir(exist_ok=True)
        samples = 0.1 * rng.standard_normal(int(16000 * seconds))
        soundfile.write(folder / name, samples, 16000, subtype="PCM_16")
    (folder / "broken.wav").write_bytes(b"RIFF and no more")
    return folder


NAMES = ["a.wav", "b/c.flac", "d.wav", "e.wav"]


def test_a_folder_is_embedded_as_by_the_python_api(checkpoint, folder, tmp_path, capsys):
    model = checkpoint / "ours"
    output = tmp_path / "x.npz"
    assert embed(folder, "--checkpoint", model, "--output", output, "--batch-size", 3) == 1
    printed = capsys.readouterr()
    assert printed.out == f"wrote 4 embeddings of 4 recordings to {output}\n"
    lines = printed.err.splitlines()
    assert lines[0].startswith(f"ast-jax: {folder / 'broken.wav'} cannot be read")
    assert lines[1].startswith(f"note: {folder / 'd.wav'} lasts 3.0 s; the model uses the first 1")
    assert len(lines) == 2
    found = load(output)
    assert found.keys() == {"file", "embedding", "about"}
    assert found["file"].tolist() == [str(folder / name) for name in NAMES]
    expected = ast_jax.load(model).embed([folder / name for name in NAMES])
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
    about = json.loads(str(found["about"]))
    assert (about["pooling"], about["layer"], about["source"]) == ("pooled", None, str(model))
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_windows_are_rows_with_times(checkpoint, folder, tmp_path, capsys):
    output = tmp_path / "x.npz"
    arguments = [folder / "d.wav", folder / "b", folder / "broken.wav", "--window", 1, "--hop", 0.5]
    arguments += ["--pooling", "mean", "--layer", -1, "--checkpoint", checkpoint / "ours"]
    assert embed(*arguments, "--output", output) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    found = load(output)
    assert found["file"].tolist() == [str(folder / "d.wav")] * 5 + [str(folder / "b" / "c.flac")]
    np.testing.assert_allclose(found["start"], [0, 0.5, 1, 1.5, 2, 0])
    np.testing.assert_allclose(found["end"], [1, 1.5, 2, 2.5, 2.95, 0.5])
    waveform = ast_jax.load_audio(folder / "d.wav")
    clips = [waveform[i : i + 16000] for i in range(0, 32001, 8000)]
    classifier = ast_jax.load(checkpoint / "ours")
    expected = classifier.embed(clips, "mean", 1, sampling_rate=16000)
    np.testing.assert_allclose(found["embedding"][:5], expected, atol=1e-5)


def test_a_prepared_set_has_ids_labels_and_splits(checkpoint, prepared, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    arguments = [prepared, "--checkpoint", checkpoint / "ours", "--pooling", "patches", "--output"]
    assert embed(*arguments, tmp_path / "x.parquet", "--split", "test+train") == 0
    table = pq.read_table(tmp_path / "x.parquet")
    clips = open_prepared(prepared).clips("test+train")
    assert table["file"].to_pylist() == clips.names.tolist()
    assert table["split"].to_pylist() == ["test"] * 2 + ["train"] * 10
    assert table["labels"].to_pylist() == [[name.split("/")[0]] for name in clips.names]
    sounds = [{"array": waveform, "sampling_rate": 16000} for waveform in clips.waveforms]
    expected = ast_jax.load(checkpoint / "ours").embed(sounds, "patches")
    found = np.array(table["embedding"].to_pylist()).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_folders_of_esc50_have_folds_and_classes(checkpoint, tmp_path, capsys):
    output = tmp_path / "x.npz"
    (tmp_path / "esc").mkdir()
    write_esc50(tmp_path / "esc", np.random.default_rng(0))
    (tmp_path / "esc" / "audio" / "3-1-A-0.wav").unlink()
    chosen = ["--split", "fold3+fold1"]
    model = checkpoint / "ours"
    assert embed(tmp_path / "esc", *chosen, "--checkpoint", model, "--output", output) == 0
    assert "note: 1 listed clips are missing: " in capsys.readouterr().err
    found = load(output)
    assert found["file"].tolist() == ["3-1-A-10.wav", "1-1-A-0.wav", "1-1-A-10.wav"]
    assert found["split"].tolist() == ["fold3", "fold1", "fold1"]
    assert found["classes"].tolist() == ["dog", "rain"]
    assert found["targets"].tolist() == [[False, True], [True, False], [False, True]]


@pytest.mark.parametrize("windows", [[], ["--window", "1"]], ids=["whole", "windows"])
def test_an_interrupted_run_goes_on_with_the_same_command(
    checkpoint, folder, tmp_path, capsys, monkeypatch, windows
):
    monkeypatch.setattr(embedding_parts, "PART_SECONDS", 0)
    base = [folder, "--checkpoint", checkpoint / "ours", "--batch-size", 1, *windows]
    assert embed(*base, "--output", tmp_path / "whole.npz") == 1
    whole = capsys.readouterr()
    arguments = [*base, "--output", tmp_path / "x.npz"]
    add = embedding_parts.EmbeddingParts.add

    def interrupt(self, file, *row):
        if file == 4:
            raise KeyboardInterrupt
        add(self, file, *row)

    with monkeypatch.context() as patch:
        patch.setattr(embedding_parts.EmbeddingParts, "add", interrupt)
        assert embed(*arguments) == 130
    parts = tmp_path / "x.npz.parts"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"ast-jax: stopped; run the same command again to go on from {parts}"
    )
    assert not (tmp_path / "x.npz").exists()
    assert embed(*arguments, "--pooling", "cls") == 1
    assert "that differs in its pooling; repeat its command" in capsys.readouterr().err
    assert embed(*arguments) == 1
    resumed = capsys.readouterr()
    assert resumed.out == whole.out.replace("whole.npz", "x.npz")
    assert resumed.err.splitlines()[:2] == [
        f"note: 3 of 5 recordings are finished in {parts}; going on",
        f"ast-jax: {folder / 'broken.wav'}: could not be used, or not to its end",
    ]
    first, second = load(tmp_path / "whole.npz"), load(tmp_path / "x.npz")
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert not parts.exists()


def test_changed_files_and_checkpoints_are_another_run(
    checkpoint, folder, tmp_path, capsys, monkeypatch, pth
):
    monkeypatch.setattr(embedding_parts, "PART_SECONDS", 0)
    shutil.copytree(folder, tmp_path / "sounds")
    arguments = [tmp_path / "sounds", "--output", tmp_path / "x.npz", "--checkpoint"]
    with monkeypatch.context() as patch:
        patch.setattr("ast_jax.inference.embedding_files.write_table", _interrupt)
        assert embed(*arguments, checkpoint / "ours") == 130
    capsys.readouterr()
    assert embed(*arguments, pth) == 1  # its classes have no names
    assert "that differs in its checkpoint; repeat its command" in capsys.readouterr().err
    (tmp_path / "sounds" / "e.wav").touch()
    assert embed(*arguments, checkpoint / "ours") == 1
    assert "that differs in its recordings; repeat its command" in capsys.readouterr().err


def _interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recordings are given; name files, folders or a prepared set"),
        (["-"], "standard input cannot be read again to resume; give sound files"),
        (["{tmp}/empty"], "there are no sound files; name files or folders that have some"),
        (["{tmp}/none.wav"], "none of the 1 recordings can be used"),
        (["a.wav", "--output", "{tmp}/x.csv"], "{tmp}/x.csv: ends in none of .npz, .parquet, .za"),
        (["a.wav", "--output", "{tmp}/empty"], "{tmp}/empty: exists already; choose another"),
        (["a.wav", "--layer", "2"], "layer is 2; give one from 0 (the patch embeddings) to 1"),
        (["a.wav", "--split", "test"], "--split is for one folder of a data set; leave it out"),
        (["{data}", "--split", "dev"], "{data}/folder/1.0.0: has no split 'dev'; it has train, "),
        (["a.wav", "--window", "9"], "window is 9 s and the model's input has "),
        (["a.wav", "--hop", "0"], "hop is 0.0: give a positive number of seconds"),
    ],
)
def test_unusable_input_is_refused_and_leaves_nothing(
    checkpoint, prepared, tmp_path, capsys, arguments, message
):
    (tmp_path / "empty").mkdir()
    paths = {"tmp": tmp_path, "data": prepared}
    arguments = [argument.format(**paths) for argument in arguments]
    if "--output" not in arguments:
        arguments += ["--output", tmp_path / "new" / "x.npz"]
    assert embed(*arguments, "--checkpoint", checkpoint / "ours") == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith(f"ast-jax: {message.format(**paths)}")
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
