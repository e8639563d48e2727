"""Tests `convert_torch_weights.py`, in this process and as a command."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, load_checkpoint, save_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.cli.main import main
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig

torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).parent.parent.parent / "convert_torch_weights.py"


@pytest.fixture
def convert(capsys):
    """Returns a function that runs the command, asserts success and returns the output."""

    def run(*argv):
        assert main(["convert", *map(str, argv)]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        assert printed.out.splitlines()[-1] == f"wrote {argv[1]}"
        return printed.out

    return run


@pytest.fixture
def refused(capsys, tmp_path):
    """Returns a function that runs the command, which must fail, and returns its message.

    The command must not change any file.
    """

    def run(*argv):
        before = sorted(tmp_path.rglob("*"))
        assert main(["convert", *map(str, argv)]) == 1
        printed = capsys.readouterr()
        (line,) = printed.err.splitlines()
        assert line.startswith("ast-jax: ")
        assert not line.endswith(".")
        assert "wrote" not in printed.out
        assert sorted(tmp_path.rglob("*")) == before
        return line.removeprefix("ast-jax: ")

    return run


@pytest.fixture
def ours(tmp_path, small_checkpoint):
    save_checkpoint(tmp_path / "ours", small_checkpoint)
    return tmp_path / "ours"


def assert_params_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# ---- from PyTorch


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_original_file_becomes_a_checkpoint(
    convert, original_tensors, save_torch, small_checkpoint, tmp_path, prefix
):
    source = save_torch(original_tensors(), tmp_path / "x.pth", prefix)
    printed = convert(source, tmp_path / "out")
    config, _, params = load_checkpoint(tmp_path / "out")
    assert config == small_checkpoint.config.replace(id2label=None)
    assert_params_equal(params, small_checkpoint.params)
    assert "inferred: hidden_size 64, num_hidden_layers 2" in printed
    assert "ignored tensors: v.head.weight, v.head.bias, v.head_dist.weight" in printed


@pytest.mark.parametrize("names", ["in files", "in memory"])
def test_a_hugging_face_folder_becomes_a_checkpoint(
    convert, small_checkpoint, capsys, tmp_path, names
):
    transformers = pytest.importorskip("transformers")
    write_huggingface(tmp_path / "hf", small_checkpoint)
    if names == "in memory":
        model = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "hf")
        torch.save(model.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
        (tmp_path / "hf" / "model.safetensors").unlink()
        capsys.readouterr()  # discards their progress bar
    convert(tmp_path / "hf", tmp_path / "out")
    config, extractor, params = load_checkpoint(tmp_path / "out")
    assert (config, extractor) == small_checkpoint[:2]
    assert_params_equal(params, small_checkpoint.params)


def test_a_single_safetensors_becomes_a_checkpoint(convert, small_checkpoint, tmp_path):
    write_huggingface(tmp_path / "hf", small_checkpoint)
    (tmp_path / "hf" / "model.safetensors").rename(tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "out", "--mean=-3", "--std=2")
    config, extractor, params = load_checkpoint(tmp_path / "out")
    assert config.labels == [f"LABEL_{i}" for i in range(5)]
    assert extractor == small_checkpoint.feature_extractor
    assert_params_equal(params, small_checkpoint.params)


def test_a_deit_becomes_a_checkpoint_for_training(convert, deit_tensors, save_torch, tmp_path):
    source = save_torch(deit_tensors(), tmp_path / "deit.pth", wrap="model")
    printed = convert(source, tmp_path / "out", "--max-length=256", "--time-stride=16")
    config, extractor, params = load_checkpoint(tmp_path / "out")
    assert (config.max_length, extractor.max_length, config.grid) == (256, 256, (12, 16))
    assert "classifier" not in params
    assert "it has no classifier" in printed
    assert "time_stride 16, max_length 256" in printed


def test_a_deit_can_be_given_a_head(convert, deit_tensors, save_torch, tmp_path):
    source = save_torch(deit_tensors(), tmp_path / "deit.pth", wrap="model")
    printed = convert(source, tmp_path / "out", "--max-length=128", "--num-labels=7")
    params = load_checkpoint(tmp_path / "out").params
    assert params["classifier"]["dense"]["kernel"].shape == (64, 7)
    assert "a new classifier of 7 classes, untrained" in printed


def test_flags_set_what_the_tensors_do_not_record(
    convert, refused, original_tensors, save_torch, tmp_path
):
    source = save_torch(original_tensors(patches=64), tmp_path / "x.pth")
    message = refused(source, tmp_path / "out")
    assert message.startswith(f"{source}: 64 patches match several inputs")
    convert(source, tmp_path / "out", "--time-stride=16", "--max-length=128")
    config = load_checkpoint(tmp_path / "out").config
    assert (config.frequency_stride, config.time_stride, config.max_length) == (16, 16, 128)


# ---- to PyTorch


def test_to_torch_and_back_is_exact(convert, original_tensors, save_torch, tmp_path):
    tensors = original_tensors(imagenet_heads=False)
    source = save_torch(tensors, tmp_path / "x.pth", prefix="module.")
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "y.pth", "--to-torch")
    again = torch.load(tmp_path / "y.pth", weights_only=True)
    assert set(again) == {f"module.{name}" for name in tensors}
    for name, tensor in tensors.items():
        assert again[f"module.{name}"].numpy().tobytes() == tensor.tobytes(), name


def test_to_hugging_face_and_back_is_exact(convert, ours, tmp_path):
    convert(ours, tmp_path / "hf", "--to-huggingface")
    convert(tmp_path / "hf", tmp_path / "again")
    before, after = load_checkpoint(ours), load_checkpoint(tmp_path / "again")
    assert before[:2] == after[:2]
    assert_params_equal(before.params, after.params)


def test_a_file_converts_directly_between_both_formats(
    convert, original_tensors, save_torch, tmp_path
):
    source = save_torch(original_tensors(), tmp_path / "x.pth", prefix="module.")
    convert(source, tmp_path / "hf", "--to-huggingface")
    convert(tmp_path / "hf", tmp_path / "y.pth", "--to-torch")
    before, after = torch.load(source), torch.load(tmp_path / "y.pth")
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name


def test_the_newest_checkpoint_of_a_run_is_converted(convert, ours, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    ours.rename(tmp_path / "run" / "checkpoints" / "120")
    convert(tmp_path / "run", tmp_path / "hf", "--to-huggingface")
    assert (tmp_path / "hf" / "model.safetensors").is_file()


def test_missing_parent_folders_of_the_output_are_created(convert, ours, tmp_path):
    convert(ours, tmp_path / "a" / "b" / "x.pth", "--to-torch")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x.pth"]


# ---- invalid input


TARGETS = [[], ["--to-torch"], ["--to-huggingface"]]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_an_existing_output_is_refused_and_kept(refused, ours, tmp_path, target, kind):
    output = tmp_path / "out"
    if kind == "file":
        output.write_text("precious")
    elif kind == "folder":
        output.mkdir()
        (output / "precious").write_text("precious")
    else:
        output.symlink_to(tmp_path / "nowhere")
    message = refused(ours, output, *target)
    assert message == f"{output}: exists already; choose another output or remove it first"
    if kind == "file":
        assert output.read_text() == "precious"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("below", ["out", "deeper/out"])
def test_an_output_below_a_file_is_refused(refused, ours, tmp_path, target, below):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / below
    message = refused(ours, output, *target)
    assert message.startswith(f"{output}: cannot be written (")


@pytest.mark.parametrize("target", TARGETS)
def test_an_output_with_too_long_a_name_is_refused(refused, ours, tmp_path, target):
    assert "File name too long" in refused(ours, tmp_path / ("x" * 300), *target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_write_that_fails_at_the_end_leaves_nothing(refused, ours, tmp_path, target, monkeypatch):
    def replace(source, target):
        raise OSError(28, "No space left on device", str(source))

    monkeypatch.setattr(os, "replace", replace)
    output = tmp_path / "new" / "out"
    assert refused(ours, output, *target) == (
        f"{output}: cannot be written (No space left on device); free some space or choose "
        f"another output"
    )


@pytest.mark.parametrize("target", TARGETS)
def test_a_full_disk_leaves_nothing(ours, tmp_path, target):
    # A limit on the file size makes a write fail in the middle, like a full disk.
    code = (
        "import resource, sys; from ast_jax.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "convert", str(ours), str(tmp_path / "out"), *target]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parent)
    assert run.returncode == 1
    # TensorStore may print from threads of its own.
    sentence = f"ast-jax: {tmp_path / 'out'}: cannot be written ("
    assert any(line.startswith(sentence) for line in run.stderr.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_missing_source_is_refused(refused, tmp_path):
    message = refused(tmp_path / "none.pth", tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'none.pth'}: no such file or folder; ")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_source_is_refused(
    refused, original_tensors, save_torch, tmp_path, name, share
):
    source = tmp_path / name
    save = save_file if name == "x.safetensors" else save_torch
    save(original_tensors(), source)
    os.truncate(source, int(source.stat().st_size * share))
    assert refused(source, tmp_path / "out").startswith(f"{source}: not a complete ")


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_code_in_a_checkpoint_does_not_run(refused, original_tensors, tmp_path):
    content = {name: torch.from_numpy(t) for name, t in original_tensors().items()}
    torch.save(content | {"v.norm.bias": Malicious(tmp_path / "touched")}, tmp_path / "x.pth")
    message = refused(tmp_path / "x.pth", tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'x.pth'}: holds more than tensors (pickled code")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("v.blocks.1.norm2.bias", None, "is missing"),
        ("v.cls_token", None, "is missing"),
        ("mlp_head.0.bias", None, "is missing"),
        ("v.blocks.7.norm2.bias", np.zeros(64), "v.blocks.2.norm1.weight is missing"),
        ("v.extra", np.zeros(64), "has no place in the model"),
        ("v.blocks.0.attn.qkv.weight", np.zeros((64, 64)), "has shape (64, 64)"),
        ("v.norm.bias", np.zeros(()), "has shape ()"),
        ("v.norm.bias", np.full(64, np.nan), "holds NaN or infinite values"),
        ("v.norm.bias", np.zeros(64, np.int64), "holds torch.int64"),
    ],
)
def test_a_wrong_tensor_is_named(
    refused, original_tensors, save_torch, tmp_path, name, change, complaint
):
    tensors = original_tensors()
    tensors.pop(name, None)
    if change is not None:
        tensors[name] = change
    source = save_torch(tensors, tmp_path / "x.pth")
    message = refused(source, tmp_path / "out")
    assert message.startswith(f"{source}: tensor ")
    assert complaint in message
    assert name in message or complaint.startswith("v.")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "expected a JSON object"),
        ('{"model_type": "vit"}', "model_type is 'vit'"),
        ('{"hidden_size": []}', "hidden_size is []; it must be a whole number from 1"),
        ('{"id2label": {"0": "a", "2": "b"}}', "id2label must name the classes 0 to 1"),
    ],
)
def test_a_malformed_configuration_is_refused(
    refused, small_checkpoint, tmp_path, content, complaint
):
    write_huggingface(tmp_path / "hf", small_checkpoint)
    (tmp_path / "hf" / "config.json").write_text(content)
    message = refused(tmp_path / "hf", tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'hf' / 'config.json'}: ")
    assert complaint in message


def test_a_malformed_extractor_is_refused(refused, small_checkpoint, tmp_path):
    write_huggingface(tmp_path / "hf", small_checkpoint)
    file = tmp_path / "hf" / "preprocessor_config.json"
    file.write_text(json.dumps({"mean": "quiet"}))
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_geometry_flags_for_a_checkpoint_of_ours_are_refused(refused, ours, tmp_path):
    message = refused(ours, tmp_path / "out", "--max-length=128", "--time-stride=10")
    assert message == (
        f"{ours}: records its input itself; leave --time-stride and --max-length out"
    )


@pytest.mark.parametrize("flag", ["--std=0", "--std=nan", "--mean=inf"])
def test_invalid_statistics_are_refused(capsys, ours, tmp_path, flag):
    assert main(["convert", str(ours), str(tmp_path / "out"), flag]) == 1
    assert flag[2:].split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--max-length=0", "--time-stride=x", "--strides=3"])
def test_invalid_flags_are_told_with_status_2(capsys, tmp_path, flag):
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "out"), flag])
    assert caught.value.code == 2
    assert flag.split("=")[0] in capsys.readouterr().err


def test_without_torch_a_pth_is_refused_and_safetensors_are_not(
    convert, refused, original_tensors, save_torch, tmp_path, monkeypatch
):
    source = save_torch(original_tensors(), tmp_path / "x.pth")
    save_file(original_tensors(), tmp_path / "x.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    convert(tmp_path / "x.safetensors", tmp_path / "hf", "--to-huggingface")
    assert load_file(tmp_path / "hf" / "model.safetensors")
    assert "needs PyTorch, which is not installed" in refused(source, tmp_path / "out")
    assert "needs PyTorch" in refused(tmp_path / "hf", tmp_path / "out", "--to-torch")


def test_the_command_converts_and_refuses_without_a_traceback(
    original_tensors, save_torch, tmp_path
):
    source = save_torch(original_tensors(), tmp_path / "x.pth", prefix="module.")
    (tmp_path / "empty.pth").touch()

    def run(*argv):
        command = [sys.executable, str(SCRIPT), *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = run(source, tmp_path / "out")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.endswith(f"wrote {tmp_path / 'out'}\n")
    bad = run(tmp_path / "empty.pth", tmp_path / "none")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert len(bad.stderr.splitlines()) == 1
    assert bad.stderr.startswith(f"ast-jax: {tmp_path / 'empty.pth'}: ")
    assert not (tmp_path / "none").exists()


def test_flags_printed_for_a_pth_restore_the_model(convert, ours, small_checkpoint, tmp_path):
    convert(ours, tmp_path / "same.pth", "--to-torch")
    config = small_checkpoint.config.replace(
        num_attention_heads=4,
        id2label=dict(enumerate("vwxyz"[: small_checkpoint.config.num_labels])),
    )
    extractor = dataclasses.replace(small_checkpoint.feature_extractor, mean=-5.5, std=3.25)
    other = Checkpoint(config, extractor, small_checkpoint.params)
    save_checkpoint(tmp_path / "other", other)
    printed = convert(tmp_path / "other", tmp_path / "other.pth", "--to-torch")
    note = next(line for line in printed.splitlines() if line.startswith("note: "))
    assert "--num-attention-heads 4" in note
    assert "--mean -5.5 --std 3.25" in note
    assert "the names of its classes" in note
    flags = ["--num-attention-heads", 4, "--mean", -5.5, "--std", 3.25]
    printed = convert(tmp_path / "other.pth", tmp_path / "back", *flags)
    assert "-4.26" not in printed
    back = load_checkpoint(tmp_path / "back")
    assert back.config == config.replace(id2label=None)
    assert back.feature_extractor == extractor


def test_a_pth_for_another_input_needs_all_of_its_geometry(convert, tmp_path):
    config = ASTConfig(
        hidden_size=64, num_attention_heads=1, num_hidden_layers=1, intermediate_size=32,
        max_length=96, num_mel_bins=64, num_labels=3,
    )  # fmt: skip
    extractor = ASTFeatureExtractor(max_length=96, num_mel_bins=64)
    save_checkpoint(tmp_path / "ours", Checkpoint(config, extractor, init_params(config)))
    printed = convert(tmp_path / "ours", tmp_path / "x.pth", "--to-torch")
    flags = re.search(r"record (.*); pass them on", printed)[1].split()
    assert convert(tmp_path / "x.pth", tmp_path / "back", *flags)
    assert load_checkpoint(tmp_path / "back").config == config
