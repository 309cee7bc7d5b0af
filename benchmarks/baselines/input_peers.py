"""Readers of the same cells by other people's libraries, in an environment of their own (`make peers`).

    .venv-peers/bin/python -m benchmarks.input_peers '<work as JSON>'    (see benchmarks.clock)

Each writes the cells in its own form once, raw and uncompressed; DALI reads the project's TFRecords. Threads and
workers are as many as processors.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.baselines import input_forms
from benchmarks.harness import clock
from benchmarks.harness.clock import Batch, Reader, Work

_WORKERS = os.cpu_count() or 1
_SHUFFLED_RECORDS = 2048
_SEED = 42


def _read_ffcv(work: Work) -> Iterator[Batch]:
    from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    loader = Loader(
        str(Path(work.own) / "cells.beton"),
        batch_size=work.batch_size,
        num_workers=_WORKERS,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=_SEED,
        drop_last=False,
        pipelines={"image": [NDArrayDecoder(), ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )
    for _ in range(work.epochs):
        for images, labels in loader:
            yield images.numpy(), labels.numpy()[:, 0]


def _read_dali(work: Work) -> Iterator[Batch]:
    from nvidia.dali import fn, tfrecord
    from nvidia.dali.pipeline import Pipeline

    pipeline = Pipeline(work.batch_size, num_threads=_WORKERS, device_id=None, seed=_SEED)
    with pipeline:
        features = {
            "image": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        }
        cell = fn.readers.tfrecord(
            path=list(work.shards),
            index_path=[str(input_forms.dali_index(work, shard)) for shard in work.shards],
            features=features,
            random_shuffle=True,
            initial_fill=_SHUFFLED_RECORDS,
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


def _read_webdataset(work: Work) -> Iterator[Batch]:
    import webdataset

    shape = work.images.shape[1:]
    tars = sorted(map(str, Path(work.own).glob("*.tar")))
    cells = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), seed=_SEED, empty_check=False)
        .shuffle(_SHUFFLED_RECORDS)
        .to_tuple("image", "cls")
        .map_tuple(lambda image: np.frombuffer(image, np.uint8).reshape(shape), int)
        .batched(work.batch_size)
    )
    loader = webdataset.WebLoader(cells, batch_size=None, num_workers=_WORKERS)
    for _ in range(work.epochs):
        for images, labels in loader:
            yield np.asarray(images), np.asarray(labels)


def _read_grain(work: Work) -> Iterator[Batch]:
    import grain

    shape = work.images.shape[1:]

    def parse(record: bytes) -> tuple[np.ndarray, int]:
        return np.frombuffer(record, np.uint8, len(record) - 1).reshape(shape), record[-1]

    source = grain.sources.ArrayRecordDataSource(sorted(map(str, Path(work.own).glob("*.array_record"))))
    cells = grain.MapDataset.source(source).seed(_SEED).map(parse)
    for epoch in range(work.epochs):
        yield from cells.shuffle(_SEED + epoch).batch(work.batch_size).to_iter_dataset()


def _read_mosaicml(work: Work) -> Iterator[Batch]:
    input_forms.make_torchvision_importable()
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    cells = StreamingDataset(local=work.own, shuffle=True, shuffle_seed=_SEED, batch_size=work.batch_size)
    loader = DataLoader(cells, work.batch_size, num_workers=_WORKERS)
    for _ in range(work.epochs):
        for batch in loader:
            yield batch["image"].numpy(), batch["label"].numpy()


def _read_huggingface(work: Work) -> Iterator[Batch]:
    import datasets

    cells = datasets.load_from_disk(work.own).with_format("numpy")
    shape = work.images.shape[1:]
    for epoch in range(work.epochs):
        for batch in cells.shuffle(_SEED + epoch, keep_in_memory=True).iter(work.batch_size):
            yield batch["image"].reshape(-1, *shape), batch["label"]


def _torch(num_workers: int) -> Reader:
    def read(work: Work) -> Iterator[Batch]:
        import torch
        from torch.utils.data import DataLoader

        generator = torch.Generator().manual_seed(_SEED)
        loader = DataLoader(
            input_forms.IndexedCells(work),
            work.batch_size,
            shuffle=True,
            generator=generator,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )
        for _ in range(work.epochs):
            for images, labels in loader:
                yield images.numpy(), labels.numpy()

    return Reader(read, ("torch.utils.data",))


READERS = {
    "ffcv": Reader(_read_ffcv, ("ffcv.loader", "ffcv.transforms"), input_forms.write_ffcv),
    "dali": Reader(_read_dali, ("nvidia.dali.fn", "nvidia.dali.tfrecord"), input_forms.index_for_dali),
    "webdataset": Reader(_read_webdataset, ("webdataset",), input_forms.write_tars),
    "grain": Reader(_read_grain, ("grain",), input_forms.write_array_records),
    "mosaicml_streaming": Reader(_read_mosaicml, ("torch.utils.data",), input_forms.write_mds),
    "huggingface": Reader(_read_huggingface, ("datasets",), input_forms.write_arrow),
    "torch": _torch(0),
    "torch_workers": _torch(_WORKERS),
}

if __name__ == "__main__":
    clock.run(READERS)
