"""Image files on their way to a model: paths in, decoded and resized cells out, in order and in bounded memory.

Threads read, decode and resize ahead of the model, with the very functions that made the training cells: some 0.15 ms
a cell, beside which the model's own time is long.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.cells import IMAGE_SUFFIXES
from pipeline.source import decode
from pipeline.source.archive import MAX_ENCODED_BYTES, UnreadableImage

Files = Iterator[tuple[str, str]]
"""Path of each file, and why it cannot be used, "" if nothing speaks against it yet."""

_FILES_A_TASK = 32
_TASKS_AHEAD_OF_EACH_THREAD = 4


class Decoded(NamedTuple):
    """A file, in the order it was given.

    Attributes:
      file: its path.
      pixels: uint8 RGB [size, size, 3]; None if it cannot be used.
      error: why not; "" otherwise.
    """

    file: str
    pixels: np.ndarray | None
    error: str


def image_files(paths: Iterable[str]) -> Files:
    """Yields (file, error) for the files that are named, and for images by name in folders, sorted, and below them.

    The error is "" but for a path that does not exist and a folder without images.
    """
    for path in paths:
        if not Path(path).is_dir():
            yield path, "" if Path(path).exists() else "does not exist"
            continue
        is_empty = True
        for folder, subfolders, names in os.walk(path):
            subfolders.sort()
            for name in sorted(names):
                if name.lower().endswith(IMAGE_SUFFIXES):
                    is_empty = False
                    yield str(Path(folder) / name), ""
        if is_empty:
            yield path, f"has no images; expected files that end in {', '.join(IMAGE_SUFFIXES)}"


def decode_files(
    files: Iterable[tuple[str, str]], image_size_px: int, num_threads: int | None = None
) -> Iterator[Decoded]:
    """Decodes files ahead of whoever takes them, at most some hundred of them.

    Args:
      files: see `image_files`.
      image_size_px: side of the result in pixels.
      num_threads: that decode; by default one a processor.
    """
    num_threads = num_threads or os.cpu_count() or 1
    files = iter(files)
    with ThreadPoolExecutor(num_threads, initializer=_yield_to_the_model) as threads:
        running: deque[Future[list[Decoded]]] = deque()
        while True:
            while len(running) < num_threads * _TASKS_AHEAD_OF_EACH_THREAD:
                chunk = list(islice(files, _FILES_A_TASK))
                if not chunk:
                    break
                running.append(threads.submit(_decode_chunk, chunk, image_size_px))
            if not running:
                return
            yield from running.popleft().result()


def _yield_to_the_model() -> None:
    """Lowers the priority of a decoding thread.

    Where the model runs on the same processors, each of its steps waits for the slowest of its own threads, so that a
    decoder beside one of them costs as much as beside all.
    """
    if sys.platform == "linux":  # where threads have priorities of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)


def _decode_chunk(files: list[tuple[str, str]], image_size_px: int) -> list[Decoded]:
    return [Decoded(file, None, error) if error else _decode(file, image_size_px) for file, error in files]


def _decode(file: str, image_size_px: int) -> Decoded:
    try:
        with Path(file).open("rb") as opened:
            encoded = opened.read(MAX_ENCODED_BYTES + 1)
        if len(encoded) > MAX_ENCODED_BYTES:
            raise UnreadableImage(f"more than {MAX_ENCODED_BYTES} bytes")
        return Decoded(file, decode.resize(decode.decode(encoded, file).pixels, image_size_px), "")
    except OSError as error:
        return Decoded(file, None, f"cannot be read: {error.strerror or error}")
    except UnreadableImage as error:
        return Decoded(file, None, str(error))
