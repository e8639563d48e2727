import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from matplotlib import image

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface, write_original
from ast_jax.cli.main import main
from ast_jax.config import DataConfig, load_config
from ast_jax.data.prepared import open_prepared, read_prepared
from ast_jax.errors import InputError
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig
from ast_jax.training.loop import fit

CONFIG = ASTConfig(
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=32,
    max_length=128,
    num_labels=4,
    id2label={0: "rain", 1: "wind", 2: "café", 3: "owl"},
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with one checkpoint in each form."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: 0.1 * rng.standard_normal(a.shape, dtype=np.float32), param_shapes(CONFIG)
    )
    folder = tmp_path_factory.mktemp("checkpoints")
    whole = Checkpoint(CONFIG, ASTFeatureExtractor(max_length=128), params)
    save_checkpoint(folder / "ours", whole)
    write_huggingface(folder / "huggingface", whole)
    shutil.copy(folder / "huggingface" / "model.safetensors", folder / "x.safetensors")
    return folder


@pytest.fixture(scope="module")
def pth(checkpoint):
    pytest.importorskip("torch")
    path = checkpoint / "x.pth"
    write_original(path, ast_jax.checkpoint.format.load_checkpoint(checkpoint / "ours"))
    return path


@pytest.fixture
def sounds(tmp_path):
    """Two sounds that can be heard."""
    rng = np.random.default_rng(1)
    for name, rate in [("a.wav", 16000), ("b.flac", 44100)]:
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(rate), rate)
    return [str(tmp_path / "a.wav"), str(tmp_path / "b.flac")]


def classify(*arguments):
    return main(["classify", *map(str, arguments)])


@pytest.fixture
def refused(capsys):
    """Classifies in vain; returns the one sentence that says why."""

    def run(*arguments):
        assert classify(*arguments) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("ast-jax: ")
        return line.removeprefix("ast-jax: ")

    return run


# ---- what it prints


def test_it_prints_the_best_labels_of_every_file(capsys, checkpoint, sounds):
    assert classify(*sounds, "--checkpoint", checkpoint / "ours", "--top-k", 2) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [lines[0], lines[3], len(lines)] == [*sounds, 6]
    for line in (*lines[1:3], *lines[4:]):
        assert re.fullmatch(r"  +\d+\.\d%  (rain|wind|café|owl)", line)
    assert printed.err == ""


def test_json_is_valid_and_says_what_python_says(capsys, checkpoint, sounds):
    assert classify(*sounds, "--checkpoint", checkpoint / "ours", "--json") == 0
    results = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    classifier = ast_jax.load(checkpoint / "ours")
    assert results == [{"file": sound, "labels": classifier(sound)} for sound in sounds]
    assert {label["label"] for label in results[0]["labels"]} == {"rain", "wind", "café", "owl"}


@pytest.mark.parametrize("name", ["ours", "huggingface", "x.safetensors"])
def test_every_form_of_a_checkpoint_will_do(capsys, checkpoint, sounds, name):
    assert classify(sounds[0], "--checkpoint", checkpoint / name, "--json") == 0
    ((result,),) = [json.loads(capsys.readouterr().out)]
    scores = sorted(label["score"] for label in result["labels"])
    expected = ast_jax.load(checkpoint / "ours")(sounds[0])
    np.testing.assert_allclose(scores, sorted(x["score"] for x in expected), rtol=1e-4)


def test_a_pth_will_do(capsys, pth, sounds):
    assert classify(sounds[0], "--checkpoint", pth) == 0
    assert "LABEL_" in capsys.readouterr().out


def test_a_clip_longer_than_the_model_hears_gets_a_note(capsys, checkpoint, tmp_path):
    soundfile.write(tmp_path / "long.wav", 0.1 * np.ones(48000), 16000)
    assert classify(tmp_path / "long.wav", "--checkpoint", checkpoint / "ours") == 0
    assert capsys.readouterr().err == (
        f"note: {tmp_path / 'long.wav'} lasts 3.0 s; the model hears the first 1.3 s\n"
    )


# ---- sounds that cannot be used


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


