"""The `ast-jax` command: classifies sounds, evaluates checkpoints, and keeps data sets."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ast_jax
from ast_jax.audio.decode import load_audio
from ast_jax.cli.command import complain, non_negative, positive, run_command
from ast_jax.cli.compilation_cache import enable_compilation_cache
from ast_jax.errors import InputError
from ast_jax.io import check_free
from ast_jax.models.config import DTYPES

KINDS = ("audioset", "esc50", "speech_commands", "json", "csv", "folder")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 1 if anything given could not be used."""
    parser = argparse.ArgumentParser(prog="ast-jax", description=__doc__)
    parser.add_argument("--version", action="version", version=ast_jax.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_classify(commands.add_parser("classify", help="say what is heard in sound files"))
    add_evaluate(commands.add_parser("evaluate", help="score checkpoints on labelled sounds"))
    add_prepare(commands.add_parser("prepare", help="decode a data set once, for training"))
    add_stats(commands.add_parser("stats", help="measure a prepared set's log-mels"))
    add_show(commands.add_parser("show", help="draw a training batch as the model sees it"))
    arguments, rest = parser.parse_known_args(argv)
    # argparse has no arguments without a flag after those with one.
    if arguments.command == "show" and not any(word.startswith("-") for word in rest):
        arguments.changes += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return run_command("ast-jax", lambda: arguments.run(arguments), arguments.subject(arguments))


def add_classify(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ast-jax classify`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="any sound file")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a checkpoint or run folder, a Hugging Face folder, a .safetensors or a .pth",
    )
    parser.add_argument(
        "--top-k", type=positive, default=5, metavar="K", help="how many labels for each file (5)"
    )
    add_dtype(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(
        run=lambda a: run_classify(a.files, a.checkpoint, a.top_k, a.json, **changed_fields(a)),
        subject=lambda a: a.checkpoint,
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """The argument `--dtype`."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="",
        help="what the encoder computes in: int8 is the fastest on a CPU, bfloat16 on a GPU or "
        "TPU (the checkpoint's own, most often float32)",
    )


def changed_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a checkpoint's configuration that `--dtype` changes."""
    return {"dtype": arguments.dtype} if arguments.dtype else {}


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ast-jax evaluate`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="as for classify; of several their ensemble is scored too",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="a prepared set, or prepare's --output, or a folder of sound files for each class",
    )
    parser.add_argument("--name", default="", help="the kind of source, if DIR holds several sets")
    parser.add_argument(
        "--split", default="", help="such as eval or validation+test (the one held out)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="clips at a time (32)"
    )
    parser.add_argument(
        "--workers", type=non_negative, default=0, metavar="N", help="processes for batches (0)"
    )
    add_dtype(parser)
    parser.add_argument(
        "--on-device", action="store_true", help="compute log-mels on the accelerator"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="a new folder for scores, classes and predictions"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_evaluate, subject=lambda a: a.output or a.data)


def add_prepare(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ast-jax prepare`."""
    cores = os.cpu_count() or 1
    parser.add_argument("name", choices=KINDS, help="the kind of source")
    parser.add_argument("--source", required=True, metavar="PATH", help="its folder or file")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where prepared sets go, as DIR/NAME"
    )
    parser.add_argument("--classes", metavar="CSV", help="class list of a json or csv manifest")
    parser.add_argument(
        "--sampling-rate", type=positive, default=16000, metavar="HZ", help="of the set (16000)"
    )
    parser.add_argument(
        "--processes", type=positive, default=cores, metavar="N", help=f"decoding ({cores})"
    )
    parser.add_argument(
        "--max-damaged",
        type=non_negative,
        default=0,
        metavar="N",
        help="sound files that may be unreadable and are left out (0)",
    )
    parser.add_argument("--beam-runner", default="", metavar="RUNNER", help="write by Apache Beam")
    parser.add_argument(
        "--beam-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="for Beam, such as --beam-option=--project=mine; may be given several times",
    )
    parser.set_defaults(run=run_prepare, subject=lambda a: a.output)


def add_stats(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ast-jax stats`."""
    cores = os.cpu_count() or 1
    parser.add_argument("folder", metavar="DIR", help="a prepared set, or prepare's --output")
    parser.add_argument("--name", default="", help="the kind of source, if DIR holds several sets")
    parser.add_argument(
        "--splits", default="", help="such as balanced+unbalanced (those that are trained on)"
    )
    parser.add_argument("--num-mel-bins", type=positive, default=128, metavar="N", help="(128)")
    parser.add_argument(
        "--padded-to",
        type=positive,
        default=0,
        metavar="FRAMES",
        help="measure padded clips, as the original's script does",
    )
    parser.add_argument("--processes", type=positive, default=cores, metavar="N", help=f"({cores})")
    parser.set_defaults(run=run_stats, subject=lambda a: a.folder)


def add_show(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ast-jax show`."""
    parser.add_argument("config", metavar="CONFIG", help="a file such as configs/esc10.py")
    parser.add_argument(
        "changes", nargs="*", metavar="FIELD=VALUE", help="such as data.dir=prepared"
    )
    parser.add_argument("--output", required=True, metavar="PNG", help="where the picture goes")
    parser.add_argument(
        "--step", type=non_negative, default=0, help="the training step whose batch (0)"
    )
    parser.set_defaults(run=run_show, subject=lambda a: a.output)


def run_classify(
    files: list[str], checkpoint: str, top_k: int, as_json: bool, **changes: Any
) -> int:
    """Classifies the files one by one; a file that cannot be used does not stop the others."""
    from ast_jax.checkpoint.load import read_checkpoint
    from ast_jax.inference.classifier import AudioClassifier

    enable_compilation_cache()
    guesses: list[str] = []
    classifier = AudioClassifier(read_checkpoint(checkpoint, guesses=guesses, **changes))
    for guess in guesses:
        print(f"note: {checkpoint}: {guess}", file=sys.stderr)
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


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluates checkpoints, prints a table or JSON, and keeps the results if asked to."""
    from rich.console import Console

    from ast_jax.evaluation.evaluate import evaluate_checkpoints
    from ast_jax.evaluation.report import results_json, results_table, write_results

    if arguments.output:
        check_free(Path(arguments.output))
    enable_compilation_cache()
    results = evaluate_checkpoints(
        arguments.checkpoints,
        arguments.data,
        name=arguments.name,
        split=arguments.split,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        on_device=arguments.on_device,
        **changed_fields(arguments),
    )
    if arguments.output:  # first, as a reader may close its end of the pipe
        write_results(arguments.output, results)
    for path in results.unnamed:
        print(
            f"note: {path} does not name its classes; they are taken in the data's order",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps(results_json(results), indent=2, allow_nan=False))
        return
    console = Console()
    with console.capture() as table:
        console.print(results_table(results))
    _print(table.get().rstrip("\n"))
    if arguments.output:
        _print(f"wrote {arguments.output}")


def run_prepare(arguments: argparse.Namespace) -> None:
    """Prepares a set and says what is in it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from ast_jax.data.prepare.prepare import prepare
    from ast_jax.data.prepared import classes_without_clips

    try:
        prepared = prepare(
            arguments.name,
            arguments.source,
            arguments.output,
            classes=arguments.classes,
            sampling_rate=arguments.sampling_rate,
            processes=arguments.processes,
            max_damaged=arguments.max_damaged,
            beam_runner=arguments.beam_runner,
            beam_options=arguments.beam_option,
        )
    except KeyboardInterrupt:
        if not arguments.beam_runner:  # whose files are its own until all are there
            complain("ast-jax", f"stopped; the same command goes on in {arguments.output}")
        raise
    for split, clips in prepared.splits.items():
        print(f"{split}: {clips} clips")
    for what, lines in (("not there", prepared.missing), ("unreadable", prepared.damaged)):
        if lines:
            print(f"{len(lines)} clips {what}, listed in skipped.csv, such as {lines[0]}")
    empty = classes_without_clips(prepared.folder)
    if empty:
        print(f"note: no clip of {', '.join(empty[:5])}" + (" and others" * (len(empty) > 5)))
    print(f"wrote {prepared.folder}, of digest {prepared.digest}")


def run_stats(arguments: argparse.Namespace) -> None:
    """Measures a prepared set, prints a table and keeps the values for training."""
    from rich.console import Console
    from rich.table import Table

    from ast_jax.data.prepared import default_splits, joined, open_prepared
    from ast_jax.data.statistics import measure, write_statistics

    prepared = open_prepared(arguments.folder, arguments.name)
    if arguments.splits:
        splits = arguments.splits
    elif "train" in prepared.splits:
        splits = "train"
    elif len(prepared.splits) == 1:
        (splits,) = prepared.splits
    else:
        splits, _ = default_splits(prepared, fold=1)
    found = measure(
        prepared.clips(splits),
        prepared.labels,
        prepared.sampling_rate,
        arguments.num_mel_bins,
        arguments.padded_to,
        arguments.processes,
    )
    table = Table(title=f"{prepared.name}, {splits}", show_header=False)
    table.add_row("log-mel mean", f"{found.mean:.7f}")
    table.add_row("log-mel std", f"{found.std:.7f}")
    table.add_row("clips", str(found.clips))
    table.add_row("duration", f"{found.hours:.2f} h, {found.shortest:.2f} to {found.longest:.2f} s")
    counts = sorted(found.classes.items(), key=lambda item: item[1])
    table.add_row(
        "classes", f"{len(counts)}, {sum(not n for _, n in counts)} of them without clips"
    )
    table.add_row("most clips", ", ".join(f"{name} {n}" for name, n in counts[:-6:-1]))
    table.add_row("fewest clips", ", ".join(f"{name} {n}" for name, n in counts[:5]))
    Console().print(table)
    file = write_statistics(
        prepared.folder, joined(splits), arguments.num_mel_bins, arguments.padded_to, found
    )
    print(f"wrote {file}, with the clips of every class")
    if arguments.padded_to:
        print(f"as fields: --config.frontend.mean={found.mean:.7f} ", end="")
        print(f"--config.frontend.std={found.std:.7f}")
    else:
        print("training on these splits takes them where frontend.mean and frontend.std are None")


def run_show(arguments: argparse.Namespace) -> None:
    """Draws a batch of a configuration."""
    from ast_jax.config import load_config
    from ast_jax.training.plot_batch import show

    if Path(arguments.output).suffix.lower() != ".png":
        raise InputError(f"{arguments.output}: is no PNG's name; let it end in .png")
    show(load_config(arguments.config, arguments.changes), Path(arguments.output), arguments.step)
    print(f"wrote {arguments.output}")


def _print(text: str) -> None:
    """Prints what the terminal's encoding has and escapes the rest, as file names hold anything."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


if __name__ == "__main__":
    sys.exit(main())
