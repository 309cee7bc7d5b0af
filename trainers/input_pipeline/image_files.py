"""Image files for prediction: paths in, decoded and resized cells out, in order and in bounded memory.

Threads work ahead of the model with the functions that the Beam job uses, in about 0.15 ms per cell.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.cells import IMAGE_SUFFIXES
from pipeline.source import decode
from pipeline.source.files import UnreadableImage, read_image_file

Files = Iterator[tuple[str, str]]
"""Path of each file, and why it is rejected, "" if it is not."""

_FILES_PER_TASK = 32
_TASKS_PER_THREAD = 4


class Decoded(NamedTuple):
    """A file."""

    file: str  # its path
    pixels: np.ndarray | None  # uint8 RGB [size, size, 3]; None if it is rejected
    error: str  # why it is rejected; "" otherwise
    conversions: tuple[str, ...] = ()  # see `decode.DecodedImage`
    side_px: int = 0  # the longer side of the image in the file


def image_files(paths: Iterable[str]) -> Files:
    """Yields files, and all images in and below folders, sorted by name; with an error for a folder without any."""
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 - `Path` raises for names that no file can have
            yield path, ""
            continue
        is_empty = True
        unreadable: list[OSError] = []
        for folder, subfolders, names in os.walk(path, onerror=unreadable.append):
            subfolders.sort()
            for name in subfolders:
                if (link := Path(folder) / name).is_symlink():
                    yield str(link), "symbolic link to a folder, which is not followed; name it on the command line"
            for name in sorted(names):
                if name.lower().endswith(IMAGE_SUFFIXES):
                    is_empty = False
                    yield str(Path(folder) / name), ""
        for error in unreadable:
            yield error.filename, f"cannot be read: {error.strerror}"
        if is_empty and not unreadable:
            yield path, f"has no images; expected files that end in {', '.join(IMAGE_SUFFIXES)}"


def decode_files(
    files: Files, image_size_px: int, num_threads: int | None = None, *, background: str = "keep"
) -> Iterator[Decoded]:
    """Decodes `image_files` in their order, at most a few hundred ahead of the consumer, to images of one size.

    By default there is one thread per CPU; for `background` see `decode.apply_background`.
    """
    num_threads = num_threads or os.cpu_count() or 1

    def decode_chunk(chunk: list[tuple[str, str]]) -> list[Decoded]:
        return [_decode(*file, image_size_px, background) for file in chunk]

    with ThreadPoolExecutor(num_threads) as threads:
        running: deque[Future[list[Decoded]]] = deque()
        while True:
            while len(running) < num_threads * _TASKS_PER_THREAD and (chunk := list(islice(files, _FILES_PER_TASK))):
                running.append(threads.submit(decode_chunk, chunk))
            if not running:
                return
            yield from running.popleft().result()


def _decode(file: str, error: str, image_size_px: int, background: str) -> Decoded:
    if error:
        return Decoded(file, None, error)
    try:
        pixels, conversions = decode.decode(read_image_file(file), file)
        side_px = max(pixels.shape)
        pixels = decode.resize(decode.apply_background(pixels, background), image_size_px)
        return Decoded(file, pixels, "", conversions, side_px)
    except FileNotFoundError:
        return Decoded(file, None, "does not exist")
    except OSError as failure:
        return Decoded(file, None, f"cannot be read: {failure.strerror or failure}")
    except UnreadableImage as failure:
        return Decoded(file, None, str(failure))
