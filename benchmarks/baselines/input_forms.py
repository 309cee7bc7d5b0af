"""The cells in the peers' own forms, each written once, raw and uncompressed; only for their environment."""

import os
import struct
import sys
from pathlib import Path

import numpy as np

from benchmarks.harness.clock import Work

_WORKERS = os.cpu_count() or 1
_CELLS_PER_SHARD = 1024
_TFRECORD_FRAME_BYTES = 16


class IndexedCells:
    """The cells as an indexed collection of (image, label)."""

    def __init__(self, work: Work) -> None:
        self._images, self._labels = work.images, work.labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return np.array(self._images[row]), int(self._labels[row])


def write_ffcv(work: Work) -> None:
    """FFCV's beton file."""
    from ffcv.fields import IntField, NDArrayField
    from ffcv.writer import DatasetWriter

    fields = {"image": NDArrayField(np.dtype(np.uint8), work.images.shape[1:]), "label": IntField()}
    writer = DatasetWriter(str(Path(work.own) / "cells.beton"), fields, num_workers=_WORKERS)
    writer.from_indexed_dataset(IndexedCells(work))


def dali_index(work: Work, shard: str) -> Path:
    """Where a shard's index for DALI lies."""
    return Path(work.own) / f"{Path(shard).name}.idx"


def index_for_dali(work: Work) -> None:
    """What DALI's own `tfrecord2idx` writes: offset and size of every record."""
    for shard in work.shards:
        lines, offset, num_bytes = [], 0, Path(shard).stat().st_size
        with Path(shard).open("rb") as file:
            while offset < num_bytes:
                file.seek(offset)
                size = struct.unpack("<Q", file.read(8))[0] + _TFRECORD_FRAME_BYTES
                lines.append(f"{offset} {size}\n")
                offset += size
        dali_index(work, shard).write_text("".join(lines))


def write_tars(work: Work) -> None:
    """WebDataset's tar shards."""
    import webdataset

    with webdataset.ShardWriter(f"{work.own}/cells-%05d.tar", maxcount=_CELLS_PER_SHARD, verbose=0) as writer:
        for row, (image, label) in enumerate(zip(work.images, work.labels, strict=True)):
            writer.write({"__key__": f"{row:06d}", "image": image.tobytes(), "cls": int(label)})


def write_array_records(work: Work) -> None:
    """ArrayRecord files for Grain: the image's bytes, then the label's."""
    from array_record.python.array_record_module import ArrayRecordWriter

    starts = range(0, len(work.labels), _CELLS_PER_SHARD)
    for first in starts:
        path = Path(work.own) / f"cells-{first // _CELLS_PER_SHARD:05d}.array_record"
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        rows = slice(first, first + _CELLS_PER_SHARD)
        for image, label in zip(work.images[rows], work.labels[rows], strict=True):
            writer.write(image.tobytes() + bytes([label]))
        writer.close()


def make_torchvision_importable() -> None:
    """MosaicML Streaming imports torchvision, whose wheel cannot be imported beside a CPU build of PyTorch."""
    import torch

    try:
        import torchvision  # noqa: F401 - whether it can be imported is the question
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


def write_mds(work: Work) -> None:
    """MosaicML Streaming's shards."""
    make_torchvision_importable()
    from streaming import MDSWriter

    columns = {"image": f"ndarray:uint8:{','.join(map(str, work.images.shape[1:]))}", "label": "int"}
    with MDSWriter(out=work.own, columns=columns) as writer:
        for image, label in zip(work.images, work.labels, strict=True):
            writer.write({"image": np.array(image), "label": int(label)})


def write_arrow(work: Work) -> None:
    """Hugging Face's Arrow files: images as lists of fixed size."""
    import datasets
    import pyarrow

    tables = []
    for first in range(0, len(work.labels), _CELLS_PER_SHARD):
        rows = slice(first, first + _CELLS_PER_SHARD)
        pixels = np.array(work.images[rows])
        images = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(pixels.reshape(-1)), pixels[0].size)
        tables.append(pyarrow.table({"image": images, "label": work.labels[rows]}))
    datasets.Dataset(pyarrow.concat_tables(tables)).save_to_disk(work.own)
