"""Reads one image file, and says why it cannot be read."""

import os

from pipeline.cells import Cell
from pipeline.storage import NotRegular, open_regular

MAX_ENCODED_BYTES = 1 << 26
"""Larger image files are rejected: no cell crop comes near this, and a zip bomb must not fill the memory."""


class UnreadableImage(Exception):
    """An image file cannot be read or decoded; the message is the reason."""


def read_image_file(path: str, listed: Cell | None = None) -> bytes:
    """Reads a local image file, which is not opened for long nor read in vain.

    Raises UnreadableImage if it is no regular file, has more than `MAX_ENCODED_BYTES`, or is not as it was `listed`;
    OSError if it cannot be read.
    """
    try:
        # `open` and not a path's method: joining paths as objects takes as long as reading the file.
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if listed and (status.st_size, status.st_mtime_ns) != (listed.num_bytes, listed.modified_ns):
                raise UnreadableImage("has changed since it was listed")
            if status.st_size > MAX_ENCODED_BYTES:
                raise UnreadableImage(f"{status.st_size} bytes; expected at most {MAX_ENCODED_BYTES}")
            content = file.read(MAX_ENCODED_BYTES + 1)
    except NotRegular as error:
        raise UnreadableImage("not a regular file") from error
    if len(content) != status.st_size:
        raise UnreadableImage("changed while it was read")
    return content
