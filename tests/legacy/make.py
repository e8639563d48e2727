"""Writes legacy.tar.xz, the files of an earlier version that test_legacy.py loads.

The version is commit 309bbbb, with Python 3.11, jax 0.10.2, flax 0.12.8, optax 0.2.8 and
orbax-checkpoint 0.12.8 on 8 virtual CPU devices. The archive has:

    checkpoint/   a checkpoint of `save_checkpoint`
    prepared/     a set of `ast-jax prepare csv`, with the statistics of `ast-jax stats`
    interrupted/  a training run that was asked to end at step 7 of 12, within its third epoch
    finished/     a finished run, fine-tuned from the checkpoint on the prepared set
    expected.npz  what that commit computes from them

To write it again:

    git worktree add ../ast_jax_309bbbb 309bbbb
    PYTHONPATH=../ast_jax_309bbbb python tests/legacy/make.py legacy.tar.xz

The script uses that commit's modules and names of fields, so it does not run with later ones.
The recordings are synthetic. The configurations have paths relative to the folder that the
archive is extracted to, so the runs can be resumed anywhere. Pictures, TensorBoard's files and the
name of the host are left out.
"""

import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import jax
import numpy as np
import soundfile
from flax import traverse_util

import ast_jax
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ast_jax.config import (
    AugmentConfig,
    FrontendConfig,
    OptimizerConfig,
    PreparedData,
    SyntheticData,
    TrainConfig,
)
from ast_jax.data.prepare.run import prepare
from ast_jax.data.prepared import open_prepared
from ast_jax.data.statistics import measure, write_statistics
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig
from ast_jax.training.loop import Training, fit

RATE = 16000
SIZE = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_length": 48,
    "num_mel_bins": 16,
}
LABELS = {0: "hum", 1: "hiss", 2: "clicks, café"}
CLIPS = {"train": 8, "test": 4}


def interrupted() -> TrainConfig:
    """Returns a configuration of 4 epochs of 3 steps whose result is the average of 2 to 4."""
    return TrainConfig(
        workdir="interrupted",
        model=ASTConfig(**SIZE, frequency_stride=16, time_stride=16),
        data=SyntheticData(train_clips=5, evaluation_clips=1),
        augment=AugmentConfig(frequency_mask=4, time_mask=8, noise=True, roll=4, mixup=0.5),
        # The gradient of the key's bias is zero but for rounding errors, which Adam would scale up
        # to whole steps that differ from one processor to the next. A large eps prevents it.
        optimizer=OptimizerConfig(
            learning_rate=1e-2,
            schedule="cosine",
            warmup_steps=2,
            eps=1e-3,
            clip_norm=0.5,
            ema_decay=0.5,
        ),
        label_smoothing=0.1,
        batch_size=16,
        accumulate=2,
        num_epochs=4,
        save_every=2,
        keep=1,
        average_from=2,
        result="average",
        seed=3,
    )


def finished() -> TrainConfig:
    """Returns a configuration of 3 epochs of 1 step; the result is the best epoch."""
    return TrainConfig(
        workdir="finished",
        init_from="checkpoint",
        model=ASTConfig(**SIZE, frequency_stride=16, time_stride=10),
        frontend=FrontendConfig(on_device=True),
        data=PreparedData(dir="prepared", name="csv", balanced=True),
        augment=AugmentConfig(patchout_time=1),
        optimizer=OptimizerConfig(
            kind="adamw",
            learning_rate=1e-2,
            schedule="multi_step",
            eps=1e-3,
            weight_decay=0.01,
            clip_norm=1.0,
            layer_decay=0.75,
        ),
        loss="binary_cross_entropy",
        batch_size=8,
        num_epochs=3,
        keep=1,
        metric="accuracy",
        cumulative=True,
        result="best",
        shard_optimizer=True,
    )


def make_checkpoint() -> dict[str, np.ndarray]:
    """Writes the checkpoint; returns an input and its logits."""
    rng = np.random.default_rng(0)
    config = ASTConfig(**SIZE, num_labels=3, id2label=LABELS)
    params = jax.tree.map(
        lambda array: np.asarray(array + 0.2 * rng.standard_normal(array.shape), np.float32),
        init_params(config, 0),
    )
    extractor = ASTFeatureExtractor(
        sampling_rate=RATE, num_mel_bins=16, max_length=48, mean=-6.0, std=3.0
    )
    save_checkpoint("checkpoint", Checkpoint(config, extractor, params))
    inputs = rng.standard_normal((2, 48, 16), dtype=np.float32)
    model = ast_jax.ASTForAudioClassification.from_pretrained("checkpoint")
    return {"checkpoint/inputs": inputs, "checkpoint/logits": np.asarray(model(inputs))}


