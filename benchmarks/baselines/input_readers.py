"""Reads the cells in this environment: the project's three input modes, and what people write without it.

python -m benchmarks.baselines.input_readers '<work as JSON>'    (see benchmarks.harness.clock)
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np

from benchmarks.harness import clock
from benchmarks.harness.clock import SEED, SHUFFLED_RECORDS, Batch, Reader, Work, repeated
from pipeline.cells import LABELS

if TYPE_CHECKING:
    import tensorflow as tf


def _input_mode(mode: str, work: Work) -> Iterator[Batch]:
    from trainers import tf_import
    from trainers.data import open_data_set
    from trainers.input_pipeline import batching
    from trainers.input_pipeline.shuffle_order import ShuffleOrder

    tf_import.keep_freed_memory()  # as every trainer does
    split = open_data_set(work.data_dir, work.config).open_split(work.split)
    order = ShuffleOrder(split.num_cells, work.batch_size, SEED)
    return repeated(batching.training_batches(split, order, work.epochs, mode))


def parse(record: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
    """A record as people read it: (uint8 [size, size, 3], int64 label)."""
    import tensorflow as tf

    spec = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    cell = tf.io.parse_single_example(record, spec)
    image = tf.io.decode_raw(cell["image"], tf.uint8)
    size = tf.cast(tf.math.round(tf.sqrt(tf.size(image) / 3)), tf.int32)
    return tf.reshape(image, [size, size, 3]), cell["label"]


def _tf_data(work: Work) -> Iterator[Batch]:
    import tensorflow as tf

    records = tf.data.TFRecordDataset(work.shards)
    return repeated(records.map(parse).shuffle(SHUFFLED_RECORDS).batch(work.batch_size), work.epochs)


def _tf_data_autotuned(work: Work) -> Iterator[Batch]:
    import tensorflow as tf

    autotune = tf.data.AUTOTUNE
    shards = tf.data.Dataset.from_tensor_slices(work.shards).shuffle(len(work.shards))
    records = shards.interleave(tf.data.TFRecordDataset, num_parallel_calls=autotune)
    cells = records.shuffle(SHUFFLED_RECORDS).map(parse, num_parallel_calls=autotune)
    return repeated(cells.batch(work.batch_size).prefetch(autotune), work.epochs)


def _tfds_load(work: Work) -> Iterator[Batch]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    cells = tfds.load(f"tfds_malaria/{work.config}", data_dir=work.data_dir, split=work.split)
    batches = cells.shuffle(SHUFFLED_RECORDS).batch(work.batch_size).prefetch(tf.data.AUTOTUNE)
    return repeated(batches.map(lambda cell: (cell["image"], cell["label"])), work.epochs)


def _numpy_in_memory(work: Work) -> Iterator[Batch]:
    images, labels = np.array(work.images), work.labels
    random = np.random.default_rng(SEED)
    for _ in range(work.epochs):
        order = random.permutation(len(images))
        for first in range(0, len(order), work.batch_size):
            rows = order[first : first + work.batch_size]
            yield images[rows], labels[rows]


def _write_pngs(work: Work) -> None:
    for name in LABELS:
        (work.own / name).mkdir()
    for i, (image, label) in enumerate(zip(work.images, work.labels, strict=True)):
        cv2.imwrite(str(work.own / LABELS[label] / f"{i:06d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def _keras_directory(work: Work) -> Iterator[Batch]:
    import keras

    size = work.images.shape[1]
    batches = keras.utils.image_dataset_from_directory(
        str(work.own), class_names=list(LABELS), image_size=(size, size), batch_size=work.batch_size, seed=SEED
    )
    return repeated(batches, work.epochs)


_MODULES = ("trainers.data", "trainers.input_pipeline.batching")
READERS = {
    **{mode: Reader(partial(_input_mode, mode), _MODULES) for mode in ("resident", "mapped", "streaming")},
    "numpy_in_memory": Reader(_numpy_in_memory),
    "tf_data": Reader(_tf_data, ("tensorflow",)),
    "tf_data_autotuned": Reader(_tf_data_autotuned, ("tensorflow",)),
    "tfds_load": Reader(_tfds_load, ("tensorflow", "tensorflow_datasets", "tfds_malaria")),
    "keras_directory": Reader(_keras_directory, ("keras",), _write_pngs),
}

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    clock.run(READERS)
