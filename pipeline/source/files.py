"""A source's files, packed since as objects two million take more than 1 GB; a zip's directory; one image file."""

import marshal
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from pipeline.cells import Cell, ZipEntry
from pipeline.storage import NotRegular, open_regular

MAX_ENCODED_BYTES = 1 << 26  # larger image files are rejected: no crop comes near this, as a zip bomb may


class UnreadableImage(Exception):
    """An image file cannot be read or decoded; the message is the reason."""


class File(NamedTuple):
    """A file of the source."""

    path: str  # from the source's top, with `/`
    num_bytes: int
    zip_entry: ZipEntry | None = None  # None in a folder
    fault: str | None = None  # why it must not be read
    modified_ns: int | None = None  # see `Cell`


class Files:
    """Many files: `append` takes one, an index gives it back."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._rest: list[bytes] = []  # of each `File`

    def append(self, file: File) -> None:
        """Adds a file."""
        path, num_bytes, zip_entry, *rest = file
        self.paths.append(path)
        self._rest.append(marshal.dumps((num_bytes, zip_entry and tuple(zip_entry), *rest)))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> File:
        num_bytes, zip_entry, *rest = marshal.loads(self._rest[index])
        return File(self.paths[index], num_bytes, zip_entry and ZipEntry(*zip_entry), *rest)

    def __iter__(self) -> Iterator[File]:
        return map(self.__getitem__, range(len(self)))


def printable_path(path: str) -> str:
    """A path of any bytes and length as text for people."""
    text = path.encode(errors="backslashreplace").decode()
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def read_zip_directory(file: BinaryIO, add: Callable[[zipfile.ZipInfo], None]) -> None:
    """Calls `add` with each entry of a zip; raises what `zipfile.ZipFile` raises, and what `add` does."""

    class Entries(list[zipfile.ZipInfo]):
        def append(self, entry: zipfile.ZipInfo) -> None:
            add(entry)

    class ForgetfulZipFile(zipfile.ZipFile):  # which has no option for this
        filelist = property(lambda _: Entries(), lambda *_: None)
        NameToInfo = property(lambda _: {}, lambda *_: None)

    ForgetfulZipFile(file).close()


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
