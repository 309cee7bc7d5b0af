"""Shards in, batches out: uint8 images on their way to the device, in an order that (seed, step) decides.

    resident    the split is read once into memory; batches are gathered by a stateless permutation, so the position
                in the data is a number and any step can be the first at no cost
    streaming   records are read as they are needed and shuffled in a buffer: for data beyond memory

Every epoch has each cell exactly once, in ceil(cells / batch_size) steps, the last batch smaller.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import psutil
import tensorflow as tf

from pipeline.errors import InputError
from pipeline.example import FILENAME, IMAGE, LABEL, PATIENT_ID
from trainers.splits import Split

_RESIDENT_SHARE_OF_MEMORY = 0.5
_SHUFFLE_BUFFER_EXAMPLES = 4096
_READ_BATCH = 64
_SPEC = {
    IMAGE: tf.io.FixedLenFeature([], tf.string),
    LABEL: tf.io.FixedLenFeature([], tf.int64),
    FILENAME: tf.io.FixedLenFeature([], tf.string),
    PATIENT_ID: tf.io.FixedLenFeature([], tf.string),
}


class Cells(NamedTuple):
    """A split in memory, in the order of its records.

    Attributes:
      images: uint8 RGB [cells, size, size, 3] in 0…255.
      labels: int64 [cells].
      filenames, patient_ids: bytes [cells].
    """

    images: np.ndarray
    labels: np.ndarray
    filenames: np.ndarray
    patient_ids: np.ndarray


def choose_mode(mode: str, splits: Sequence[Split]) -> str:
    """Turns `auto` into resident where the splits fit into half of the free memory, else streaming; says so."""
    needed = sum(split.num_bytes for split in splits)
    available = psutil.virtual_memory().available
    if mode == "auto":
        mode = "resident" if needed <= _RESIDENT_SHARE_OF_MEMORY * available else "streaming"
    print(f"input: {mode} ({needed / 1e9:.2f} GB of images, {available / 1e9:.2f} GB of memory free)")
    return mode


def load(split: Split) -> Cells:
    """Reads a split into memory.

    Raises:
      InputError: if a shard is missing, damaged, or has another number of records than the data set says.
    """
    size = split.image_size_px
    images = np.empty((split.num_cells, size, size, 3), np.uint8)
    labels = np.empty(split.num_cells, np.int64)
    names = [np.empty(split.num_cells, object) for _ in range(2)]
    start = 0
    for file, skip, take in zip(split.files, split.skips, split.takes, strict=True):
        stop = start
        dataset = _parse(tf.data.TFRecordDataset(file).skip(skip).take(take).batch(_READ_BATCH), split)
        try:
            for image, label, *keys in dataset.as_numpy_iterator():
                begin, stop = stop, stop + len(label)
                images[begin:stop], labels[begin:stop] = image, label
                for column, key in zip(names, keys, strict=True):
                    column[begin:stop] = key
        except tf.errors.OpError as error:
            raise InputError(
                f"{file} is damaged ({error.message.splitlines()[0]}); make the data set again with --overwrite"
            ) from error
        if stop - start != take:
            raise InputError(
                f"{file} has {skip + stop - start} records, expected {skip + take}; make the data set again"
            )
        start = stop
    return Cells(images, labels, *names)


def training_batches(
    split: Split, batch_size: int, seed: int, epochs: int, mode: str, start_step: int = 0
) -> tf.data.Dataset:
    """Shuffled batches of all epochs in a row, the same for the same (seed, mode).

    Args:
      split: what to train on.
      batch_size: cells a batch; the last batch of an epoch may be smaller.
      seed: decides on the order.
      epochs: number of epochs.
      mode: "resident" or "streaming".
      start_step: batches to leave out at the start; free when resident, read and thrown away when streaming.

    Returns:
      a data set of (uint8 [batch, size, size, 3], int64 [batch]).
    """
    steps_per_epoch = -(-split.num_cells // batch_size)
    if mode == "streaming":
        return _stream_shuffled(split, batch_size, seed, epochs).skip(start_step)
    cells = load(split)
    with tf.device("cpu"):  # the whole split would not fit beside the model on every device
        images, labels = tf.constant(cells.images), tf.constant(cells.labels)
    num_cells = tf.constant(split.num_cells, tf.int64)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, step_in_epoch = step // steps_per_epoch, step % steps_per_epoch
        first = step_in_epoch * batch_size
        positions = tf.range(first, tf.minimum(first + batch_size, num_cells))
        rows = permute(positions, seed, epoch, num_cells)
        return tf.gather(images, rows), tf.gather(labels, rows)

    dataset = tf.data.Dataset.range(start_step, epochs * steps_per_epoch)
    # Two calls are enough to hide a gather of some hundred µs; autotuning would only cost its thread.
    return dataset.map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)


def permute(positions: tf.Tensor, seed: int, epoch: tf.Tensor, num_cells: tf.Tensor) -> tf.Tensor:
    """Where the cells at the given positions of an epoch lie in the split.

    Args:
      positions: int64 [n] in 0…num_cells-1.
      seed: decides on the order of every epoch.
      epoch: int64 scalar.
      num_cells: int64 scalar.

    Returns:
      int64 [n]; over all positions of an epoch a permutation.
    """
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(positions, key, num_cells - 1)


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Every cell once, in the order of the records.

    Returns:
      a data set of (uint8 [batch, size, size, 3], int64 [batch], filename string [batch], patient_id string [batch]).
    """
    batches = _parse(_records(split).batch(batch_size), split).prefetch(2)
    return batches.apply(tf.data.experimental.assert_cardinality(-(-split.num_cells // batch_size)))


def _records(split: Split) -> tf.data.Dataset:
    parts = tf.data.Dataset.from_tensor_slices(
        (list(split.files), np.array(split.skips, np.int64), np.array(split.takes, np.int64))
    )
    return parts.flat_map(lambda file, skip, take: tf.data.TFRecordDataset(file).skip(skip).take(take))


def _stream_shuffled(split: Split, batch_size: int, seed: int, epochs: int) -> tf.data.Dataset:
    files = list(zip(split.files, split.skips, split.takes, strict=True))

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        parts = tf.data.Dataset.from_tensor_slices(tuple(list(column) for column in zip(*files, strict=True)))
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(files)), epoch_seed)
        parts = tf.data.Dataset.from_tensor_slices(order).map(
            lambda i: tuple(tf.gather(list(column), i) for column in zip(*files, strict=True))
        )
        records = parts.interleave(
            lambda file, skip, take: (
                tf.data.TFRecordDataset(file).skip(tf.cast(skip, tf.int64)).take(tf.cast(take, tf.int64))
            ),
            cycle_length=4,
            num_parallel_calls=2,
            deterministic=True,
        )
        # Encoded records are shuffled, not images: one copy less a cell. The buffer's seed cannot depend on the epoch,
        # but the order of the shards does.
        return records.shuffle(_SHUFFLE_BUFFER_EXAMPLES, seed=seed).batch(batch_size)

    batches = tf.data.Dataset.range(epochs).flat_map(one_epoch)
    return _parse(batches, split).map(lambda image, label, *_: (image, label)).prefetch(4)


def _parse(batches: tf.data.Dataset, split: Split) -> tf.data.Dataset:
    size = split.image_size_px

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = tf.io.parse_example(records, _SPEC)
        if split.is_png:
            images = tf.map_fn(
                lambda png: tf.io.decode_png(png, channels=3), features[IMAGE], fn_output_signature=tf.uint8
            )
        else:
            images = tf.io.decode_raw(features[IMAGE], tf.uint8)
        images = tf.reshape(images, [-1, size, size, 3])
        return images, features[LABEL], features[FILENAME], features[PATIENT_ID]

    return batches.map(parse, num_parallel_calls=2, deterministic=True)