def test_bad_sounds_do_not_stop_the_good_one_and_json_stays_valid(capsys, checkpoint, tmp_path):
    write_bad_sounds(tmp_path)
    files = [*(tmp_path / name for name in BAD_SOUNDS), tmp_path / "good.wav"]
    assert classify(*files, "--checkpoint", checkpoint / "ours", "--json") == 1
    printed = capsys.readouterr()
    (result,) = json.loads(printed.out)
    assert result["file"] == str(tmp_path / "good.wav")
    assert len(printed.err.splitlines()) == len(BAD_SOUNDS)


def test_a_bad_sound_alone_gives_an_empty_json_list(capsys, checkpoint, tmp_path):
    assert classify(tmp_path / "none", "--checkpoint", checkpoint / "ours", "--json") == 1
    assert json.loads(capsys.readouterr().out) == []


def test_a_path_written_otherwise_is_not_named_twice(capsys, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert classify(".//none.wav", "--checkpoint", checkpoint / "ours") == 1
    assert capsys.readouterr().err.count("none.wav") == 1


# ---- checkpoints that cannot be used


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
        f"{tmp_path}: no checkpoint, as it holds neither a checkpoint of ours nor "
    )


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_files_are_refused(refused, checkpoint, pth, sounds, tmp_path, share):
    for source in (pth, checkpoint / "x.safetensors"):
        path = shutil.copy(source, tmp_path / source.name)
        os.truncate(path, int(path.stat().st_size * share))
        assert refused(sounds[0], "--checkpoint", path).startswith(f"{path}: not a whole ")


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


# ---- the command itself


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["classify"],
        ["classify", "x.wav"],
        ["classify", "x.wav", "--checkpoint", "y", "--top-k", "0"],
        ["classify", "x.wav", "--checkpoint", "y", "--top-k", "many"],
        ["clasify", "x.wav", "--checkpoint", "y"],
    ],
)
def test_arguments_that_cannot_be_are_refused_with_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ast-jax")


def run_command(*arguments, **options):
    command = [sys.executable, "-m", "ast_jax.cli.main", *map(str, arguments)]
    root = Path(__file__).parent.parent
    return subprocess.run(command, check=False, cwd=root, **options)


