"""Downloads the NLM's archive into a cache: with a progress bar, continued where it broke off, and checked."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from etils import epath

from pipeline import storage
from pipeline.errors import InputError
from pipeline.terminal import progress_bar

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60


class Archive(NamedTuple):
    """A file to download, and what it must be."""

    url: str
    num_bytes: int
    sha256: str


NIH_ARCHIVE = Archive(
    "https://data.lhncbc.nlm.nih.gov/public/Malaria/cell_images.zip",
    353_452_851,
    "0a949556b2414159b5100192609805376654c4266d8d187be9b1922fad43c668",
)


def fetch_archive(directory: str, archive: Archive = NIH_ARCHIVE) -> Path:
    """The path of an archive in a cache, downloaded if it is not there, its size and sha256 checked.

    A broken download stays there as `<name>.partial`. Raises InputError if the server cannot be reached, the download
    breaks off, or the file is not the archive.
    """
    path = Path(directory).expanduser() / archive.url.rpartition("/")[2]
    partial = path.with_name(f"{path.name}.partial")

    def is_complete() -> bool:
        return _size(path) == archive.num_bytes and _sha256(path) == archive.sha256

    try:
        if not is_complete():
            with storage.lock(epath.Path(path)):
                if not is_complete():  # else another process has downloaded it in the meantime
                    _download(archive, partial)
                    partial.replace(path)
        return path
    except OSError as error:
        raise InputError(f"cannot write the archive to {directory}: {error}; give another --download_dir") from error


def _download(archive: Archive, partial: Path) -> None:
    reason = "the server closed the connection"
    start = size if (size := _size(partial)) < archive.num_bytes else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file
                start = 0
            text = f"downloading {partial.stem}"
            with (
                partial.open("ab" if start else "wb") as file,
                progress_bar(archive.num_bytes, text, "B", unit_scale=True, initial=start) as bar,
            ):
                while chunk := response.read(_CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
    if (size := _size(partial)) < archive.num_bytes:
        raise InputError(
            f"the download of {archive.url} broke off at {size:,} of {archive.num_bytes:,} bytes ({reason}); the same "
            "command continues it"
        )
    if (size, digest := _sha256(partial)) != (archive.num_bytes, archive.sha256):
        partial.unlink()
        raise InputError(
            f"{archive.url} gave {size:,} bytes with sha256 {digest}, expected {archive.num_bytes:,} with "
            f"{archive.sha256}; the file was removed: try again, or get the archive elsewhere and give its path as "
            "--source"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
