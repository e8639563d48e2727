"""Cases of damaged and hostile checkpoints, PyTorch files, prepared sets and run folders."""

import atexit
import json
import os
import pickle
import random
import shutil
import struct
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import jax
import numpy as np
import soundfile
import torch
from safetensors.numpy import save_file

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, load_checkpoint, save_checkpoint
from ast_jax.checkpoint.torch_files import read_state_dict
from ast_jax.config import SyntheticData, TrainConfig
from ast_jax.data.overlap import hash_clips
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.data.prepared import open_prepared
from ast_jax.data.synthetic import make_synthetic
from ast_jax.models.config import ASTConfig
from ast_jax.runs import workdir
from ast_jax.runs.history import read_history, write_history
from ast_jax.runs.workdir import acquire_workdir, check_data, open_workdir
from tests.fuzz.harness import WrongAnswerError
from tests.params import random_params

CONFIG = ASTConfig(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_length=32,
    num_mel_bins=32,
    num_labels=3,
    id2label={0: "cat", 1: "dog", 2: "owl"},
)
EXTRACTOR = ASTFeatureExtractor(num_mel_bins=32, max_length=32, mean=-4.0, std=2.0)
TENSORS = {f"layer.{i}.weight": np.arange(40, dtype=np.float32).reshape(5, 8) for i in range(3)}


workdir.describe_run = dict  # which asks git for the commit


def _new_folder(place):
    """Returns a folder for what all cases of a child share."""
    folder = Path(tempfile.mkdtemp(dir=place))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# ---- our checkpoints


@cache
def _checkpoint(place):
    params = random_params(CONFIG)
    checkpoint = Checkpoint(CONFIG, EXTRACTOR, params)
    folder = _new_folder(place) / "checkpoint"
    save_checkpoint(folder, checkpoint)
    return folder, checkpoint


def checkpoint(seed, folder):
    """Damages a checkpoint in our format; what loads must be what was saved."""
    saved, expected = _checkpoint(folder.parent)
    copy = shutil.copytree(saved, folder / "checkpoint")
    damage_folder(copy, random.Random(seed))
    found = load_checkpoint(copy)
    if found[:2] != expected[:2]:
        raise WrongAnswerError(f"another description: {found[:2]}")
    same = jax.tree.map(np.array_equal, found.params, expected.params)
    if not all(jax.tree.leaves(same)):
        raise WrongAnswerError("other parameters")


# ---- PyTorch and safetensors files


def torch_file(seed, folder):
    """Damages a file of tensors, or makes a hostile one; only its shapes are known to be right."""
    rng = random.Random(seed)
    make = rng.choice([_zipped, _legacy, _safetensors, _hostile_torch, _hostile_safetensors])
    path = make(folder, rng)
    if make in (_zipped, _legacy, _safetensors):
        damage_file(path, rng)
    for name, tensor in read_state_dict(path).tensors.items():
        if not isinstance(tensor, np.ndarray):
            raise WrongAnswerError(f"{name} is {tensor!r}")


def _tensors():
    return {name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}


def _zipped(folder, rng):
    torch.save({"model": _tensors(), "epoch": 3}, folder / "x.pth")
    return folder / "x.pth"


def _legacy(folder, rng):
    torch.save(_tensors(), folder / "x.pt", _use_new_zipfile_serialization=False)
    return folder / "x.pt"


def _safetensors(folder, rng):
    save_file(TENSORS, folder / "x.safetensors")
    return folder / "x.safetensors"


