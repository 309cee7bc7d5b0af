"""Shards in, batches out: uint8 images on their way to the device, in an order that (seed, step) decides.

Every epoch has each cell exactly once, the last batch smaller. The modes are those of --input: device, resident and
mapped gather the same batches by a stateless permutation; streaming shuffles records in a buffer as they are read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.errors import InputError
from trainers.data import Split
from trainers.input_pipeline import memory, resident, streaming
from trainers.input_pipeline.shuffle_order import ShuffleOrder

_RESIDENT_FRACTION_OF_MEMORY = 0.5
_DEVICE_FRACTION_OF_GPU = 0.25
_PARALLEL_BATCHES = 2  # enough to hide a gather of a few hundred µs
_PREFETCHED_BATCHES = 4
_PREFETCHED_CALLS = 2
_STEPS_AT_A_TIME = 32
_ONE_THREAD_BATCH = 128  # up to this size, waking a second thread takes longer than it saves

_Gather = Callable[[tf.Tensor], tf.Tensor]
Finish = Callable[..., tuple[Any, ...]]
"""(step, images or row numbers, labels) -> what `fit` gets; the first step, if there are several along a first axis."""


def choose_mode(mode: str, split: Split, bytes_on_device: int = 0, gpu_bytes: int | None = None) -> str:
    """Turns the value `auto` of `--input` into a mode that fits the split to train on, and prints it with the sizes.

    `bytes_on_device` would lie in the device's memory, `gpu_bytes` are free there, None without a GPU. Raises
    InputError if `mapped` or `device` is asked for and is not possible.
    """
    needed, free, can_map = split.num_bytes, memory.free_bytes(), split.is_mappable
    device_bytes = free if gpu_bytes is None else gpu_bytes
    if mode == "device" and bytes_on_device > device_bytes:
        raise InputError(
            f"--input=device needs {bytes_on_device / 1e9:.2f} GB for the images of training and validation, but the "
            f"device has {device_bytes / 1e9:.2f} GB free; give --input=resident or --input=mapped"
        )
    if mode == "mapped" and not can_map:
        raise InputError(
            f"--input=mapped needs shards on a local disk, each with its index; {split.files[0]} is not such a "
            "shard: copy the data set, or give --input=resident or --input=streaming"
        )
    if mode == "auto":
        fits = needed <= _RESIDENT_FRACTION_OF_MEMORY * free
        mode = "resident" if fits else "mapped" if can_map else "streaming"
        if gpu_bytes is not None and bytes_on_device <= _DEVICE_FRACTION_OF_GPU * gpu_bytes:
            mode = "device"
    print(f"input: {mode} ({needed / 1e9:.2f} GB of images, {free / 1e9:.2f} GB of memory free)")
    return mode


def training_batches(split: Split, order: ShuffleOrder, epochs: int, mode: str, start_step: int = 0) -> tf.data.Dataset:
    """Shuffled batches of all epochs in a row, (uint8 [n, size, size, 3], int64 [n]), the same for the same order and
    mode: "resident", "mapped" or "streaming", which reads and drops what is before `start_step`. Errors: see `reading`.
    """
    return open_training(split, order, mode)(order.starts(start_step, epochs))


def open_training(
    split: Split, order: ShuffleOrder, mode: str, finish: Finish = lambda _, *batch: batch
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Opens a split once, for any `ShuffleOrder.starts` -> what `training_batches` gives, after `finish`."""
    if mode != "streaming":
        gather, labels = (_resident_gather if mode == "resident" else _mapped_gather)(split)
        return lambda starts: gathered_batches(gather, labels, order, starts, finish)

    def open_streaming(starts: tf.data.Dataset) -> tf.data.Dataset:
        calls = starts.flat_map(lambda start: order.calls(start, 1))
        batches = tf.data.Dataset.zip(calls, streaming.shuffled(split, order, starts))
        return with_options(batches.map(lambda call, batch: finish(call[0], *batch)).prefetch(_PREFETCHED_BATCHES))

    return open_streaming


def gathered_batches(
    gather: _Gather, labels: np.ndarray, order: ShuffleOrder, starts: tf.data.Dataset, finish: Finish
) -> tf.data.Dataset:
    """Shuffled batches by random access: `gather` takes row numbers int32 [n]; the rest is as of `open_training`."""

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and that takes longer than all else
    def fill(inputs: Any, *others: tf.Tensor) -> tuple[Any, ...]:
        filled = {**inputs, "image": gather(inputs["image"])} if isinstance(inputs, dict) else gather(inputs)
        return filled, *others

    rows = training_rows(labels, order, starts, finish)
    batches = rows.map(fill, num_parallel_calls=_PARALLEL_BATCHES, deterministic=True).prefetch(_PREFETCHED_BATCHES)
    return with_options(batches, has_one_thread=order.batch_size <= _ONE_THREAD_BATCH)