def test_as_a_command_it_refuses_a_damaged_checkpoint_in_one_sentence(checkpoint, sounds, tmp_path):
    path = shutil.copytree(checkpoint / "ours", tmp_path / "cut")
    largest = max((path / "params").rglob("*"), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    run = run_command("classify", sounds[0], "--checkpoint", path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"ast-jax: {path / 'params'}: damaged or incomplete (")


def test_as_a_command_it_prints_any_file_name_and_bears_a_closed_pipe(checkpoint, tmp_path):
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


# ---- data sets


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two classes of short clips, one of them damaged."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for label in ("bark", "meow"):
        (folder / label).mkdir()
        for i in range(6):
            waveform = 0.1 * rng.standard_normal(8000)
            soundfile.write(folder / label / f"{i}.wav", waveform, 8000)
    (folder / "meow" / "broken.wav").write_bytes(b"RIFF and no more")
    return folder


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    """What `ast-jax prepare` makes of them."""
    output = tmp_path_factory.mktemp("prepared")
    arguments = ["folder", "--source", source, "--output", output, "--max-damaged", 1]
    assert main(["prepare", *map(str, arguments), "--processes", "1"]) == 0
    return output


def test_prepare_says_what_it_wrote_and_left_out(source, tmp_path, capsys):
    arguments = ["folder", "--source", source, "--output", tmp_path, "--processes", 1]
    assert main(["prepare", *map(str, arguments)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken.wav" in line
    assert line.endswith("--max-damaged is 0 and 1 cannot be used")
    assert not list(tmp_path.glob("*/1*"))
    assert main(["prepare", *map(str, arguments), "--max-damaged", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [re.fullmatch(r"(train|test): (\d+) clips", line) for line in lines[:2]]
    assert sum(int(match[2]) for match in counts) == 12
    assert "broken.wav" in lines[2]
    assert lines[3].startswith(f"wrote {tmp_path / 'folder' / '1.0.0'}, of digest ")
    assert main(["prepare", *map(str, arguments)]) == 1
    assert "exists; remove it or choose another --output" in capsys.readouterr().err


def test_stats_prints_a_table_and_training_takes_its_values(prepared, capsys):
    arguments = [str(prepared), "--num-mel-bins", "32", "--processes", "1"]
    assert main(["stats", *arguments]) == 0
    printed = capsys.readouterr().out
    mean = float(re.search(r"log-mel mean\W+(-\d+\.\d{7})", printed)[1])
    assert re.search(r"classes\W+2, 0 of them without clips", printed)
    data = read_prepared(open_prepared(prepared), 16000, "", "", 1)
    assert data.statistics[32][0] == pytest.approx(mean, abs=1e-6)
    assert main(["stats", *arguments, "--padded-to", "100"]) == 0
    padded = re.search(r"--config.frontend.mean=(-\d+\.\d{7})", capsys.readouterr().out)[1]
    assert float(padded) > mean  # half of each input is zeros


def test_stats_are_of_the_split_to_train_on_where_there_are_three(source, tmp_path, capsys):
    splits = ["train", "validation", "test"]
    rows = [f"{source}/bark/{i}.wav,bark,{split}" for i, split in enumerate(splits)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,labels,split", *rows]))
    output = tmp_path / "prepared"
    arguments = ["csv", "--source", str(tmp_path), "--output", str(output), "--processes", "1"]
    assert main(["prepare", *arguments]) == 0
    assert main(["stats", str(output), "--num-mel-bins", "32", "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "csv, train" in printed
    assert re.search(r"clips\W+1\b", printed)


def test_show_draws_a_batch_of_a_prepared_set(prepared, tmp_path, capsys):
    config = str(Path(__file__).parent.parent / "configs" / "demo.py")
    changes = ["data.kind=prepared", f"data.dir={prepared}", "batch_size=4"]
    assert main(["show", config, *changes, "--output", str(tmp_path / "a.png")]) == 0
    assert image.imread(tmp_path / "a.png").shape[0] > 400
    assert main(["show", config, "batch_sise=4", "--output", str(tmp_path / "b.png")]) == 1
    assert "no field 'batch_sise'; did you mean batch_size?" in capsys.readouterr().err
    assert main(["show", config, "--output", str(tmp_path / "b.jpg")]) == 1
    assert "let it end in .png" in capsys.readouterr().err


def test_a_run_trains_on_a_prepared_set_with_workers_and_the_device_frontend(prepared, tmp_path):
    config = load_config(Path(__file__).parent.parent / "configs" / "demo.py")
    config.workdir = str(tmp_path / "run")
    config.data = DataConfig(
        kind="prepared", dir=str(prepared), workers=1, balanced=True, train="train"
    )
    config.frontend.on_device = True
    config.augment.mixup = 0.5
    config.optimizer.warmup_steps = 0
    config.batch_size, config.num_epochs = 8, 2
    assert np.isfinite(fit(config).loss)
    assert ast_jax.load(tmp_path / "run").labels == ["bark", "meow"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "esc50"}, "does not hold a prepared set 'esc50'"),
        ({"digest": "0" * 64}, "was made from a source of digest"),
        ({"train": "balanced"}, "has no split 'balanced'; it has train, test"),
        ({"evaluation": "train"}, "no split may be both"),
    ],
)
def test_a_set_that_is_not_the_configurations_is_refused_before_training(
    prepared, tmp_path, change, said
):
    config = load_config(Path(__file__).parent.parent / "configs" / "demo.py")
    config.workdir = str(tmp_path / "run")
    config.data = DataConfig(kind="prepared", dir=str(prepared), **change)
    config.batch_size = 8
    with pytest.raises(InputError, match=said):
        fit(config)
    assert not list(tmp_path.iterdir())


# ---- evaluation


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints of the prepared set's classes, with two strides and lengths."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(2)
    fields = {"num_labels": 2, "id2label": {0: "meow", 1: "bark"}}
    other = {"max_length": 64, "time_stride": 8, "id2label": {0: "bark", 1: "meow"}}
    for name, changes in {"a": {}, "b": other, "unnamed": {"id2label": None}}.items():
        config = CONFIG.replace(**fields | changes)
        params = jax.tree.map(
            lambda a: 0.1 * rng.standard_normal(a.shape, dtype=np.float32), param_shapes(config)
        )
        extractor = ASTFeatureExtractor(max_length=config.max_length)
        save_checkpoint(folder / name, Checkpoint(config, extractor, params))
    return folder


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def test_evaluate_prints_a_table_and_writes_what_it_found(models, prepared, tmp_path, capsys):
    arguments = [models / "a", models / "b", "--data", prepared, "--split", "train+test"]
    assert evaluate(*arguments, "--output", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "train+test: 12 clips" in " ".join(printed.out.split())
    assert printed.out.splitlines()[-1] == f"wrote {tmp_path / 'out'}"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["clips"] == 12
    for scores in (*results["checkpoints"], results["ensemble"]):
        figures = [f"{scores['mean_average_precision']:.4f}", f"{scores['accuracy']:.2%}"]
        assert any(all(figure in line for figure in figures) for line in printed.out.splitlines())

    # The same by hand, from each clip's own classification.
    clips = open_prepared(prepared).clips("train+test")
    expected = []
    for name in ("a", "b"):
        classifier = ast_jax.load(models / name)
        heard = [classifier(wave / np.float32(32768), 2, 16000) for wave in clips.waveforms]
        expected.append([[p for _, p in sorted(map(_pair, labels))] for labels in heard])
    with np.load(tmp_path / "out" / "predictions.npz") as arrays:
        np.testing.assert_allclose(arrays["probabilities"], expected, atol=1e-5)
        assert arrays["labels"].tolist() == ["bark", "meow"]
    right = np.mean(expected, axis=0).argmax(axis=1) == clips.all_targets().argmax(axis=1)
    assert results["ensemble"]["accuracy"] == pytest.approx(right.mean())


def _pair(label):
    return label["label"], label["score"]


def test_evaluate_prints_valid_json_and_takes_the_split_held_out(models, prepared, capsys):
    assert evaluate(models / "a", "--data", prepared, "--json", "--on-device") == 0
    results = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (results["split"], results["classes"], results["ensemble"]) == ("test", 2, None)
    assert results["checkpoints"][0]["checkpoint"] == str(models / "a")


def test_evaluate_notes_a_checkpoint_that_does_not_name_its_classes(models, prepared, capsys):
    assert evaluate(models / "unnamed", "--data", prepared) == 0
    assert capsys.readouterr().err == (
        f"note: {models / 'unnamed'} does not name its classes; they are taken in the data's "
        f"order\n"
    )


@pytest.mark.parametrize(
    ("names", "flags", "said"),
    [
        (["a"], ["--output", "{tmp}"], "{tmp}: exists already; choose another output or"),
        (["a"], ["--split", "eval"], "{data}/folder/1.0.0: has no split 'eval'; it has train, "),
        (["a"], ["--name", "esc50"], "{data}: does not hold a prepared set 'esc50'; make one"),
        (["none"], [], "{models}/none: no such file or folder; give the path of a checkpoint"),
        (["a", "a"], [], "a checkpoint is given twice; give each of them once"),
    ],
)
def test_evaluate_says_in_one_sentence_why_it_cannot(
    models, prepared, tmp_path, capsys, names, flags, said
):
    paths = {"tmp": tmp_path, "data": prepared, "models": models}
    flags = [flag.format(**paths) for flag in flags]
    assert evaluate(*(models / name for name in names), "--data", prepared, *flags) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"ast-jax: {said.format(**paths)}")
    assert printed.out == ""


def test_evaluate_refuses_another_sets_classes_and_leaves_nothing(
    checkpoint, prepared, tmp_path, capsys
):
    output = tmp_path / "new" / "out"
    assert evaluate(checkpoint / "ours", "--data", prepared, "--output", output) == 1
    assert capsys.readouterr().err == (
        f"ast-jax: {checkpoint / 'ours'}: has no class 'bark', and the data has; give a "
        f"checkpoint and data of the same classes\n"
    )
    assert not list(tmp_path.iterdir())
