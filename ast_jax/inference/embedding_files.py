"""Writes tables of embeddings as .npz, .parquet or .zarr, block by block."""

import importlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ast_jax.errors import InputError
from ast_jax.io import atomic_write

PACKAGES = {".npz": "numpy", ".parquet": "pyarrow", ".zarr": "zarr"}
CHUNK_BYTES = 4 << 20  # of an array in .zarr


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        dtype: of NumPy, or `str`.
        shape: of one row's entry.
        blocks: returns the entries (rows, *shape) in blocks, as often as it is called; those of all
            columns of a table have the same numbers of rows.
    """

    dtype: Any
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[np.ndarray]]


Columns = Mapping[str, Column]


def check_format(path: str | Path) -> None:
    """Raises InputError if there is no format of the suffix, or its package is not installed."""
    suffix = Path(path).suffix.lower()
    if suffix not in PACKAGES:
        raise InputError(f"{path}: ends in none of {', '.join(PACKAGES)}; choose one of them")
    try:
        importlib.import_module(PACKAGES[suffix])
    except ImportError as error:
        raise InputError(
            f"{path}: {suffix} files need {PACKAGES[suffix]}, which cannot be imported ({error}); "
            f"pip install 'ast-jax[embed]'"
        ) from None


def write_table(
    path: Path, columns: Columns, rows: int, classes: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Writes a table atomically; only a block of it is in memory.

    Args:
        path: of the new file or folder; its suffix is the format.
        columns: by name. A bool column (classes,) `targets` is `labels`, lists of names, in
            .parquet.
        rows: of each column.
        classes: the names of the columns of `targets`; none where there is no such column.
        about: what the table is of, for JSON.

    Raises:
        InputError: the path exists or cannot be written, or a package is not installed.
    """
    check_format(path)
    write = {".npz": _write_npz, ".parquet": _write_parquet, ".zarr": _write_zarr}
    with atomic_write(path) as temporary:
        write[path.suffix.lower()](temporary, columns, rows, classes, json.dumps(about))


def _write_npz(path: Path, columns: Columns, rows: int, classes: Sequence[str], about: str) -> None:
    """Writes arrays that `np.load` reads: the columns, `classes` and the JSON text `about`."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, column in columns.items():
            dtype = np.dtype(_text_dtype(column) if column.dtype is str else column.dtype)
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (rows, *column.shape),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for block in column.blocks():
                    member.write(np.ascontiguousarray(block, dtype).data.cast("B"))
        extra = {"about": np.array(about)} | ({"classes": np.array(classes)} if classes else {})
        for name, array in extra.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _text_dtype(column: Column) -> str:
    lengths = [max(map(len, block), default=1) for block in column.blocks()]
    return f"<U{max([1, *lengths])}"


def _write_parquet(
    path: Path, columns: Columns, rows: int, classes: Sequence[str], about: str
) -> None:
    """Writes a row group a block. Arrays are lists of fixed size, in row-major order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def array_of(name: str, block: np.ndarray) -> Any:
        if name == "targets":
            labels = [[classes[i] for i in np.flatnonzero(row).tolist()] for row in block]
            return pa.array(labels, pa.list_(pa.string()))
        if not columns[name].shape:
            return pa.array(block, pa.string() if columns[name].dtype is str else None)
        return pa.FixedSizeListArray.from_arrays(
            pa.array(block.reshape(-1)), int(np.prod(columns[name].shape))
        )

    names = ["labels" if name == "targets" else name for name in columns]
    empty = [
        array_of(name, np.empty((0, *column.shape), column.dtype))
        for name, column in columns.items()
    ]
    fields = [pa.field(name, array.type) for name, array in zip(names, empty, strict=True)]
    schema = pa.schema(fields, {"ast_jax": about})
    # pyarrow takes paths of UTF-8 only.
    with path.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
        for blocks in zip(*(column.blocks() for column in columns.values()), strict=True):
            arrays = [array_of(*each) for each in zip(columns, blocks, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _write_zarr(
    path: Path, columns: Columns, rows: int, classes: Sequence[str], about: str
) -> None:
    """Writes a group of an array a column, with `about` and `classes` as attributes."""
    import zarr

    group = zarr.create_group(path, attributes={"about": json.loads(about), "classes": [*classes]})
    for name, column in columns.items():
        row_bytes = np.dtype(column.dtype).itemsize * int(np.prod(column.shape)) or 64
        array = group.create_array(
            name,
            shape=(rows, *column.shape),
            chunks=(min(max(CHUNK_BYTES // row_bytes, 1), rows), *column.shape),
            dtype=column.dtype,
        )
        start = 0
        for block in column.blocks():
            array[start : start + len(block)] = block
            start += len(block)
