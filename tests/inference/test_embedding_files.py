import json

import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.inference.embedding_files import PACKAGES, Column, check_format, write_table

ROWS = 5
ABOUT = {"pooling": "patches", "layer": None}
TABLE = {
    "file": np.array(["é.wav", "b", "c/long name.flac", "", "e"]),
    "start": np.array([0, 0.5, 1, 1.5, 2]),
    "targets": np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]], bool),
    "embedding": np.arange(ROWS * 6, dtype=np.float32).reshape(ROWS, 2, 3),
}
CLASSES = ["dog", "café", "rain"]


def columns():
    """Returns the table as blocks of 2, 2 and 1 rows."""

    def column(name):
        array = TABLE[name]
        dtype = str if array.dtype.kind == "U" else array.dtype
        blocks = [array[i : i + 2] for i in range(0, ROWS, 2)]
        return Column(dtype, array.shape[1:], lambda: iter(blocks))

    return {name: column(name) for name in TABLE}


def read_npz(path):
    with np.load(path) as arrays:
        found = dict(arrays)
    return found, found.pop("classes").tolist(), json.loads(str(found.pop("about")))


def read_zarr(path):
    import zarr

    group = zarr.open_group(path, mode="r")
    arrays = {name: array[:] for name, array in group.arrays()}
    arrays["file"] = np.array(arrays["file"].tolist())
    return arrays, group.attrs["classes"], group.attrs["about"]


def read_parquet(path):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    assert table.num_rows == ROWS
    arrays = {name: np.array(table[name].to_pylist()) for name in ("file", "start", "embedding")}
    arrays["embedding"] = arrays["embedding"].reshape(ROWS, 2, 3).astype(np.float32)
    labels = table["labels"].to_pylist()
    arrays["targets"] = np.array([[name in row for name in CLASSES] for row in labels])
    return arrays, CLASSES, json.loads(table.schema.metadata[b"ast_jax"])


READ = {".npz": read_npz, ".parquet": read_parquet, ".zarr": read_zarr}


@pytest.mark.parametrize("suffix", PACKAGES)
def test_the_usual_reader_of_a_format_returns_the_table(tmp_path, suffix):
    pytest.importorskip(PACKAGES[suffix])
    path = tmp_path / "new" / f"\udcff{suffix}"  # no UTF-8
    write_table(path, columns(), ROWS, CLASSES, ABOUT)
    path = path.rename(tmp_path / f"x{suffix}")
    arrays, classes, about = READ[suffix](path)
    assert (classes, about) == (CLASSES, ABOUT)
    assert arrays.keys() == TABLE.keys()
    for name, expected in TABLE.items():
        np.testing.assert_array_equal(arrays[name], expected)
        assert arrays[name].dtype.kind == expected.dtype.kind
    with pytest.raises(InputError, match="exists already"):
        write_table(path, columns(), ROWS, CLASSES, ABOUT)


def test_a_failing_block_leaves_nothing(tmp_path):
    def fail():
        yield TABLE["start"][:2]
        raise InputError("damaged")

    table = columns() | {"start": Column(np.float64, (), fail)}
    with pytest.raises(InputError, match="damaged"):
        write_table(tmp_path / "new" / "x.npz", table, ROWS, CLASSES, ABOUT)
    assert not list(tmp_path.iterdir())


def test_formats_that_cannot_be_written_are_refused(monkeypatch):
    with pytest.raises(InputError, match=r"x.csv: ends in none of .npz, .parquet, .zarr; choose"):
        check_format("x.csv")
    monkeypatch.setitem(PACKAGES, ".zarr", "no_such_package")
    with pytest.raises(InputError, match=r"x.zarr: .zarr files need no_such_package, .*\[embed\]'"):
        check_format("x.zarr")
