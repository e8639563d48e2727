"""`ast-jax classify`: labels sound files."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import tyro

from ast_jax.cli.command import Dtype, Positive, complain, dtype_change, print_escaped
from ast_jax.errors import InputError


def classify(
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")],
    *,
    checkpoint: str,
    top_k: Positive = 5,
    dtype: Dtype = None,
    json: bool = False,
) -> int:
    """Label sound files.

    Args:
        files: any sound files
        checkpoint: a checkpoint or run folder, a Hugging Face folder, a .safetensors or a .pth
        top_k: number of labels per file
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        json: print JSON
    """
    from ast_jax.audio.decode import load_audio
    from ast_jax.checkpoint.load import read_checkpoint
    from ast_jax.cli.compilation_cache import enable_compilation_cache
    from ast_jax.inference.classifier import AudioClassifier

    enable_compilation_cache()
    path = checkpoint
    guesses: list[str] = []
    classifier = AudioClassifier(read_checkpoint(path, guesses=guesses, **dtype_change(dtype)))
    for guess in guesses:
        print(f"note: {path}: {guess}", file=sys.stderr)
    rate = classifier.feature_extractor.sampling_rate
    status, results = 0, []
    for file in files:
        try:
            waveform = load_audio(file, rate)
            labels = classifier(waveform, top_k=top_k, sampling_rate=rate)
        except InputError as error:
            message = str(error)
            # The decoder names the file, the feature extractor does not.
            named = message.startswith(str(Path(file)))
            status = complain("ast-jax", message if named else f"{file}: {message}")
            continue
        if len(waveform) > classifier.seconds * rate * 1.05:
            print(
                f"note: {file} lasts {len(waveform) / rate:.1f} s; the model uses the first "
                f"{classifier.seconds:.1f} s",
                file=sys.stderr,
            )
        if json:
            results.append({"file": file, "labels": labels})
        else:
            print_escaped(file)
            for label in labels:
                print_escaped(f"  {label['score']:6.1%}  {label['label']}")
    if json:
        print(json_module.dumps(results, indent=2), flush=True)
    return status
