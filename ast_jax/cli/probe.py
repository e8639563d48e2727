"""`ast-jax probe`: scores embeddings by small classifiers that are trained on them."""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ast_jax.cli.arguments import Dtype, Positive, check_given
from ast_jax.cli.command import naming, print_tables
from ast_jax.cli.load_classifier import load_classifier
from ast_jax.errors import InputError, print_note
from ast_jax.io import atomic_write, check_free, write_csv, write_json
from ast_jax.urls import check_local

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from ast_jax.evaluation.probe import Probe
    from ast_jax.evaluation.probe_set import ProbeSet
    from ast_jax.inference.classifier import AudioClassifier

Pooling = Literal["pooled", "cls", "distillation", "mean"]


def probe(
    *,
    checkpoint: str,
    data: str,
    pooling: Pooling = "pooled",
    layer: int | None = None,
    train: str = "",
    split: str = "",
    name: str = "",
    batch_size: Positive = 8,
    dtype: Dtype = None,
    output: str = "",
    json: bool = False,
) -> int:
    """Score a checkpoint's embeddings: logistic regression and nearest neighbors on a data set.

    Args:
        checkpoint: as for classify
        data: a folder in the layout of ESC-50 or UrbanSound8K, a prepared set, or a folder with
            one folder per class
        pooling: of the tokens, as for embed
        layer: as for embed
        train: folds or splits to train on, such as train+validation; those that the data set
            trains on if empty, and of folds all that are not held out
        split: those to hold out, one after another; each fold, or the held-out split, if empty
        name: the kind of source, if DATA holds several prepared sets
        batch_size: clips that the device computes at once
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        output: a new folder for scores and predictions
        json: print JSON
    """
    from rich.console import Console

    from ast_jax.evaluation.probe import PROBES, check_packages, train_probe
    from ast_jax.evaluation.probe_set import read_probe_set
    from ast_jax.inference.embeddings import check_embedding

    check_given(data=data)
    if output:
        check_local(output)
        check_free(Path(output))
    check_packages()
    classifier = load_classifier(checkpoint, dtype)
    layer = check_embedding(classifier.config, pooling, layer)
    rate = classifier.feature_extractor.sampling_rate
    found = read_probe_set(data, rate, train=train, split=split, name=name)
    if found.sampling_rate != rate:
        raise InputError(
            f"{data}: is at {found.sampling_rate} Hz and {checkpoint} takes {rate} Hz; prepare it "
            f"with --sampling-rate {rate}"
        )
    for note in found.notes:
        print_note(note)
    trained = _count_trained(checkpoint, found)
    console = Console(stderr=True)
    embeddings = _embed(classifier, found, pooling, layer, batch_size, console)
    targets = found.clips.all_targets()
    probes = []
    for each in PROBES:
        with console.status(f"training {each}"):
            probes.append(train_probe(each, embeddings, targets, found.groups, found.train_groups))
    results = {
        "checkpoint": checkpoint,
        "pooling": pooling,
        "layer": layer,
        "data": found.folder,
        "clips": len(found.groups),
        "classes": len(found.labels),
        "clips_trained_on": trained,
        "probes": [_to_dict(each) for each in probes],
    }
    if output:  # before printing, as the reader of a pipe may close it
        with naming(output):
            _write(Path(output), results, probes, found, targets)
    if json:
        print(json_module.dumps(results, indent=2, allow_nan=False))
        return 0
    print_tables(_table(f"{found.folder}: {len(found.groups)} clips", probes))
    if output:
        print(f"wrote {output}", flush=True)
    return 0


def _count_trained(checkpoint: str, found: "ProbeSet") -> dict[str, int] | None:
    """Returns how many clips of each group a run was trained on; None if it is not recorded.

    Prints a note about them.
    """
    import numpy as np

    from ast_jax.data.overlap import hash_clips, read_trained_clips

    trained = read_trained_clips(checkpoint)
    if trained is None:
        return None
    hashes = hash_clips(found.clips)
    counts = dict.fromkeys(found.groups, 0)
    for i in np.flatnonzero(hashes.found_in(trained)):
        counts[found.groups[i]] += 1
    by_sound = hashes.sounds is not None and trained.sounds is not None
    how = "" if by_sound else " (compared by name and length)"
    if known := [group for group, clips in counts.items() if clips]:
        print_note(
            f"{checkpoint}: trained on {sum(counts.values())} of the {len(found.groups)} clips"
            f"{how}, in {', '.join(known)}; scores of these say little about new sounds"
        )
    else:
        print_note(f"{checkpoint}: trained on none of the {len(found.groups)} clips{how}")
    return counts


def _embed(
    classifier: "AudioClassifier",
    found: "ProbeSet",
    pooling: str,
    layer: int | None,
    batch_size: int,
    console: Any,
) -> "np.ndarray":
    """Returns the embeddings (clips, hidden), with a progress bar on a terminal."""
    import numpy as np
    from rich.progress import track

    from ast_jax.cli.embedding_inputs import Recordings, read_rows

    recordings = Recordings(list(found.clips.names), found.clips.waveforms, digest="")
    unusable: list[int] = []
    rows = read_rows(recordings, 0, classifier, unusable, batch_size=batch_size)
    embeddings = list(
        track(
            classifier.embed_inputs((row.input_values for row in rows), pooling, layer, batch_size),
            "embedding",
            len(found.groups),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    )
    if unusable:
        raise InputError(f"{len(unusable)} clips of {found.folder} cannot be used; repair it")
    return np.stack(embeddings)


def _to_dict(probe: "Probe") -> dict[str, Any]:
    folds = [
        {
            "held_out": fold.group,
            "clips": len(fold.clips),
            "score": fold.score,
            "setting": fold.setting,
        }
        for fold in probe.folds
    ]
    return {
        "probe": probe.name,
        "metric": probe.metric,
        "mean": probe.mean,
        "std": probe.std,
        "folds": folds,
    }


def _table(title: str, probes: "list[Probe]") -> "Table":
    """Returns a table with a row for each held-out group, and one for their mean."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    table.add_column("held out")
    for probe in probes:
        table.add_column(Text(f"{probe.name}, {probe.metric}"), justify="right")
    for folds in zip(*(probe.folds for probe in probes), strict=True):
        settings = zip(folds, ("C", "k"), strict=True)
        table.add_row(
            Text(folds[0].group),
            *(f"{fold.score:.1%} ({name} = {fold.setting:g})" for fold, name in settings),
        )
    if all(probe.std is not None for probe in probes):
        table.add_section()
        table.add_row("mean ± std", *(f"{probe.mean:.1%} ± {probe.std:.1%}" for probe in probes))
    return table


def _write(
    folder: Path,
    results: dict[str, Any],
    probes: "list[Probe]",
    found: "ProbeSet",
    targets: "np.ndarray",
) -> None:
    """Writes results.json and predictions.csv to a new folder."""
    from ast_jax.evaluation.report import prediction_rows

    rows = [
        {"probe": probe.name, "held_out": fold.group, **row}
        for probe in probes
        for fold in probe.folds
        for row in prediction_rows(
            [found.clips.names[i] for i in fold.clips],
            found.labels,
            fold.scores,
            targets[fold.clips],
        )
    ]
    with atomic_write(folder.absolute()) as temporary:
        temporary.mkdir()
        write_json(temporary / "results.json", results)
        write_csv(temporary / "predictions.csv", rows)
