"""Times `ast-jax classify` and Hugging Face's pipeline, each as a whole process.

    python benchmarks/cold_start.py [--rounds 7] [--tiny]

Needs torch and transformers (the extra `test`). Both processes classify a 10 s WAV with the same
random base384 weights, each in its own format, and must return the same label and score. Hugging
Face's pipeline gets the samples instead of the path, as it decodes files with ffmpeg. The first
round fills the disk cache and the compilation cache. Each further round starts one process of each;
the printed ratio is the median of the rounds' ratios.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from common import RATE, cpu_name, quartiles, versions

ROOT = Path(__file__).parent.parent
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
OURS = [sys.executable, "-m", "ast_jax.cli.main", "classify", "--json", "--top-k", "1"]
THEIRS = """
import json, sys, wave
import numpy as np
from transformers import pipeline
with wave.open(sys.argv[2]) as file:
    samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / np.float32(32768)
found = pipeline("audio-classification", model=sys.argv[1])(samples, top_k=1)
print(json.dumps([{"labels": found}]))
"""


def make_inputs(folder: Path, tiny: bool) -> tuple[Path, Path, Path]:
    """Writes a WAV, our checkpoint and theirs with the same weights; returns the paths."""
    import torch
    import transformers
    from scipy.io import wavfile

    torch.manual_seed(0)
    config = transformers.ASTConfig(**TINY if tiny else {}, num_labels=527)
    config.problem_type = "single_label_classification"
    transformers.utils.logging.disable_progress_bar()
    model = transformers.ASTForAudioClassification(config)
    with torch.no_grad():  # the initial weights give all classes the same score
        model.classifier.dense.weight.normal_(std=0.5)
    model.save_pretrained(folder / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one mel filter is empty
        extractor = transformers.ASTFeatureExtractor()
    extractor.save_pretrained(folder / "theirs")
    command = [sys.executable, "convert_torch_weights.py", folder / "theirs", folder / "ours"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    noise = np.random.default_rng(0).normal(0, 3000, 10 * RATE).astype(np.int16)
    wavfile.write(folder / "noise.wav", RATE, noise)
    return folder / "noise.wav", folder / "ours", folder / "theirs"


def run(command: list, environment: dict[str, str]) -> tuple[dict, float]:
    """Runs a process; returns its best label and its wall-clock time in seconds."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[0]["labels"][0], seconds


def main() -> None:
    """Checks that both labels agree, times both processes and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    arguments = parser.parse_args()
    print(
        f"{cpu_name()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"{versions(['jax', 'torch', 'transformers'])}"
    )
    with tempfile.TemporaryDirectory() as folder:
        sound, ours, theirs = make_inputs(Path(folder), arguments.tiny)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
        environment |= {
            "XDG_CACHE_HOME": folder,  # so that the compilation cache starts empty
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "PYTHONWARNINGS": "ignore",
        }
        commands = {
            "ast-jax classify": [*OURS, str(sound), "--checkpoint", str(ours)],
            "Hugging Face's pipeline": [sys.executable, "-c", THEIRS, str(theirs), str(sound)],
        }
        times = {name: np.empty(arguments.rounds) for name in commands}
        first = {}
        for i in range(-1, arguments.rounds):
            labels = {}
            for name, command in commands.items():
                labels[name], seconds = run(command, environment)
                if i < 0:
                    first[name] = seconds
                else:
                    times[name][i] = seconds
            mine, peer = labels.values()
            assert mine["label"] == peer["label"], (mine, peer)
            assert abs(mine["score"] - peer["score"]) < 1e-3, (mine, peer)
    mine, peer = times.values()
    print(f"\n{'':25} {'first':>9} {'after':>9}   peer / ours (quartiles)")
    for name, seconds in times.items():
        ratio = quartiles(peer / seconds, "x")
        print(f"{name:25} {first[name]:7.2f} s {np.median(seconds):7.2f} s   {ratio}")


if __name__ == "__main__":
    main()
