"""Reads a zip's directory entry by entry: `zipfile` keeps them all, which for two million takes 1.3 GB."""

import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO


def read_zip_directory(file: BinaryIO, add: Callable[[zipfile.ZipInfo], None]) -> None:
    """Calls `add` with each entry of a zip; raises what `zipfile.ZipFile` raises, and what `add` does."""
    _ForgetfulZipFile(file, add).close()


class _ForgetfulZipFile(zipfile.ZipFile):
    """Hands over what `zipfile` puts into its list and its dictionary of entries; it has no option for this."""

    def __init__(self, file: BinaryIO, add: Callable[[zipfile.ZipInfo], None]) -> None:
        self._forwarding = _ForwardingList(add)
        super().__init__(file)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "filelist":
            value = self._forwarding
        elif name == "NameToInfo":
            value = _ForgetfulDict()
        super().__setattr__(name, value)


class _ForwardingList(list[zipfile.ZipInfo]):
    def __init__(self, add: Callable[[zipfile.ZipInfo], None]) -> None:
        self._add = add

    def append(self, entry: zipfile.ZipInfo) -> None:
        self._add(entry)


class _ForgetfulDict(dict[str, zipfile.ZipInfo]):
    def __setitem__(self, name: str, entry: zipfile.ZipInfo) -> None:
        pass
