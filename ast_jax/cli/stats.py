"""`ast-jax stats`: measures a prepared set's log-mels."""

from typing import Annotated

import tyro

from ast_jax.cli.arguments import CORES, NonNegative, Positive, check_given
from ast_jax.cli.command import naming
from ast_jax.urls import check_local


def stats(
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    *,
    name: str = "",
    splits: str = "",
    num_mel_bins: Positive = 128,
    padded_to: NonNegative = 0,
    processes: Positive = CORES,
) -> int:
    """Measure a prepared set's log-mels.

    Args:
        folder: a prepared set, or the --output of prepare
        name: the kind of source, if DIR holds several sets
        splits: such as balanced+unbalanced; the training splits if empty
        num_mel_bins: of the log-mels
        padded_to: frames to pad clips to, as the original's script does; 0 for none
        processes: that measure
    """
    from rich.console import Console
    from rich.table import Table

    from ast_jax.data.prepared import default_splits, normalize_splits, open_prepared
    from ast_jax.data.statistics import measure, write_statistics

    check_given(DIR=folder)
    check_local(folder)
    prepared = open_prepared(folder, name)
    if not splits:
        if "train" in prepared.splits:
            splits = "train"
        elif len(prepared.splits) == 1:
            (splits,) = prepared.splits
        else:
            splits, _ = default_splits(prepared, fold=1)
    found = measure(
        prepared.clips(splits),
        prepared.labels,
        prepared.sampling_rate,
        num_mel_bins,
        padded_to,
        processes,
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
    with naming(folder):
        file = write_statistics(prepared.folder, splits, num_mel_bins, padded_to, found)
    print(f"wrote {file}, with the number of clips per class")
    if padded_to:
        print(f"as fields: --frontend.mean={found.mean:.7f} ", end="")
        print(f"--frontend.std={found.std:.7f}")
    else:
        print("training on these splits uses them if frontend.mean and frontend.std are None")
    return 0
