"""Reads a folder or a zip archive of cell crops in place: the files' names first, the bytes of each on request.

Nothing is unpacked to disk. A zip's directory is read once, by the process that lists the cells: each cell carries
its own entry (`ZipEntry`), so workers open the archive and seek.
"""

import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from etils import epath

from pipeline.cells import Cell, ZipEntry
from pipeline.errors import InputError
from pipeline.source.files import MAX_ENCODED_BYTES, File, Files, UnreadableImage, read_image_file, read_zip_directory
from pipeline.storage import is_remote, list_objects, open_file, open_place, read_range

LINK_TO_FOLDER = "symbolic link to a folder, which is not followed"
_ZIP_LOCAL_HEADER = struct.Struct("<26xHH")
_ZIP_NAME_BYTES = 512  # read with the header, so that one read is enough where name and extra field are no longer


class Source(AbstractContextManager["Source"]):
    """A folder or archive of cell crops; a context manager that closes it."""

    is_remote: bool  # whether it lies in an object store

    @abstractmethod
    def walk(self) -> tuple[Files, set[str]]:
        """All files, and the paths of all folders except hidden ones, in any order."""

    @abstractmethod
    def read(self, root: str, cell: Cell) -> bytes:
        """The bytes of a cell's file below the class folders' folder.

        Raises UnreadableImage if they are damaged, too many or have changed since they were listed, and OSError if the
        source fails or the archive has changed.
        """

    def __exit__(self, *_: object) -> None:
        """Closes what `read` has opened."""


def is_hidden(path: str) -> bool:
    """Whether a path is or lies in a dot file or in the `__MACOSX` folder that macOS adds to archives."""
    if "/." not in f"/{path}" and "__MACOSX" not in path:  # the quick way for nearly all paths
        return False
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.split("/"))


class FolderSource(Source):
    """A folder, local or on an object store."""

    def __init__(self, folder: str, only: Collection[str] | None = None) -> None:
        self._folder, self._only = epath.Path(folder), only
        self.is_remote = is_remote(folder)
        self._prefix = f"{folder}/"

    def walk(self) -> tuple[Files, set[str]]:
        files = Files()
        folders: set[str] = set()
        pending = [""]
        while pending:
            prefix = pending.pop()
            objects = ((*entry, None, None) for entry in list_objects(self._folder / prefix))
            for name, is_folder, num_bytes, modified_ns, fault in objects if self.is_remote else self._scan(prefix):
                path = prefix + name
                if is_folder and not is_hidden(name):
                    folders.add(path)
                    if self._only is None or path in self._only:
                        pending.append(path + "/")
                else:
                    files.append(File(path, num_bytes, None, None if is_hidden(name) else fault, modified_ns))
        return files, folders

    def _scan(self, prefix: str) -> Iterator[tuple[str, bool, int, int | None, str | None]]:
        with os.scandir(self._folder / prefix) as entries:
            for entry in entries:
                if entry.is_symlink() and (fault := self._link_fault(entry)):
                    yield entry.name, False, 0, None, fault
                elif entry.is_dir():
                    yield entry.name, True, 0, None, None
                else:
                    status = entry.stat()
                    fault = None if stat.S_ISREG(status.st_mode) else "not a regular file"
                    yield entry.name, False, status.st_size, status.st_mtime_ns, fault

    def _link_fault(self, entry: os.DirEntry[str]) -> str | None:
        if os.path.isdir(entry.path):  # noqa: PTH112 - an entry's path is a str
            return LINK_TO_FOLDER
        top = os.path.realpath(self._folder)
        if os.path.commonpath([top, os.path.realpath(entry.path)]) != top:
            return "symbolic link out of the source's folder"
        return None if os.path.exists(entry.path) else "broken symbolic link"  # noqa: PTH110 - as above

    def read(self, root: str, cell: Cell) -> bytes:
        path = self._prefix + root + cell.filename
        if not self.is_remote:
            return read_image_file(path, cell)
        content = read_range(path, 0, cell.num_bytes + 1)
        if len(content) != cell.num_bytes:
            raise UnreadableImage("has changed since it was listed")
        return content


def normal_path(name: str) -> str | None:
    r"""An archive's name as a path from its top; None if it leads elsewhere. Windows' archivers may write `\`."""
    *folders, base_name = name.replace("\\", "/").split("/")
    path = "/".join([*(folder for folder in folders if folder not in ("", ".")), base_name])
    is_absolute = name.startswith("/") or re.match(r"[A-Za-z]:", path)
    return None if is_absolute or ".." in path.split("/") else path


