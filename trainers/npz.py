"""Arrays from `.npz` files that others may have made: a header's word is checked before any memory is taken for it."""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from pipeline import storage

_MAX_RATIO = 100  # of an entry's size to the file's: weights do not compress, bombs do


def read(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of a file, or those of some names that it has.

    Raises:
      ValueError, EOFError, OSError, zipfile.BadZipFile: if the file cannot be read, is damaged, holds Python objects,
        or says that it has more than it can have.
    """
    with storage.open_regular(str(path)) as opened, zipfile.ZipFile(opened) as archive:
        size = path.stat().st_size
        for entry in archive.infolist():
            with archive.open(entry) as array:
                if np.lib.format.read_magic(array) != (1, 0):  # of all arrays without many named fields
                    raise ValueError(f"{entry.filename} is of an unknown format")
                shape, _, dtype = np.lib.format.read_array_header_1_0(array)
                num_bytes = entry.file_size - array.tell()
            if dtype.hasobject:
                raise ValueError(f"{entry.filename} holds Python objects, which are never loaded")
            if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != num_bytes:
                raise ValueError(
                    f"{entry.filename} says it has the shape {shape} of {dtype}, but it has {num_bytes} bytes"
                )
            if num_bytes > _MAX_RATIO * size:
                raise ValueError(f"{entry.filename} would unpack to {num_bytes} bytes")
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if names is None or name in names}