def _hostile_torch(folder, rng):
    size = 10 ** rng.randint(0, 13)
    tensor = rng.choice(
        [
            lambda: torch.zeros(1).expand(size),
            lambda: torch.zeros(1, dtype=torch.bfloat16).expand(size),
            lambda: torch.zeros(min(size, 100)).expand(size, min(size, 100)),
            lambda: torch.zeros(size, device="meta"),
            lambda: torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            lambda: torch.zeros(4).to(torch.float8_e4m3fn),
            lambda: torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (size,)),
            lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.strided),
            lambda: torch.zeros(3, dtype=torch.complex64).conj(),
            lambda: torch.zeros([1] * 70),
            lambda: torch.zeros(rng.choice([0, 3]), 0, 5),
        ]
    )()
    name = rng.choice(["w", "a" * 2**20, "a\nb", "\udcff", ""])
    path = folder / "x.pth"
    match rng.randrange(4):
        case 0:
            torch.save({name: tensor}, path)
        case 1:
            torch.save({name: tensor}, path, _use_new_zipfile_serialization=False)
        case 2:
            torch.save({"w": torch.zeros(min(size, 10**7))}, folder / "stored.pth")
            with (
                zipfile.ZipFile(folder / "stored.pth") as stored,
                zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out,
            ):
                for entry in stored.infolist():
                    out.writestr(entry.filename, stored.read(entry))
        case 3:
            path.write_bytes(pickle.dumps({name: bytearray(3), "size": size}))
    return path


def _hostile_safetensors(folder, rng):
    size = 10 ** rng.randint(0, 13)
    entry = {
        "dtype": rng.choice(["F32", "BF16", "F8_E4M3", "I64", "F999"]),
        "shape": rng.choice([[1] * 100, [size], [size, size], [-1], [0], [2**63, 2], "x"]),
        "data_offsets": rng.choice([[0, 4], [0, size], [4, 0], [0], [-1, 3]]),
    }
    name = rng.choice(["w", "a" * 2**20, "a\nb", "n_averaged", "__metadata__"])
    header = json.dumps({name: entry}).encode() + b" " * rng.choice([0, 7, 10**6])
    length = rng.choice([len(header)] * 3 + [size, 2**64 - 1])
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", length) + header + bytes(4))
    return folder / "x.safetensors"


# ---- prepared sets


@cache
def _prepared(place):
    folder = _new_folder(place)
    rng, lines = np.random.default_rng(0), ["path,labels,split"]
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", rng.uniform(-0.9, 0.9, 500 + i), 16000)
        lines.append(f"{i}.wav,{'xyz'[i % 3]},{'train' if i < 4 else 'test'}")
    (folder / "list.csv").write_text("\n".join(lines))
    made = prepare("csv", folder, folder / "out").folder
    return made, _content(made)


def _content(folder):
    opened = open_prepared(folder)
    content = [opened.labels, opened.sampling_rate, opened.digest]
    for split in ("train", "test"):
        clips = opened.clips(split)
        waveforms = [waveform.tolist() for waveform in clips.waveforms]
        content += [list(clips.names), clips.lengths(), clips.all_targets().tolist(), waveforms]
    return content


def prepared_set(seed, folder):
    """Damages a prepared set, or changes numbers in its lists; what reads must be what was written.

    Lists that are valid are another set's, and only have to be read without a crash.
    """
    made, expected = _prepared(folder.parent)
    rng = random.Random(seed)
    copy = shutil.copytree(made, folder / "csv" / made.name)
    rewritten = rng.random() < 0.4
    if rewritten:
        _rewrite_lists(copy, rng)
    else:
        damage_folder(copy, rng)
    found = _content(copy)
    if not rewritten and found != expected:
        raise WrongAnswerError("another set")


def _rewrite_lists(copy, rng):
    with np.load(copy / "clips.npz") as arrays:
        content = dict(arrays)
    name = rng.choice(sorted(content))
    array = content[name].copy()
    numbers = [-1, 0, 3, 2**31 - 1, -(2**31), 2**62, -(2**63)]
    match rng.randrange(5):
        case 0 if array.dtype.kind == "i":
            array = array.astype(np.int64)
            array[rng.randrange(len(array))] = rng.choice(numbers)
        case 1:
            array = array.astype(rng.choice(["O", "U3"] + ["f8", "i1"] * (array.dtype.kind == "i")))
        case 2:
            array = array[:, None]
        case 3:
            array = np.array(array[0])
        case _:
            array = array[: rng.randrange(len(array))]
    content[name] = array
    np.savez(copy / "clips.npz", **content)
    file = copy / rng.choice(["metadata.json", "dataset_info.json"])
    if rng.random() < 0.5:
        _rewrite_json(file, rng)


