"""Arrays from `.npz` files that others may have made."""

import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from pipeline import storage

_MAX_RATIO = 100  # of the arrays' size to the file's: weights do not compress, bombs do


def read(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of a file, or those of some names that it has.

    Raises ValueError, EOFError, OSError or zipfile.BadZipFile if it cannot be read, is damaged, holds anything but
    arrays of numbers, or says that it has more than it can have.
    """
    with storage.open_regular(str(path)) as opened:
        with zipfile.ZipFile(opened) as archive:
            num_bytes = sum(entry.file_size for entry in archive.infolist())
        if num_bytes > _MAX_RATIO * path.stat().st_size:
            raise ValueError(f"it would unpack to {num_bytes} bytes")
        opened.seek(0)
        try:
            with np.load(opened, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files if names is None or name in names}
        except MemoryError as error:  # by the word of a header alone
            raise ValueError(str(error)) from error
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{others[0]} is no array")
    return arrays
