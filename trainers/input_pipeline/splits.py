"""Split expressions: text such as `train[:10%]` in, the parts of shards that it means out. No TensorFlow needed."""

import os
from typing import NamedTuple

import tensorflow_datasets as tfds
from etils import epath

from pipeline.errors import InputError
from pipeline.records.example import IMAGE


class Split(NamedTuple):
    """A split expression of a prepared data set, resolved to parts of shards.

    Attributes:
      expression: such as `train`, `fold_0+fold_1`, `train[:10%]`.
      files: shards, in order.
      skips, takes: first record and number of records of each.
      image_size_px: side of the stored images.
      is_png: whether they are encoded.
    """

    expression: str
    files: tuple[str, ...]
    skips: tuple[int, ...]
    takes: tuple[int, ...]
    image_size_px: int
    is_png: bool

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return sum(self.takes)

    @property
    def num_bytes(self) -> int:
        """Size of its images in memory."""
        return self.num_cells * self.image_size_px**2 * 3


def open_split(directory: epath.Path, expression: str, flag: str = "split") -> Split:
    """Resolves a TFDS split expression.

    Args:
      directory: the data set's version folder.
      expression: such as `train`, `fold_0+fold_1`, `train[:10%]`.
      flag: name of the flag it came from, for errors.

    Raises:
      InputError: if it names no split or no cell.
    """
    builder = tfds.builder_from_directory(directory)
    image = builder.info.features[IMAGE]
    try:
        parts = builder.info.splits[expression].file_instructions
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(
            f"--{flag}={expression} is no split of {directory}; expected an expression of "
            f"{', '.join(builder.info.splits)}, such as {next(iter(builder.info.splits))}[:10%]"
        ) from error
    parts = [part for part in parts if part.examples_in_shard]
    takes = tuple(part.take if part.take != -1 else part.examples_in_shard - part.skip for part in parts)
    if not sum(takes):
        raise InputError(f"--{flag}={expression} of {directory} has no cells; expected a larger part")
    return Split(
        expression,
        tuple(os.fspath(part.filename) for part in parts),
        tuple(part.skip for part in parts),
        takes,
        image.shape[0],
        isinstance(image, tfds.features.Image),
    )


def part(split: Split, start: int, stop: int) -> Split:
    """Some rows of a split, as a split.

    Args:
      split: what they are of.
      start, stop: 0 ≤ start < stop ≤ num_cells.
    """
    kept = []
    first = 0  # row of the shard's first cell
    for file, skip, take in zip(split.files, split.skips, split.takes, strict=True):
        low, high = max(start - first, 0), min(stop - first, take)
        if low < high:
            kept.append((file, skip + low, high - low))
        first += take
    files, skips, takes = zip(*kept, strict=True)
    return split._replace(files=files, skips=skips, takes=takes)


def overlap(one: Split, other: Split) -> int:
    """Number of cells that two splits of one data set share."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for file, skip, take in zip(other.files, other.skips, other.takes, strict=True):
        ranges.setdefault(file, []).append((skip, skip + take))
    return sum(
        max(0, min(skip + take, stop) - max(skip, start))
        for file, skip, take in zip(one.files, one.skips, one.takes, strict=True)
        for start, stop in ranges.get(file, ())
    )
