"""Local folders and object stores, and the few things in which they differ.

A local file is written under a name of its own and renamed once it is complete, and a local job holds a lock. An object
appears only once it is complete, renaming it would copy it, and there is no lock: there, equal bytes from every worker
keep two jobs from harming each other.
"""

import errno
import io
import os
import platform
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import filelock
import fsspec
from etils import epath

from pipeline.errors import InputError

MAX_CONNECTIONS = 32  # to an object store at the same time, per process
PARTIAL = ".partial"  # how the name of a local file ends that a process is writing, or was when it was killed

_SECONDS_FOR_A_LOCK = 1.0
_HOLDER = "process "
_BUFFER_BYTES = 1 << 20


class NotRegular(OSError):
    """Something that is no regular file was to be read."""


def open_place(path: str, flag: str) -> epath.Path:
    """A path as given by a flag, `~` expanded; raises InputError if it is empty or of an unknown kind of store."""
    if not path:
        raise InputError(f"{flag} is empty; expected a path")
    try:
        return epath.Path(path).expanduser()
    except (KeyError, ValueError) as error:
        expected = "expected a local path, gs://… or s3://…: download or copy it first"
        raise InputError(f"{flag}={path} cannot be reached; {expected}") from error


def is_remote(path: str | epath.PathLike) -> bool:
    """Whether a path lies in an object store, such as `gs://…` or `s3://…`."""
    return "://" in os.fspath(path)


def open_regular(path: str) -> io.FileIO:
    """Opens a local file for reading, unbuffered and without waiting; raises NotRegular for FIFO, device or socket."""
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        file = io.FileIO(path, opener=lambda name, mode: os.open(name, mode | flags))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NotRegular(errno.EINVAL, "not a regular file", path) from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegular(errno.EINVAL, "not a regular file", path)
    return file


def open_file(path: epath.Path) -> io.BufferedReader:
    """Opens a file for reading; a local one as `open_regular` does."""
    if is_remote(path):
        return cast(io.BufferedReader, path.open("rb"))
    return io.BufferedReader(open_regular(os.fspath(path)))


def object_store(path: str | epath.PathLike) -> tuple[fsspec.AbstractFileSystem, str]:
    """The object store of a path, and the path's name there; it remembers no listing, since others write too."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if os.fspath(path).startswith("s3://"):  # where botocore's default is 10 connections
        given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"max_pool_connections": MAX_CONNECTIONS, **given}
    return fsspec.url_to_fs(os.fspath(path), **options)


def read_range(path: str, start: int, num_bytes: int) -> bytes:
    """Reads a part of an object, less where it ends before, in one request; raises OSError if that fails."""
    filesystem, name = object_store(path)
    try:
        return bytes(filesystem.cat_file(name, start=start, end=start + num_bytes))
    except Exception:
        if filesystem.size(name) <= start:  # stores refuse a range that begins beyond the end
            return b""
        raise


def read_file(path: epath.Path, max_bytes: int = 1 << 26) -> bytes:
    """Reads a file; raises ValueError if it is larger than anything expected under its name, OSError if it fails."""
    with open_file(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return content


@contextmanager
def open_atomic(path: epath.Path | Path) -> Iterator[BinaryIO]:
    """Opens a file for writing that appears under its name when the block ends, and not at all if it raises."""
    if is_remote(path):
        # Uploaded once complete: fsspec would finish an open object of which only a part was written.
        with tempfile.NamedTemporaryFile(buffering=_BUFFER_BYTES) as temporary:
            yield cast(BinaryIO, temporary)
            temporary.flush()
            filesystem, name = object_store(path)
            filesystem.put_file(temporary.name, name)
        return
    partial = path.parent / f"{path.name}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        with open(partial, "wb", buffering=_BUFFER_BYTES) as file:  # noqa: PTH123 - epath's has no such option
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomic(path: epath.Path | Path, content: bytes) -> None:
    """Writes a file as `open_atomic` does."""
    with open_atomic(path) as file:
        file.write(content)


def make_folder(folder: epath.Path) -> None:
    """Makes a local folder with its parents."""
    if not is_remote(folder):  # object stores have none, and asked for one s3fs would make a bucket
        folder.mkdir(parents=True, exist_ok=True)


def list_names(folder: epath.Path) -> list[str]:
    """Names of a folder's entries, those that other processes have just written included."""
    if is_remote(folder):
        return [name for name, _, _ in list_objects(folder)]
    return [path.name for path in Path(folder).iterdir()]


def list_objects(folder: str | epath.PathLike) -> Iterator[tuple[str, bool, int]]:
    """Name, whether it is a folder, and size in bytes of the entries of a folder in an object store."""
    filesystem, root = object_store(folder)
    for entry in filesystem.ls(root, detail=True):  # a request brings a thousand
        if (path := entry["name"].rstrip("/")) != root.rstrip("/"):
            yield PurePosixPath(path).name, entry["type"] == "directory", entry["size"] or 0


def remove_folder(folder: epath.Path) -> None:
    """Removes a folder with all that is in it, if it exists; of a link only the link."""
    if not is_remote(folder) and Path(folder).is_symlink():
        folder.unlink()
    elif folder.exists():
        folder.rmtree(missing_ok=True)


def remove_others(folder: epath.Path, expected: set[str]) -> None:
    """Removes every entry of a folder whose name is not expected."""
    for name in set(list_names(folder)) - expected:
        path = folder / name
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def lock(target: epath.Path, file: epath.Path | None = None) -> Iterator[None]:
    """Holds a target folder's lock, by default a file next to it; raises InputError if another process holds it."""
    if is_remote(target):
        yield
        return
    path = file or target.parent / f"{target.name}.lock"
    make_folder(path.parent)
    try:
        with filelock.FileLock(os.fspath(path), timeout=_SECONDS_FOR_A_LOCK):  # a killed process leaves it free
            try:
                if (holder := path.read_text()) == "" or holder.startswith(_HOLDER):  # else filelock's, without flock
                    path.write_text(f"{_HOLDER}{os.getpid()} on {platform.node()}")
                yield
            finally:
                path.unlink(missing_ok=True)  # while it is locked: whoever waits for it notices and tries again
    except filelock.Timeout as error:
        holder = f"{path.read_text() or 'it'} holds {path}"
        remedy = "wait until it has ended, then the same command finds or continues its work"
        raise InputError(f"another job is at work on {target} ({holder}); {remedy}") from error
