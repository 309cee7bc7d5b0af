"""Records read while training, for object stores and for shards without an index; bounded memory.

Shards are read several at a time in an order that (seed, epoch) decides, and their encoded records are shuffled in a
buffer that is smaller than the split: the order depends on (seed, step) alone, but is not that of random access.
"""

import numpy as np
import tensorflow as tf

from pipeline.records.example import FILENAME, IMAGE, LABEL, PATIENT_ID
from trainers.data import Split
from trainers.input_pipeline.shuffle_order import ShuffleOrder

_SHUFFLED_RECORDS = 4096
_SHARDS_AT_A_TIME = 4
_GRAPH_SEED = 87654321  # what TensorFlow takes where no global seed is set
_SPEC = {name: tf.io.FixedLenFeature([], tf.string) for name in (IMAGE, FILENAME, PATIENT_ID)}
_SPEC[LABEL] = tf.io.FixedLenFeature([], tf.int64)


def in_order(split: Split, batch_size: int) -> tf.data.Dataset:
    """What `batching.evaluation_batches` gives."""
    records = tf.data.Dataset.from_tensor_slices(_parts(split)).flat_map(_read)
    return records.batch(batch_size).map(_parser(split), num_parallel_calls=2, deterministic=True)


def shuffled(split: Split, order: ShuffleOrder, starts: tf.data.Dataset) -> tf.data.Dataset:
    """Each cell once per epoch, as (uint8 [n, size, size, 3], int64 [n]); earlier batches are read and dropped."""
    parse = _parser(split)
    files, skips, takes = _parts(split)

    def one_epoch(start: tf.Tensor) -> tf.data.Dataset:
        epoch, step_in_epoch = start // order.steps_per_epoch, start % order.steps_per_epoch
        key = tf.stack([tf.constant(order.seed, tf.int64), epoch])
        shards = tf.random.experimental.stateless_shuffle(tf.range(len(files)), key)
        records = tf.data.Dataset.from_tensor_slices(shards).interleave(
            lambda i: _read(tf.gather(files, i), tf.gather(skips, i), tf.gather(takes, i)),
            cycle_length=_SHARDS_AT_A_TIME,
            num_parallel_calls=2,
            deterministic=True,
        )
        # `shuffle` mixes the process's global seed into its own, and fails if that one is 0: here it is fixed, in this
        # function's graph alone, since it is traced.
        tf.compat.v1.set_random_seed(_GRAPH_SEED)
        buffer_seed = tf.random.stateless_uniform([], key, 0, 2**62, tf.int64)
        # Encoded records are shuffled, not images: one copy less per cell.
        batches = records.shuffle(_SHUFFLED_RECORDS, seed=buffer_seed).batch(order.batch_size, order.only_full)
        return batches.skip(step_in_epoch).map(_slice)

    def _slice(records: tf.Tensor) -> tf.Tensor:
        return tf.gather(records, order.in_batch(tf.size(records, tf.int64)))

    return starts.flat_map(one_epoch).map(lambda records: parse(records)[:2], num_parallel_calls=2, deterministic=True)


def _read(file: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(file).skip(skip).take(take)
    return records.apply(tf.data.experimental.assert_cardinality(take))  # the reader would not notice a missing record


def _parts(split: Split) -> tuple[list[str], np.ndarray, np.ndarray]:
    return list(split.files), np.array(split.skips, np.int64), np.array(split.takes, np.int64)


def _parser(split: Split) -> "tf.types.experimental.Callable":
    size = split.image_size_px

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = tf.io.parse_example(records, _SPEC)
        if split.is_png:
            images = tf.map_fn(lambda png: tf.io.decode_png(png, 3), features[IMAGE], fn_output_signature=tf.uint8)
        else:
            images = tf.io.decode_raw(features[IMAGE], tf.uint8)
        images = tf.reshape(images, [-1, size, size, 3])
        return images, features[LABEL], features[FILENAME], features[PATIENT_ID]

    return parse
