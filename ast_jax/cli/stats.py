"""`ast-jax stats`: measures a prepared set's log-mels."""

import argparse
import os

from ast_jax.cli.command import positive
from ast_jax.storage import check_local


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `ast-jax stats`."""
    cores = os.cpu_count() or 1
    parser.add_argument("folder", metavar="DIR", help="a prepared set, or the --output of prepare")
    parser.add_argument("--name", default="", help="the kind of source, if DIR holds several sets")
    parser.add_argument(
        "--splits", default="", help="such as balanced+unbalanced (the training splits)"
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
    parser.set_defaults(run=run, subject=lambda arguments: arguments.folder)


def run(arguments: argparse.Namespace) -> None:
    """Measures a prepared set, prints a table and writes the values for training."""
    from rich.console import Console
    from rich.table import Table

    from ast_jax.data.prepared import default_splits, normalize_splits, open_prepared
    from ast_jax.data.statistics import measure, write_statistics

    check_local(arguments.folder)
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
    empty = sum(not count for _, count in counts)
    table.add_row("classes", f"{len(counts)}, {empty} of them without clips")
    table.add_row("most clips", ", ".join(f"{name} {n}" for name, n in counts[:-6:-1]))
    table.add_row("fewest clips", ", ".join(f"{name} {n}" for name, n in counts[:5]))
    Console().print(table)
    splits = normalize_splits(splits)
    file = write_statistics(
        prepared.folder, splits, arguments.num_mel_bins, arguments.padded_to, found
    )
    print(f"wrote {file}, with the number of clips per class")
    if arguments.padded_to:
        print(f"as fields: --config.frontend.mean={found.mean:.7f} ", end="")
        print(f"--config.frontend.std={found.std:.7f}")
    else:
        print("training on these splits uses them if frontend.mean and frontend.std are None")