def _rewrite_json(file, rng):
    """Replaces a value somewhere in a JSON file."""
    content = json.loads(file.read_text())
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    values = [None, -1, 0, 10**400, 1e400, float("nan"), "x", "a" * 2**20, [], {}, True, 1.5]
    place[key] = rng.choice(values)
    file.write_text(json.dumps(content))


# ---- run folders


@cache
def _run(place):
    folder = _new_folder(place) / "run"
    config = _run_config(folder)
    data = make_synthetic(2, 1, seed=0)
    with acquire_workdir(
        *open_workdir(config), config, data, hash_clips(data.train), EXTRACTOR, {}
    ):
        row = {
            "epoch": 1,
            "training_loss": 2.0,
            "learning_rate": 1e-3,
            "seconds": 1.0,
            "loss": 2.0,
            "accuracy": 0.5,
            "mean_average_precision": 0.5,
            "mean_auc": 0.5,
        }
        write_history(folder, [row])
        (folder / "loss.png").unlink()
        save_checkpoint(folder / "checkpoints" / "2", _checkpoint(place)[1])
    return folder, data


def _run_config(folder):
    return TrainConfig(
        workdir=str(folder), data=SyntheticData(train_clips=2, evaluation_clips=1), batch_size=8
    )


def run_folder(seed, folder):
    """Damages the files of a run, which is then resumed up to its first step."""
    run, data = _run(folder.parent)
    copy, rng = shutil.copytree(run, folder / "run"), random.Random(seed)
    file = copy / rng.choice(["run.json", "history.json", "sessions.json", "trained_clips.npz"])
    if file.suffix == ".json" and rng.random() < 0.6:
        _rewrite_json(file, rng)
    else:
        damage_file(file, rng)
    config = _run_config(copy)
    place, saved = open_workdir(config)
    if saved is not None:
        check_data(place, saved, data)
        ASTFeatureExtractor.from_dict(saved["feature_extractor"], str(place))
    with acquire_workdir(place, saved, config, data, hash_clips(data.train), EXTRACTOR, {}):
        write_history(place, read_history(place, 2, 2))


def mixed(seed, folder):
    """Runs one of the cases above."""
    rng = random.Random(seed)
    rng.choice([checkpoint, torch_file, prepared_set, run_folder])(seed, folder)


# ---- damage


def damage_folder(folder, rng):
    """Damages one file of a folder; larger ones are as likely as smaller ones."""
    damage_file(rng.choice(sorted(file for file in folder.rglob("*") if file.is_file())), rng)


def damage_file(file, rng):
    """Flips bits, cuts, fills or repeats parts of a file, or replaces it by what is no file."""
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content) + 1)
    match rng.randrange(10):
        case 0 | 1 | 2 | 3 if content:
            for _ in range(rng.choice([1, 1, 3])):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case 4:
            del content[place:]
        case 5:
            content[place : place + 64] = rng.choice([b"\0", b"\xff"]) * 64
        case 6:
            content[place:place] = content[: rng.randrange(200)]
        case 7:
            content = bytearray(rng.randbytes(rng.randrange(300)))
        case 8:
            file.unlink()
            match rng.randrange(4):
                case 0:
                    os.mkfifo(file)
                case 1:
                    file.symlink_to("/dev/zero")
                case 2:
                    file.mkdir()
            return
        case _:
            with file.open("r+b") as out:
                out.truncate(10 ** rng.randint(2, 13))
            return
    file.write_bytes(content)