def make_prepared() -> dict[str, np.ndarray]:
    """Writes the prepared set; returns the first clip and the targets of each split."""
    rng = np.random.default_rng(1)
    lines = ["path,labels,split"]
    with tempfile.TemporaryDirectory() as folder:
        for split, count in CLIPS.items():
            for i in range(count):
                time = np.arange(int(RATE * rng.uniform(0.2, 0.5))) / RATE
                hum = 0.1 * np.sin(2 * np.pi * rng.uniform(200, 800) * time)
                hiss = 0.01 * rng.standard_normal(time.size)
                clicks = 0.1 * (time * rng.uniform(10, 20) % 1 < 0.02)
                kinds = {i % 3, 0} if i % 4 == 1 else {i % 3}  # some clips have two classes
                sound = sum((hum, hiss, clicks)[kind] for kind in kinds)
                soundfile.write(Path(folder) / f"{split}{i}.wav", sound, RATE)
                labels = ";".join(LABELS[kind] for kind in sorted(kinds))
                lines.append(f'{split}{i}.wav,"{labels}",{split}')
        (Path(folder) / "list.csv").write_text("\n".join(lines) + "\n")
        prepare("csv", folder, "prepared")
    opened = open_prepared("prepared")
    train = opened.clips("train")
    statistics = measure(train, opened.labels, RATE, num_mel_bins=16)
    write_statistics(opened.folder, "train", 16, 0, statistics)
    arrays = {}
    for split in opened.splits:
        clips = opened.clips(split)
        arrays[f"prepared/{split}/first"] = clips.waveforms[0]
        arrays[f"prepared/{split}/targets"] = clips.all_targets()
    return arrays


def make_interrupted() -> dict[str, np.ndarray]:
    """Interrupts a run after step 7 of 12; returns what resuming it results in."""
    steps = iter(range(1, 13))
    asked = Training._is_asked_to_end
    Training._is_asked_to_end = lambda self: next(steps) == 7  # as SIGTERM does
    try:
        fit(interrupted())
        raise AssertionError("the run was not interrupted")
    except KeyboardInterrupt:
        Training._is_asked_to_end = asked
    tidy(Path("interrupted"))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("interrupted", f"{folder}/run")
        config = interrupted()
        config.workdir = f"{folder}/run"
        fit(config)
        params = load_checkpoint(f"{folder}/run/model").params
        history = json.loads(Path(folder, "run/history.json").read_text())
    arrays = {f"interrupted/params/{name}": array for name, array in flat(params).items()}
    for name in history[0]:
        arrays[f"interrupted/history/{name}"] = np.array([row[name] for row in history], float)
    return arrays


def flat(params: dict) -> dict[str, np.ndarray]:
    """Returns parameters by name."""
    return traverse_util.flatten_dict(params, sep="/")


def tidy(run: Path) -> None:
    """Removes the files that no later start of a run reads, and the name of the host."""
    shutil.rmtree(run / "tensorboard")
    for picture in run.glob("*.png"):
        picture.unlink()
    file = run / "sessions.json"
    sessions = json.loads(file.read_text())
    file.write_text(json.dumps([session | {"hostname": "host"} for session in sessions], indent=2))


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Returns a file of the archive without its owner and time."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def main() -> None:
    """Writes the archive that is named on the command line."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    output = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        arrays = make_checkpoint() | make_prepared() | make_interrupted()
        fit(finished())
        tidy(Path("finished"))
        np.savez("expected.npz", **arrays)
        for note in Path().glob("**/commit_success.txt"):  # Orbax's, which names the folder
            note.write_text(note.read_text().replace(os.path.realpath(folder), ""))
        with tarfile.open(output, "w:xz") as archive:
            for name in sorted(os.listdir()):
                archive.add(name, filter=anonymous)


if __name__ == "__main__":
    main()
