"""`ast-jax classify`: labels sound files."""

import argparse
import json
import sys
from pathlib import Path

from ast_jax.cli.command import add_dtype, complain, dtype_change, positive, print_escaped
from ast_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `ast-jax classify`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="any sound file")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a checkpoint or run folder, a Hugging Face folder, a .safetensors or a .pth",
    )
    parser.add_argument(
        "--top-k", type=positive, default=5, metavar="K", help="number of labels per file (5)"
    )
    add_dtype(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, subject=lambda arguments: arguments.checkpoint)


def run(arguments: argparse.Namespace) -> int:
    """Classifies the files one by one, continuing after a file that cannot be used."""
    from ast_jax.audio.decode import load_audio
    from ast_jax.checkpoint.load import read_checkpoint
    from ast_jax.cli.compilation_cache import enable_compilation_cache
    from ast_jax.inference.classifier import AudioClassifier

    enable_compilation_cache()
    path = arguments.checkpoint
    guesses: list[str] = []
    classifier = AudioClassifier(read_checkpoint(path, guesses=guesses, **dtype_change(arguments)))
    for guess in guesses:
        print(f"note: {path}: {guess}", file=sys.stderr)
    rate = classifier.feature_extractor.sampling_rate
    status, results = 0, []
    for file in arguments.files:
        try:
            waveform = load_audio(file, rate)
            labels = classifier(waveform, top_k=arguments.top_k, sampling_rate=rate)
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
        if arguments.json:
            results.append({"file": file, "labels": labels})
        else:
            print_escaped(file)
            for label in labels:
                print_escaped(f"  {label['score']:6.1%}  {label['label']}")
    if arguments.json:
        print(json.dumps(results, indent=2), flush=True)
    return status
