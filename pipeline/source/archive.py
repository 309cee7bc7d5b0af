"""Reads a folder or a zip archive of cell crops in place: the files' names first, the bytes of each on request.

Nothing is unpacked to disk or kept open. A zip's directory is read once, by the process that lists the cells: each cell
carries its own entry (`ZipEntry`), so workers seek.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from etils import epath

from pipeline.cells import Cell, ZipEntry
from pipeline.errors import InputError
from pipeline.source.files import MAX_ENCODED_BYTES, File, Files, UnreadableImage, read_image_file, read_zip_directory
from pipeline.storage import is_remote, list_objects, open_file, open_place, open_regular, read_range

LINK_TO_FOLDER = "symbolic link to a folder, which is not followed"
_ZIP_LOCAL_HEADER = struct.Struct("<26xHH")
_ZIP_NAME_BYTES = 4096  # read with the header, so that one read is enough for nearly all names and extra fields


def is_hidden(path: str) -> bool:
    """Whether a path is or lies in a dot file or in the `__MACOSX` folder that macOS adds to archives."""
    if "/." not in f"/{path}" and "__MACOSX" not in path:  # the quick way for nearly all paths
        return False
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.split("/"))


class FolderSource:
    """A folder, local or on an object store."""

    def __init__(self, folder: str, only: Collection[str] | None = None) -> None:
        self.path, self._only = folder, only
        self.is_remote = is_remote(folder)

    def walk(self) -> Files:
        """All files except those in hidden folders, in any order."""
        files, pending = Files(), [""]
        while pending:
            prefix = pending.pop()
            for name, is_folder, num_bytes, modified_ns, fault in self._list(f"{self.path}/{prefix}"):
                if not is_folder or is_hidden(name):
                    files.append(File(prefix + name, num_bytes, None, fault, modified_ns))
                elif self._only is None or prefix + name in self._only:
                    pending.append(f"{prefix}{name}/")
        return files

    def _list(self, folder: str) -> Iterator[tuple[str, bool, int, int | None, str | None]]:
        """Name, whether it is a folder, size, time and fault of each entry of a folder."""
        if self.is_remote:
            yield from ((*entry, None, None) for entry in list_objects(folder))
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink() and (fault := self._link_fault(entry.path)):
                    yield entry.name, False, 0, None, fault
                elif entry.is_dir():
                    yield entry.name, True, 0, None, None
                else:
                    status = entry.stat()
                    fault = None if stat.S_ISREG(status.st_mode) else "not a regular file"
                    yield entry.name, False, status.st_size, status.st_mtime_ns, fault

    def _link_fault(self, path: str) -> str | None:
        if not (link := Path(path)).exists():
            return "broken symbolic link"
        if link.is_dir():
            return LINK_TO_FOLDER
        is_inside = link.resolve().is_relative_to(Path(self.path).resolve())
        return None if is_inside else "symbolic link out of the source's folder"

    def read(self, root: str, cell: Cell) -> bytes:
        """The bytes of a cell's file below the folder `root`.

        Raises UnreadableImage if they are damaged, too many or have changed since they were listed, and OSError if the
        source fails or the archive has changed.
        """
        path = f"{self.path}/{root}{cell.filename}"
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


class ZipSource:
    """A zip archive; see `FolderSource` for its methods."""

    def __init__(self, archive: str) -> None:
        self.path, self.is_remote = archive, is_remote(archive)

    def walk(self) -> Files:
        """All files; raises InputError if it is no complete zip archive."""
        files = Files()

        def add(entry: zipfile.ZipInfo) -> None:
            if entry.header_offset < 0:
                raise zipfile.BadZipFile("its beginning is missing")
            path, fault = normal_path(entry.filename), None
            if path is None:
                path, fault = entry.filename, "absolute path or '..' in the archive"
            elif entry.flag_bits & 0x1:
                fault = "encrypted"
            elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                fault = f"compressed by method {entry.compress_type}; expected stored or deflated"
            if path and not path.endswith("/"):
                name_crc = zlib.crc32(entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437"))
                zip_entry = ZipEntry(entry.header_offset, entry.compress_size, entry.compress_type, entry.CRC, name_crc)
                files.append(File(path, entry.file_size, zip_entry, fault, modified_ns))

        try:
            with open_file(epath.Path(self.path)) as file:
                modified_ns = None if self.is_remote else os.fstat(file.fileno()).st_mtime_ns
                read_zip_directory(file, add)
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
            raise InputError(
                f"--source={self.path} is not a zip archive or is cut off ({error}); "
                "expected a folder or a complete .zip file; copy or download it again"
            ) from error
        return files

    def read(self, root: str, cell: Cell) -> bytes:
        if (entry := cell.zip_entry) is None:
            raise ValueError(f"{root}{cell.filename} has no zip_entry; expected the one that `walk` gave")
        if entry.compressed_size > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"more than {MAX_ENCODED_BYTES} compressed bytes")
        content = self._read_at(entry.offset, _ZIP_LOCAL_HEADER.size + _ZIP_NAME_BYTES + entry.compressed_size, cell)
        if len(content) < _ZIP_LOCAL_HEADER.size or not content.startswith(b"PK\x03\x04"):
            raise UnreadableImage("damaged in the archive: no file header at its offset")
        name_length, extra_length = _ZIP_LOCAL_HEADER.unpack_from(content)
        if name_length + extra_length > _ZIP_NAME_BYTES:
            num_bytes = _ZIP_LOCAL_HEADER.size + name_length + extra_length + entry.compressed_size
            content = self._read_at(entry.offset, num_bytes, cell)
        name, content = content[_ZIP_LOCAL_HEADER.size :][:name_length], content[_ZIP_LOCAL_HEADER.size + name_length :]
        if zlib.crc32(name) != entry.name_crc:
            raise UnreadableImage("damaged in the archive: its directory has another name for it")
        content = content[extra_length:][: entry.compressed_size]
        if entry.method == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, MAX_ENCODED_BYTES + 1)
            except zlib.error as error:
                raise UnreadableImage(f"damaged in the archive: {error}") from error
        if len(content) > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"more than {MAX_ENCODED_BYTES} bytes")
        if zlib.crc32(content) != entry.crc:
            raise UnreadableImage("damaged in the archive: its CRC-32 does not fit")
        return content

    def _read_at(self, offset: int, num_bytes: int, cell: Cell) -> bytes:
        """Reads a part of the archive, less where it ends before; raises OSError if it has changed."""
        if self.is_remote:
            return read_range(self.path, offset, num_bytes)
        with open_regular(self.path) as file:
            if os.fstat(file.fileno()).st_mtime_ns != cell.modified_ns:  # its size may fit, then the CRC-32s decide
                raise OSError(f"{self.path} has changed since it was listed")
            file.seek(offset)
            return file.read(num_bytes)


Source = FolderSource | ZipSource


def open_source(path: str, only: Collection[str] | None = None) -> Source:
    """The folder, of which only some subfolders may count, or zip archive of a path; InputError if there is none."""
    location = open_place(path, "--source")
    try:
        if location.is_dir():
            return FolderSource(os.fspath(location), only)
        if location.exists() if is_remote(location) else Path(location).is_file():
            return ZipSource(os.fspath(location))
    except OSError as error:
        raise InputError(f"--source={path} cannot be read: {error}; check that it is there and may be read") from error
    missing = f"--source={path} does not exist or is not a regular file"
    raise InputError(f"{missing}; expected a folder, a .zip file, or 'nih' to download the NLM's")
