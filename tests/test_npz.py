import zipfile

import numpy as np
import pytest

from ast_jax.npz import read_npz


def test_arrays_round_trip_through_an_npz(tmp_path):
    arrays = {"a": np.arange(5), "b": np.array(["x", "é"]), "c": np.zeros((0, 2), np.int32)}
    np.savez(tmp_path / "x.npz", **arrays)
    read = read_npz(tmp_path / "x.npz")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def npy(shape, data=b"", dtype="<i8"):
    header = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        npy((10**12,)),
        npy((-1,), bytes(8)),
        npy((1,), bytes(8), dtype="|O"),
        npy((1,), bytes(7)),
        b"\x93NUMPY\1\0" + (9000).to_bytes(2, "little") + b"(" * 9000,
        b"\x93NUMPY\3\0",
        b"",
    ],
)
def test_an_array_that_is_not_there_is_refused_before_memory_is_taken(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match=r"\S"):
        read_npz(tmp_path / "x.npz")
