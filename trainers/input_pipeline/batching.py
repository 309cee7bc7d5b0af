"""Shards in, batches out: uint8 images on their way to the device, in an order that (seed, step) decides.

    resident    the split is read once into memory; batches are gathered by a stateless permutation
    mapped      the same batches, gathered through memory maps of the TFRecord files: for data beyond memory on a
                local disk
    streaming   records are read as they are needed and shuffled in a buffer: for object stores and for shards without
                an index

Resident and mapped are the same batch for batch, and any step can be the first at no cost. Every epoch has each cell
exactly once, in ceil(cells / batch_size) steps, the last batch smaller.
"""

import functools
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.errors import InputError
from trainers.input_pipeline import memory, resident, streaming
from trainers.input_pipeline.corruption import DamagedRecords
from trainers.input_pipeline.mapped import MappedCells, is_mappable
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.input_pipeline.splits import Split

_RESIDENT_SHARE_OF_MEMORY = 0.5
_PARALLEL_BATCHES = 2  # enough to hide a gather of some hundred µs
_PREFETCHED_BATCHES = 4


def choose_mode(mode: str, splits: Sequence[Split]) -> str:
    """Turns `auto` into a mode that fits, and says so with the sizes.

    Resident where the splits fit into half of the free memory, else mapped where all shards are local and have an
    index, else streaming.

    Raises:
      InputError: if `mapped` is asked for and cannot be.
    """
    needed = sum(split.num_bytes for split in splits)
    free = memory.free_bytes()
    can_map = all(is_mappable(split) for split in splits)
    if mode == "mapped" and not can_map:
        raise InputError(
            f"--input=mapped needs shards on a local disk, each with its index; {splits[0].files[0]} is not such a "
            "shard: copy the data set, or give --input=resident or --input=streaming"
        )
    if mode == "auto":
        fits = needed <= _RESIDENT_SHARE_OF_MEMORY * free
        mode = "resident" if fits else "mapped" if can_map else "streaming"
    print(f"input: {mode} ({needed / 1e9:.2f} GB of images, {free / 1e9:.2f} GB of memory free)")
    return mode


def training_batches(
    split: Split,
    order: ShuffleOrder,
    epochs: int,
    mode: str,
    start_step: int = 0,
    damaged: DamagedRecords | None = None,
    with_keys: bool = False,
) -> tf.data.Dataset:
    """Shuffled batches of all epochs in a row, the same for the same (order, mode).

    Args:
      split: what to train on.
      order: seed, batch size, and which slice of each batch this host takes.
      epochs: number of epochs.
      mode: "resident", "mapped" or "streaming".
      start_step: batches to leave out at the start; free when resident or mapped, read and thrown away when streaming.
      damaged: how many damaged records to skip; by default the first one stops the run. A batch is smaller by those.
      with_keys: also file names and patients.

    Returns:
      a data set of (uint8 [n, size, size, 3], int64 [n]), with keys also (filename string [n], patient_id string [n]).

    Raises:
      InputError: if a shard is missing or is not what the data set says; while reading, see `explain`.
    """
    return open_training(split, order, epochs, mode, damaged, with_keys)(start_step)


def open_training(
    split: Split,
    order: ShuffleOrder,
    epochs: int,
    mode: str,
    damaged: DamagedRecords | None = None,
    with_keys: bool = False,
) -> Callable[[int], tf.data.Dataset]:
    """Opens a split once, for batches from any number of steps on: start_step -> what `training_batches` gives."""
    damaged = damaged or DamagedRecords()
    if mode == "streaming":
        if damaged.at_most:
            split = streaming.without_damage(split, damaged, Path(_folder_of_copies().name))
        shuffled = streaming.shuffled(split, order, epochs)
        if not with_keys:
            shuffled = shuffled.map(lambda image, label, *_: (image, label))
        return lambda start_step: with_options(shuffled.skip(start_step).prefetch(_PREFETCHED_BATCHES))
    gather = (_resident_gather if mode == "resident" else _mapped_gather)(split, damaged, with_keys)

    def batches_from(start_step: int) -> tf.data.Dataset:
        steps = tf.data.Dataset.range(start_step, epochs * order.steps_per_epoch)
        batches = steps.map(
            lambda step: gather(order.rows(step)), num_parallel_calls=_PARALLEL_BATCHES, deterministic=True
        )
        return with_options(batches.prefetch(_PREFETCHED_BATCHES))

    return batches_from


@functools.cache
def _folder_of_copies() -> tempfile.TemporaryDirectory[str]:
    """Goes with the process."""
    return tempfile.TemporaryDirectory(prefix="tfds_malaria-")


def _resident_gather(split: Split, damaged: DamagedRecords, with_keys: bool) -> "tf.types.experimental.Callable":
    cells = resident.load(split, damaged, with_keys)
    images = tf.experimental.dlpack.from_dlpack(cells.images.__dlpack__())  # tf.constant would copy the whole split
    with tf.device("cpu"):  # the whole split would not fit beside the model on every device
        columns = [images, tf.constant(cells.labels)]
        if with_keys:
            columns += [tf.constant(cells.filenames, tf.string), tf.constant(cells.patient_ids, tf.string)]
        is_whole = tf.constant(~cells.is_damaged)
    some_are_damaged = bool(cells.is_damaged.any())

    def gather(rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if some_are_damaged:
            rows = tf.boolean_mask(rows, tf.gather(is_whole, rows))
        return tuple(tf.gather(column, rows) for column in columns)

    return gather


def _mapped_gather(split: Split, damaged: DamagedRecords, with_keys: bool) -> "tf.types.experimental.Callable":
    cells = MappedCells(split, damaged)
    shape = [None, split.image_size_px, split.image_size_px, 3]

    def copy(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = cells.check(rows)
        return (*cells.gather(rows), *(cells.keys(rows) if with_keys else ()))

    def gather(rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        types = (tf.uint8, tf.int64, *((tf.string, tf.string) if with_keys else ()))
        images, *rest = tf.numpy_function(copy, [rows], types)
        for column in rest:
            column.set_shape([None])
        return tf.ensure_shape(images, shape), *rest

    return gather


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Every cell once, in the order of the records.

    Returns:
      a data set of (uint8 [batch, size, size, 3], int64 [batch], filename string [batch], patient_id string [batch]).
    """
    batches = streaming.in_order(split, batch_size).prefetch(2)
    num_batches = -(-split.num_cells // batch_size)
    return with_options(batches.apply(tf.data.experimental.assert_cardinality(num_batches)))


def with_options(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The same batches under the options of all input here."""
    options = tf.data.Options()
    # Parallelism and buffers are fixed above: autotuning would find no more, its thread costs, and closing an iterator
    # can wait for that thread.
    options.autotune.enabled = False
    options.deterministic = True  # the order is part of what a run is
    # No private threads: a pool of its own was no faster than the shared one, within the noise.
    # Nothing is kept twice: resident holds the cells itself, the others rely on the page cache.
    options.experimental_optimization.apply_default_optimizations = False
    return batches.with_options(options)


def explain(error: tf.errors.OpError, splits: Sequence[Split]) -> InputError | None:
    """What reading a damaged shard means in one line, found by reading the shards again; None if all are whole."""
    if found := re.search(r"InputError: (.*)", error.message):
        return InputError(found[1])
    for split in splits:
        try:
            streaming.find_damage(split, DamagedRecords())
        except InputError as damage:
            return damage
    return None
