"""Where the cell crops lie: a folder or a zip archive, walked once and read in place.

In: a path. Out: the files that are there, and the bytes of each on request. Nothing is unpacked to disk. Walking
reads names and sizes only; a file knows its place, so a worker reads its own cells without the archive's directory.
"""

import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from etils import epath

from pipeline.errors import InputError
from pipeline.storage import is_remote, open_place

MAX_ENCODED_BYTES = 1 << 26
"""Larger image files are rejected: no cell crop is near this, and a zip bomb must not fill the memory."""

_ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")


class UnreadableImage(Exception):
    """The bytes of one image file cannot be had; the message is the reason."""


class File(NamedTuple):
    """A file of the source by its path from the source's top; `fault` says why it must not be read."""

    path: str
    num_bytes: int
    place: tuple[int, ...] = ()
    fault: str | None = None


class Source(ABC):
    """A place that cell crops are read from; a context manager that closes it."""

    @abstractmethod
    def walk(self) -> tuple[list[File], set[str]]:
        """All files, and the paths of all folders, in any order; hidden ones and `__MACOSX` left out."""

    @abstractmethod
    def read(self, path: str, place: tuple[int, ...]) -> bytes:
        """The bytes of a file; raises UnreadableImage if these are damaged, OSError if the source fails."""

    @abstractmethod
    def checksum(self, path: str, place: tuple[int, ...]) -> int:
        """CRC-32 of a file's bytes, as cheaply as the source can tell it; raises as `read` does."""

    def close(self) -> None:
        """Frees what reading has opened."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_hidden(path: str) -> bool:
    """Whether a path is not meant for people: a dot file, or what macOS adds to archives."""
    if "/." not in f"/{path}" and "__MACOSX" not in path:  # as nearly all are
        return False
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.split("/"))


class FolderSource(Source):
    """A folder, local or on an object store."""

    def __init__(self, folder: str) -> None:
        self._folder = epath.Path(folder)
        self._local_prefix = None if is_remote(folder) else f"{folder}/"

    def walk(self) -> tuple[list[File], set[str]]:
        files: list[File] = []
        folders: set[str] = set()
        pending = [""]
        while pending:
            prefix = pending.pop()
            entries = self._scan(prefix) if self._local_prefix else self._scan_remote(prefix)
            for name, is_folder, num_bytes, fault in entries:
                path = prefix + name
                if is_hidden(name):
                    files.append(File(path, num_bytes))
                elif is_folder:
                    folders.add(path)
                    pending.append(path + "/")
                else:
                    files.append(File(path, num_bytes, fault=fault))
        return files, folders

    def _scan(self, prefix: str) -> Iterator[tuple[str, bool, int, str | None]]:
        with os.scandir(self._folder / prefix) as entries:
            for entry in entries:
                fault = None
                if entry.is_symlink():
                    top = os.path.realpath(self._folder)
                    if os.path.commonpath([top, os.path.realpath(entry.path)]) != top:
                        fault = "symbolic link out of the source's folder"
                    elif not os.path.exists(entry.path):  # noqa: PTH110 - an entry's path is a str
                        fault = "broken symbolic link"
                    elif entry.is_dir():
                        fault = "symbolic link to a folder"
                    yield entry.name, False, 0 if fault else entry.stat().st_size, fault
                elif entry.is_dir():
                    yield entry.name, True, 0, None
                else:
                    status = entry.stat()
                    regular = stat.S_ISREG(status.st_mode)
                    yield entry.name, False, status.st_size, None if regular else "not a regular file"

    def _scan_remote(self, prefix: str) -> Iterator[tuple[str, bool, int, str | None]]:
        for path in (self._folder / prefix).iterdir():
            is_folder = path.is_dir()
            yield path.name, is_folder, 0 if is_folder else path.stat().length, None

    def read(self, path: str, place: tuple[int, ...]) -> bytes:
        del place  # the path is enough
        if self._local_prefix is None:
            return (self._folder / path).read_bytes()
        # Joining paths as objects takes as long as reading the file.
        with open(self._local_prefix + path, "rb", buffering=0) as file:  # noqa: PTH123 - see above
            return file.read()

    def checksum(self, path: str, place: tuple[int, ...]) -> int:
        return zlib.crc32(self.read(path, place))


def _normal_path(name: str) -> str | None:
    """An archive's name as a path from its top; None if it leads elsewhere. Windows' archivers may write `\\`."""
    *folders, base_name = name.replace("\\", "/").split("/")
    if name.startswith("/") or re.match(r"^[A-Za-z]:", name) or ".." in (*folders, base_name):
        return None
    return "/".join([*(folder for folder in folders if folder not in ("", ".")), base_name])


class ZipSource(Source):
    """A zip archive, read in place by the offsets that its directory told once."""

    def __init__(self, archive: str) -> None:
        self._path = epath.Path(archive)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def walk(self) -> tuple[list[File], set[str]]:
        try:
            with self._path.open("rb") as file, zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
            raise InputError(
                f"--source={self._path} is not a zip archive or is cut off ({error}); "
                "expected a folder or a whole .zip file; copy or download it again"
            ) from error
        if any(entry.header_offset < 0 for entry in entries):
            raise InputError(f"--source={self._path} has lost its beginning; copy or download it again")
        files, folders = [], set()
        for entry in entries:
            path, fault = _normal_path(entry.filename), None
            if path is None:
                path, fault = entry.filename, "absolute path or '..' in the archive"
            elif entry.flag_bits & 0x1:
                fault = "encrypted"
            elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                fault = f"compressed by method {entry.compress_type}; expected stored or deflated"
            if fault is None and not is_hidden(path):
                folder = path.rpartition("/")[0]
                while folder and folder not in folders:
                    folders.add(folder)
                    folder = folder.rpartition("/")[0]
            if path.endswith("/") or not path:
                continue
            place = (entry.header_offset, entry.compress_size, entry.compress_type, entry.CRC)
            files.append(File(path, entry.file_size, place, fault))
        return files, folders

    def read(self, path: str, place: tuple[int, ...]) -> bytes:
        offset, compressed_size, method, crc = place
        if compressed_size > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"more than {MAX_ENCODED_BYTES} compressed bytes")
        with self._lock:
            if self._file is None:
                self._file = self._path.open("rb")
            self._file.seek(offset)
            header = self._file.read(_ZIP_LOCAL_HEADER.size)
            if len(header) < _ZIP_LOCAL_HEADER.size:
                raise UnreadableImage("outside of the archive")
            signature, name_length, extra_length = _ZIP_LOCAL_HEADER.unpack(header)
            if signature != b"PK\x03\x04":
                raise UnreadableImage("damaged in the archive: no file header at its place")
            self._file.seek(name_length + extra_length, os.SEEK_CUR)
            content = self._file.read(compressed_size)
        if method == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, MAX_ENCODED_BYTES + 1)
            except zlib.error as error:
                raise UnreadableImage(f"damaged in the archive: {error}") from error
        if len(content) > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"more than {MAX_ENCODED_BYTES} bytes")
        if zlib.crc32(content) != crc:
            raise UnreadableImage("damaged in the archive: its CRC-32 does not fit")
        return content

    def checksum(self, path: str, place: tuple[int, ...]) -> int:
        del path  # the archive's directory has it
        return place[-1]

    def close(self) -> None:
        """Closes the archive."""
        if self._file is not None:
            self._file.close()


def open_source(path: str) -> Source:
    """Opens a folder or zip archive.

    Raises:
      InputError: if there is no such folder or file.
    """
    place = open_place(path, "--source")
    try:
        if place.is_dir():
            return FolderSource(os.fspath(place))
        if place.exists():
            if not is_remote(place) and not Path(place).is_file():  # to etils whatever is no folder is a file
                raise InputError(f"--source={path} is no regular file; expected a folder or a .zip file")
            return ZipSource(os.fspath(place))
    except OSError as error:
        raise InputError(f"--source={path} cannot be read: {error}") from error
    raise InputError(f"--source={path} does not exist; expected a folder, a .zip file, or 'nih' to download the NLM's")
