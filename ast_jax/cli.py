"""The `ast-jax` command: says what is heard in sound files."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import ast_jax
from ast_jax.audio.decode import load_audio
from ast_jax.command import complain, positive, run_command
from ast_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 1 if anything given could not be used."""
    parser = argparse.ArgumentParser(prog="ast-jax", description=__doc__)
    parser.add_argument("--version", action="version", version=ast_jax.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    classify = commands.add_parser("classify", help="say what is heard in sound files")
    classify.add_argument("files", nargs="+", metavar="FILE", help="any sound file")
    classify.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a checkpoint or run folder, a Hugging Face folder, a .safetensors or a .pth",
    )
    classify.add_argument(
        "--top-k", type=positive, default=5, metavar="K", help="how many labels for each file (5)"
    )
    classify.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    return run_command(
        "ast-jax",
        lambda: run_classify(
            arguments.files, arguments.checkpoint, arguments.top_k, arguments.json
        ),
        arguments.checkpoint,
    )


def run_classify(files: list[str], checkpoint: str, top_k: int, as_json: bool) -> int:
    """Classifies the files one by one; a file that cannot be used does not stop the others."""
    classifier = ast_jax.load(checkpoint)
    rate = classifier.feature_extractor.sampling_rate
    status, results = 0, []
    for file in files:
        try:
            waveform = load_audio(file, rate)
            labels = classifier(waveform, top_k=top_k, sampling_rate=rate)
        except InputError as error:
            message = str(error)
            # The decoder names the file; what comes after it knows a waveform only.
            named = message.startswith(str(Path(file)))
            status = complain("ast-jax", message if named else f"{file}: {message}")
            continue
        if len(waveform) > classifier.seconds * rate * 1.05:
            print(
                f"note: {file} lasts {len(waveform) / rate:.1f} s; the model hears the first "
                f"{classifier.seconds:.1f} s",
                file=sys.stderr,
            )
        if as_json:
            results.append({"file": file, "labels": labels})
        else:
            _print(file)
            for label in labels:
                _print(f"  {label['score']:6.1%}  {label['label']}")
    if as_json:
        print(json.dumps(results, indent=2), flush=True)
    return status


def _print(text: str) -> None:
    """Prints what the terminal's encoding has and escapes the rest, as file names hold anything."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


if __name__ == "__main__":
    sys.exit(main())
