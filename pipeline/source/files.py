"""A source's files: by columns, since as objects two million take more than 1 GB; a zip's directory; one image file."""

import itertools
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from pipeline.cells import Cell, ZipEntry
from pipeline.storage import NotRegular, open_regular

_ROW = struct.Struct("<QqIqQHII")  # number of bytes; seconds and nanoseconds of the time; `ZipEntry`
_NO_TIME = (0, 10**9)
_NO_ENTRY = ZipEntry(-1, 0, 0, 0, 0)

MAX_ENCODED_BYTES = 1 << 26
"""Larger image files are rejected: no cell crop comes near this, and a zip bomb must not fill the memory."""


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
        self._rows = bytearray()
        self._faults: dict[int, str] = {}

    def append(self, file: File) -> None:
        """Adds a file."""
        if file.fault is not None:
            self._faults[len(self.paths)] = file.fault
        time = _NO_TIME if file.modified_ns is None else divmod(file.modified_ns, 10**9)
        self._rows += _ROW.pack(file.num_bytes, *time, *(file.zip_entry or _NO_ENTRY))
        self.paths.append(file.path)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> File:
        path = self.paths[index]
        num_bytes, seconds, ns, *entry = _ROW.unpack_from(self._rows, index * _ROW.size)
        zip_entry = None if entry[0] < 0 else ZipEntry(*entry)
        return File(path, num_bytes, zip_entry, self._faults.get(index), None if ns == 10**9 else seconds * 10**9 + ns)

    def __iter__(self) -> Iterator[File]:
        return map(self.__getitem__, range(len(self)))

    def sorted_indices(self) -> Iterator[int]:
        """Indices by path, code point by code point.

        An archive may hold a name twice: the smaller file comes first, then the one whose entry does, then one without
        fault.
        """

        def by_content(index: int) -> tuple[int, tuple[int, ...], str]:
            _, num_bytes, zip_entry, fault, _ = self[index]
            return num_bytes, zip_entry or (), fault or ""

        by_path = sorted(range(len(self)), key=self.paths.__getitem__)
        for _, group in itertools.groupby(by_path, key=self.paths.__getitem__):
            first, *others = group
            yield from sorted([first, *others], key=by_content) if others else [first]


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
        filelist = Entries()
        NameToInfo = property(lambda _: {})  # another one for each entry

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in ("filelist", "NameToInfo"):
                super().__setattr__(name, value)

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