def training_rows(
    labels: np.ndarray, order: ShuffleOrder, starts: tf.data.Dataset, finish: Finish, steps_per_call: int | None = None
) -> tf.data.Dataset:
    """What `open_training` gives, with row numbers int32 [n] for images, or [steps_per_call, n], see `calls`.

    A few operations for several steps take hardly longer than for one. So several are computed at once in any case:
    always the same ones, whatever the first step is, since how augmentation is rounded may depend on their number.
    """

    @tf.autograph.experimental.do_not_convert
    def call(step: tf.Tensor, num_steps: tf.Tensor) -> tuple[Any, ...]:
        rows = order.indices(step, num_steps)
        return finish(step, tf.cast(rows, tf.int32), tf.gather(on_host, rows))

    @tf.autograph.experimental.do_not_convert
    def one_epoch(start: tf.Tensor) -> tf.data.Dataset:
        num_skipped = start % order.steps_per_epoch % _STEPS_AT_A_TIME
        calls = order.calls(start - num_skipped, _STEPS_AT_A_TIME).map(call).prefetch(1)
        return calls.unbatch().skip(num_skipped)

    with tf.device("cpu"):
        on_host = tf.constant(labels)
    if steps_per_call is None:
        return with_options(starts.flat_map(one_epoch))
    calls = starts.flat_map(lambda start: order.calls(start, steps_per_call)).map(call)
    return with_options(calls.prefetch(_PREFETCHED_CALLS))


def _resident_gather(split: Split) -> tuple[_Gather, np.ndarray]:
    cells = resident.load(split)
    images = tf.experimental.dlpack.from_dlpack(cells.images.__dlpack__())  # tf.constant would copy all of it
    return lambda rows: tf.gather(images, rows), cells.labels


def _mapped_gather(split: Split) -> tuple[_Gather, np.ndarray]:
    cells = split.mapped()

    def gather(rows: tf.Tensor) -> tf.Tensor:
        images = tf.numpy_function(cells.gather, [rows], tf.uint8)
        return tf.ensure_shape(images, [None, split.image_size_px, split.image_size_px, 3])

    return gather, cells.labels


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Every cell once, in the order of the records: batches of (uint8 [n, size, size, 3], int64 [n], filename string
    [n], patient_id string [n]).
    """
    batches = streaming.in_order(split, batch_size).prefetch(2)
    num_batches = -(-split.num_cells // batch_size)
    return with_options(batches.apply(tf.data.experimental.assert_cardinality(num_batches)))


def evaluation_rows(labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Every cell once, in the order of the records: batches of (row numbers int32 [n], labels int64 [n])."""
    rows = np.arange(len(labels), dtype=np.int32)
    return with_options(tf.data.Dataset.from_tensor_slices((rows, labels)).batch(batch_size).prefetch(2))


def with_options(batches: tf.data.Dataset, has_one_thread: bool = False) -> tf.data.Dataset:
    """The same batches under the options of all input here."""
    options = tf.data.Options()
    # Parallelism and buffers are fixed above: autotuning would find no more, and its thread costs.
    options.autotune.enabled = False
    options.deterministic = True  # a run must be repeatable
    if has_one_thread:  # larger private pools were no faster than the shared one
        options.threading.private_threadpool_size = 1
    # No second copy of the data: resident holds the cells itself, the others rely on the page cache.
    options.experimental_optimization.apply_default_optimizations = False
    return batches.with_options(options)


@contextmanager
def reading(*splits: Split) -> Iterator[None]:
    """Around whatever reads batches of these splits: at its end their data set must be the one that was opened.

    TensorFlow names neither shard nor record, and hides the exceptions of Python functions in texts. So after one of
    its errors the shards are read again: InputError names the first corrupt record, or the shard that is missing or too
    short; where they are intact, the error passes.
    """
    try:
        try:
            yield
        finally:  # before any error that replaced files have caused
            for split in splits:
                split.check_unchanged()
    except tf.errors.ResourceExhaustedError:  # memory, not input
        raise
    except tf.errors.OpError as error:
        try:
            for split in splits:
                for _ in resident.read_cells(split):
                    pass
        except InputError as corrupt:
            raise corrupt from error
        raise
