"""Reads the cells with other libraries' loaders, in an environment of their own (`make peers`).

    .venv-peers/bin/python -m benchmarks.baselines.input_libraries '<work as JSON>'    (see benchmarks.harness.clock)

Each library reads its own format, written once, raw and uncompressed; DALI reads the project's TFRecords. There are as
many threads and workers as CPUs.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import clock
from benchmarks.harness.clock import SEED, SHUFFLED_RECORDS, Batch, Reader, Work, repeated

_WORKERS = os.cpu_count() or 1


class IndexedCells:
    """The cells as an indexed collection of (image, label)."""

    def __init__(self, work: Work) -> None:
        self._images, self._labels = work.images, work.labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return np.array(self._images[row]), int(self._labels[row])


def _write_ffcv(work: Work) -> None:
    from ffcv.fields import IntField, NDArrayField
    from ffcv.writer import DatasetWriter

    fields = {"image": NDArrayField(np.dtype(np.uint8), work.images.shape[1:]), "label": IntField()}
    writer = DatasetWriter(str(work.own / "cells.beton"), fields, num_workers=_WORKERS)
    writer.from_indexed_dataset(IndexedCells(work))


def _read_ffcv(work: Work) -> Iterator[Batch]:
    from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    loader = Loader(
        str(work.own / "cells.beton"),
        batch_size=work.batch_size,
        num_workers=_WORKERS,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=SEED,
        drop_last=False,
        pipelines={"image": [NDArrayDecoder(), ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )
    return repeated(loader, work.epochs, np.asarray)


def _write_dali_indexes(work: Work) -> None:
    """What DALI's own `tfrecord2idx` writes: offset and size of every record."""
    for shard in work.shards:
        offsets = np.load(f"{shard}.index.npy")[:, 0]
        sizes = np.diff(offsets, append=Path(shard).stat().st_size)
        np.savetxt(work.own / Path(shard).name, np.stack([offsets, sizes], axis=1), "%d")


def _read_dali(work: Work) -> Iterator[Batch]:
    from nvidia.dali import fn, tfrecord
    from nvidia.dali.pipeline import Pipeline

    pipeline = Pipeline(work.batch_size, num_threads=_WORKERS, device_id=None, seed=SEED)
    with pipeline:
        features = {
            "image": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        }
        cell = fn.readers.tfrecord(
            path=work.shards,
            index_path=[str(work.own / Path(shard).name) for shard in work.shards],
            features=features,
            random_shuffle=True,
            initial_fill=SHUFFLED_RECORDS,
            pad_last_batch=True,
        )
        pipeline.set_outputs(fn.reshape(cell["image"], shape=work.images.shape[1:]), cell["label"])
    pipeline.build()
    num_cells = work.expected.num_cells
    for _ in range(work.epochs):
        for first in range(0, num_cells, work.batch_size):
            images, labels = pipeline.run()
            size = min(work.batch_size, num_cells - first)  # the last batch of an epoch is padded
            yield images.as_array()[:size], labels.as_array()[:size, 0]


def _write_webdataset(work: Work) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{work.own}/cells-%05d.tar", maxcount=1024, verbose=0) as writer:
        for row, (image, label) in enumerate(zip(work.images, work.labels, strict=True)):
            writer.write({"__key__": f"{row:06d}", "image": image.tobytes(), "cls": int(label)})


def _read_webdataset(work: Work) -> Iterator[Batch]:
    import webdataset

    shape = work.images.shape[1:]
    tars = sorted(map(str, work.own.glob("*.tar")))
    cells = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), seed=SEED, empty_check=False)
        .shuffle(SHUFFLED_RECORDS)
        .to_tuple("image", "cls")
        .map_tuple(lambda image: np.frombuffer(image, np.uint8).reshape(shape), int)
        .batched(work.batch_size)
    )
    loader = webdataset.WebLoader(cells, batch_size=None, num_workers=_WORKERS)
    return repeated(loader, work.epochs, np.asarray)


def _write_array_records(work: Work) -> None:
    """The image's bytes, then the label's."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(work.own / "cells.array_record"), "group_size:1,uncompressed")
    for image, label in zip(work.images, work.labels, strict=True):
        writer.write(image.tobytes() + bytes([label]))
    writer.close()


def _read_grain(work: Work) -> Iterator[Batch]:
    import grain

    shape = work.images.shape[1:]

    def parse(record: bytes) -> tuple[np.ndarray, int]:
        return np.frombuffer(record, np.uint8, len(record) - 1).reshape(shape), record[-1]

    source = grain.sources.ArrayRecordDataSource(str(work.own / "cells.array_record"))
    cells = grain.MapDataset.source(source).seed(SEED).map(parse)
    for epoch in range(work.epochs):
        yield from cells.shuffle(SEED + epoch).batch(work.batch_size).to_iter_dataset()


def _read_torch(work: Work) -> Iterator[Batch]:
    import torch
    from torch.utils.data import DataLoader

    generator = torch.Generator().manual_seed(SEED)
    loader = DataLoader(IndexedCells(work), work.batch_size, shuffle=True, generator=generator)
    return repeated(loader, work.epochs, np.asarray)


if __name__ == "__main__":
    clock.run(
        {
            "ffcv": Reader(_read_ffcv, ("ffcv.loader", "ffcv.transforms"), _write_ffcv),
            "dali": Reader(_read_dali, ("nvidia.dali.fn", "nvidia.dali.tfrecord"), _write_dali_indexes),
            "torch": Reader(_read_torch, ("torch.utils.data",)),
            "grain": Reader(_read_grain, ("grain",), _write_array_records),
            "webdataset": Reader(_read_webdataset, ("webdataset",), _write_webdataset),
        }
    )