class ZipSource(Source):
    """A zip archive."""

    def __init__(self, archive: str) -> None:
        self._path = epath.Path(archive)
        self.is_remote = is_remote(archive)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def walk(self) -> tuple[Files, set[str]]:
        files, folders = Files(), set[str]()

        def add(entry: zipfile.ZipInfo) -> None:
            if entry.header_offset < 0:
                raise InputError(f"--source={self._path} has lost its beginning; copy or download it again")
            path, fault = normal_path(entry.filename), None
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
            if path and not path.endswith("/"):
                name_crc = zlib.crc32(entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437"))
                zip_entry = ZipEntry(entry.header_offset, entry.compress_size, entry.compress_type, entry.CRC, name_crc)
                files.append(File(path, entry.file_size, zip_entry, fault, modified_ns))

        try:
            with open_file(self._path) as file:
                modified_ns = self._modified_ns(file)
                read_zip_directory(file, add)
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
            raise InputError(
                f"--source={self._path} is not a zip archive or is cut off ({error}); "
                "expected a folder or a complete .zip file; copy or download it again"
            ) from error
        return files, folders

    def _modified_ns(self, file: BinaryIO) -> int | None:
        return None if self.is_remote else os.fstat(file.fileno()).st_mtime_ns

    def read(self, root: str, cell: Cell) -> bytes:
        zip_entry = cell.zip_entry
        if zip_entry is None:
            raise ValueError(f"{root}{cell.filename} has no zip_entry; expected the one that `walk` gave")
        if zip_entry.compressed_size > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"more than {MAX_ENCODED_BYTES} compressed bytes")
        num_bytes = _ZIP_LOCAL_HEADER.size + _ZIP_NAME_BYTES + zip_entry.compressed_size
        content = self._read_at(zip_entry.offset, num_bytes, cell)
        if len(content) < _ZIP_LOCAL_HEADER.size or not content.startswith(b"PK\x03\x04"):
            raise UnreadableImage("damaged in the archive: no file header at its offset")
        name_length, extra_length = _ZIP_LOCAL_HEADER.unpack_from(content)
        name = content[_ZIP_LOCAL_HEADER.size :][:name_length]
        if zlib.crc32(name) != zip_entry.name_crc and name_length <= _ZIP_NAME_BYTES:
            raise UnreadableImage("damaged in the archive: its directory has another name for it")
        start = _ZIP_LOCAL_HEADER.size + name_length + extra_length
        if name_length + extra_length <= _ZIP_NAME_BYTES:
            content = content[start : start + zip_entry.compressed_size]
        else:
            content = self._read_at(zip_entry.offset + start, zip_entry.compressed_size, cell)
        if zip_entry.method == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, MAX_ENCODED_BYTES + 1)
            except zlib.error as error:
                raise UnreadableImage(f"damaged in the archive: {error}") from error
        if len(content) > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"more than {MAX_ENCODED_BYTES} bytes")
        if zlib.crc32(content) != zip_entry.crc:
            raise UnreadableImage("damaged in the archive: its CRC-32 does not fit")
        return content

    def _read_at(self, offset: int, num_bytes: int, cell: Cell) -> bytes:
        """Reads a part of the archive, less where it ends before; raises OSError if it has changed."""
        if self.is_remote:
            return read_range(os.fspath(self._path), offset, num_bytes)
        with self._lock:
            if self._file is None:
                self._file = open_file(self._path)
            if self._modified_ns(self._file) != cell.modified_ns:  # its size may fit, and then the CRC-32s decide
                raise OSError(f"{self._path} has changed since it was listed")
            self._file.seek(offset)
            return self._file.read(num_bytes)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def open_source(path: str, only: Collection[str] | None = None) -> Source:
    """Opens a folder or zip archive; of a folder only some subfolders count. Raises InputError if there is none."""
    location = open_place(path, "--source")
    try:
        if location.is_dir():
            return FolderSource(os.fspath(location), only)
        if location.exists():
            if not is_remote(location) and not Path(location).is_file():  # epath takes whatever exists for a file
                raise InputError(f"--source={path} is not a regular file; expected a folder or a .zip file")
            return ZipSource(os.fspath(location))
    except OSError as error:
        raise InputError(f"--source={path} cannot be read: {error}; check that it is there and may be read") from error
    raise InputError(f"--source={path} does not exist; expected a folder, a .zip file, or 'nih' to download the NLM's")
