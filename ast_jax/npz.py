"""Reads arrays from untrusted `.npz` files."""

import io
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from ast_jax.errors import first_line, quoted

# What reading a damaged `.npz` raises beside ValueError; a header may nest too deep to parse.
DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, tokenize.TokenError, EOFError, MemoryError,
    NotImplementedError, RuntimeError, SyntaxError,
)  # fmt: skip


def read_npz(file: str | Path | io.BytesIO) -> dict[str, np.ndarray]:
    """Reads all arrays of an uncompressed `.npz` file, as `np.savez` writes it.

    Raises:
        ValueError: the file is damaged: also where an array is said to be larger than its data, or
            is compressed, before memory is taken.
        OSError: it cannot be read.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{quoted(entry.filename)} is compressed")
                with archive.open(entry) as stream:
                    arrays[entry.filename.removesuffix(".npy")] = _read_npy(stream, entry.file_size)
    except DAMAGED_ZIP as error:
        raise ValueError(first_line(error)) from None
    return arrays


def _read_npy(stream: IO[bytes], size: int) -> np.ndarray:
    """Reads an array of `size` bytes, header included."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"has an array of format {version}")
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject or fortran_order or any(n < 0 for n in shape):
        raise ValueError("has an array of another kind")
    if math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise ValueError(f"has an array of shape {shape} and {size} bytes")
    return np.frombuffer(stream.read(), dtype).reshape(shape)
