"""`ast-jax embed`: writes the embeddings of recordings to a file."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ast_jax.cli.arguments import Dtype, Positive, check_given
from ast_jax.cli.command import complain, naming
from ast_jax.cli.load_classifier import load_classifier
from ast_jax.errors import InputError, print_note
from ast_jax.io import check_free, json_checksum
from ast_jax.urls import check_local

if TYPE_CHECKING:
    import numpy as np

    from ast_jax.cli.embedding_inputs import Recordings, Row
    from ast_jax.inference.classifier import AudioClassifier
    from ast_jax.inference.embedding_files import Column
    from ast_jax.inference.embedding_parts import EmbeddingParts
    from ast_jax.inference.windows import WindowSlicer

    Compute = Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]]  # embeddings of model inputs

Pooling = Literal["pooled", "cls", "distillation", "mean", "patches"]


def embed(
    files: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE|FOLDER|PREPARED ...")
    ],
    *,
    checkpoint: str,
    output: str,
    pooling: Pooling = "pooled",
    layer: int | None = None,
    window: float | None = None,
    hop: float | None = None,
    name: str = "",
    split: str = "",
    batch_size: Positive = 8,
    dtype: Dtype = None,
    scale_loud: bool = False,
) -> int:
    """Write the embeddings of recordings to a file.

    The same command after an interruption goes on; finished parts are in OUTPUT.parts.

    Args:
        files: sound files, folders to read recursively, a prepared set, or a folder in the layout
            of ESC-50 or UrbanSound8K
        checkpoint: as for classify
        output: a new .npz, .parquet or .zarr
        pooling: of the tokens: pooled (the mean of class and distillation token), cls,
            distillation, mean (of the patches), or patches (each, by frequency and time)
        layer: 0 for the patch embeddings, 1 for the first layer, -1 for the last, each without the
            final norm; after the final norm by default
        window: a row for each window of so many seconds, instead of one for the beginning of each
            recording; the model's input if only --hop is given
        hop: seconds from window to window (the window)
        name: the kind of source, if a folder holds several prepared sets
        split: of a data set, such as fold1+fold2; all if empty
        batch_size: inputs that the device computes at once
        dtype: precision of the encoder; bfloat16 is faster on GPUs and TPUs (the checkpoint's)
        scale_loud: divide files that go beyond 1 by their peak
    """
    from ast_jax.cli.embedding_inputs import find_recordings
    from ast_jax.inference.embedding_files import check_format, write_table
    from ast_jax.inference.embedding_parts import open_parts
    from ast_jax.inference.embeddings import check_embedding, embedding_shape
    from ast_jax.inference.windows import WindowSlicer

    for file in files:
        check_given(FILE=file)
    if not files:
        raise InputError("no recordings are given; name files, folders or a prepared set")
    check_local(output)
    check_free(Path(output))
    check_format(output)
    classifier = load_classifier(checkpoint, dtype)
    layer = check_embedding(classifier.config, pooling, layer)
    if window is not None or hop is not None:
        slicer = WindowSlicer(classifier.feature_extractor, window, hop)
        window, hop = slicer.window, slicer.hop  # in whole samples and frames
    recordings = find_recordings(files, classifier.feature_extractor.sampling_rate, name, split)
    about: dict[str, Any] = {
        "checkpoint": _checkpoint_digest(classifier),
        "pooling": pooling,
        "layer": layer,
        "dtype": classifier.config.dtype,
        "window": window,
        "hop": hop,
    }
    compute = partial(classifier.embed_inputs, pooling=pooling, layer=layer, batch_size=batch_size)
    settings = about | {"scale_loud": scale_loud, "recordings": recordings.digest}
    folder = Path(f"{output}.parts")
    with naming(output), open_parts(folder, settings) as parts:
        try:
            _note_finished(parts, recordings)
            if window is None:
                _embed_beginnings(parts, recordings, compute, classifier, batch_size, scale_loud)
            else:
                new_slicer = partial(WindowSlicer, classifier.feature_extractor, window, hop)
                _embed_windows(parts, recordings, compute, new_slicer, scale_loud)
            parts.finish(len(recordings.names))
            rows = sum(len(files) for files, _ in parts.index)
            if not rows:
                raise InputError(
                    f"none of the {len(recordings.names)} recordings can be used; give others"
                )
            columns = _columns(parts, recordings, embedding_shape(classifier.config, pooling))
            about["source"] = checkpoint
            write_table(Path(output), columns, rows, recordings.labels, about)
        except KeyboardInterrupt:
            if parts.index:
                complain(f"stopped; run the same command again to go on from {folder}")
            raise
    unusable = len(parts.unusable)
    total = len(recordings.names)
    print(f"wrote {rows} embeddings of {total - unusable} recordings to {output}", flush=True)
    return 1 if unusable else recordings.status


def _note_finished(parts: "EmbeddingParts", recordings: "Recordings") -> None:
    """Prints what an interrupted command has finished, and what it could not use."""
    if parts.files_done:
        print_note(
            f"{parts.files_done} of {len(recordings.names)} recordings are finished in "
            f"{parts.folder}; going on"
        )
    for file in parts.unusable:
        complain(f"{recordings.names[file]}: could not be used, or not to its end")


def _embed_windows(
    parts: "EmbeddingParts",
    recordings: "Recordings",
    compute: "Compute",
    new_slicer: "Callable[[], WindowSlicer]",
    scale_loud: bool,
) -> None:
    """Adds the windows of recordings that are not finished, with a progress bar on a terminal."""
    from ast_jax.cli.embedding_inputs import read_window_rows
    from ast_jax.cli.reading_bar import ReadingBar

    done = parts.files_done
    with ReadingBar(len(recordings.names), is_shown=True) as bar:
        bar.index = done
        rows = read_window_rows(
            recordings, done, new_slicer, parts.unusable, bar, scale_loud=scale_loud
        )
        for _ in _add_rows(parts, rows, compute):
            pass


def _embed_beginnings(
    parts: "EmbeddingParts",
    recordings: "Recordings",
    compute: "Compute",
    classifier: "AudioClassifier",
    batch_size: int,
    scale_loud: bool,
) -> None:
    """Adds recordings that are not finished, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from ast_jax.cli.embedding_inputs import read_rows

    done = parts.files_done
    rows = read_rows(
        recordings, done, classifier, parts.unusable, batch_size=batch_size, scale_loud=scale_loud
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("embedding", total=len(recordings.names), completed=done)
        for file in _add_rows(parts, rows, compute):
            progress.update(task, completed=file)


def _add_rows(
    parts: "EmbeddingParts",
    rows: "Iterator[Row]",
    compute: "Compute",
) -> Iterator[int]:
    """Adds the embeddings of rows, and yields the index of the recording of each."""
    from ast_jax.inference.batching import map_values

    items = (((file, times), input_values) for file, times, input_values in rows)
    for (file, times), embedding in map_values(compute, items):
        parts.add(file, times, embedding)
        yield file


def _columns(
    parts: "EmbeddingParts", recordings: "Recordings", shape: tuple[int, ...]
) -> dict[str, "Column"]:
    """Returns the columns of the table of all parts."""
    import numpy as np

    from ast_jax.inference.embedding_files import Column

    def column(dtype: Any, entries: Callable[..., Any], shape: tuple[int, ...] = ()) -> Column:
        return Column(dtype, shape, lambda: (entries(*part) for part in parts.index))

    def text(values: Sequence[str]) -> Column:
        escaped = [_unicode(value) for value in values]
        return column(str, lambda files, _: np.array([escaped[i] for i in files]))

    columns = {"file": text(recordings.names)}
    if recordings.splits is not None:
        columns["split"] = text(recordings.splits)
    if not np.isnan(parts.index[0][1]).any():
        columns["start"] = column(np.float64, lambda _, times: times[:, 0])
        columns["end"] = column(np.float64, lambda _, times: times[:, 1])
    if recordings.targets is not None:
        targets, classes = recordings.targets, (len(recordings.labels),)
        columns["targets"] = column(bool, lambda files, _: targets[files].toarray(), classes)
    return columns | {"embedding": Column(np.float32, shape, parts.embeddings)}


def _unicode(text: str) -> str:
    """Returns a name with bytes that are no UTF-8 escaped."""
    return str(text).encode(errors="backslashreplace").decode()


def _checkpoint_digest(classifier: "AudioClassifier") -> str:
    """Computes a checksum of the configuration, feature extractor and parameters."""
    from dataclasses import asdict

    from flax import nnx

    from ast_jax.checkpoint.checksums import array_checksums

    params = nnx.to_pure_dict(nnx.state(classifier.model, nnx.Param))
    return json_checksum(
        [
            classifier.config.to_dict(),
            asdict(classifier.feature_extractor),
            array_checksums({"params": params}),
        ]
    )
