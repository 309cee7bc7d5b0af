"""Which cell comes when: (seed, step) → indices into the split. No state, so any step can be the first, on any host.

The order of an epoch is a stateless permutation (`tf.random.experimental.index_shuffle`, a Feistel-like cipher of the
position; the operation is marked experimental, so a test pins a golden order). It is a global shuffle without a buffer,
which resident and mapped input and frozen features use; streaming shuffles in a buffer of its own.
"""

from typing import NamedTuple

import tensorflow as tf


class ShuffleOrder(NamedTuple):
    """The order of a training run; an epoch's last batch may be smaller."""

    num_cells: int
    batch_size: int  # cells per global batch
    seed: int
    shard_index: int = 0  # which contiguous slice of each global batch this host takes
    shard_count: int = 1
    is_padded: bool = False  # a smaller last batch is filled up, by its last cell with weight 0: hosts get equal slices
    only_full: bool = False  # `calls` leave a smaller last batch out; steps count on as if they had not

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_cells // self.batch_size)

    @property
    def bounds(self) -> tuple[int, int]:  # of this host's slice of a full batch
        start, stop = (self.batch_size * i // self.shard_count for i in (self.shard_index, self.shard_index + 1))
        return start, stop

    def in_batch(self, size: tf.Tensor) -> tf.Tensor:
        """This host's slice of a batch of some size, as int64 positions in it."""
        if self.is_padded:
            return tf.minimum(tf.range(*self.bounds, dtype=tf.int64), size - 1)
        return tf.range(*(size * i // self.shard_count for i in (self.shard_index, self.shard_index + 1)))

    def weights(self, step: tf.Tensor) -> tf.Tensor:
        """What makes the mean over a padded batch that over its cells: float32 [n], 1 in full batches."""
        size = tf.minimum(self.num_cells - step % self.steps_per_epoch * self.batch_size, self.batch_size)
        is_cell = tf.range(*self.bounds, dtype=tf.int64) < size
        return tf.cast(is_cell, tf.float32) * tf.cast(self.batch_size / size, tf.float32)

    def starts(self, start_step: int, epochs: int) -> tf.data.Dataset:
        """The first step of each epoch, int64 scalars counted over all epochs; of the first one, `start_step`."""
        later = range(start_step // self.steps_per_epoch + 1, epochs)
        steps = [start_step, *(epoch * self.steps_per_epoch for epoch in later)]
        return tf.data.Dataset.from_tensor_slices(tf.constant(steps, tf.int64))

    def calls(self, start: tf.Tensor, steps_per_call: int) -> tf.data.Dataset:
        """The steps from one of `starts` to its epoch's end, as (first step, number); a smaller last batch is alone."""
        end = (start // self.steps_per_epoch + 1) * self.steps_per_epoch
        full = end - bool(self.num_cells % self.batch_size)
        several = tf.data.Dataset.range(start, full, steps_per_call)
        several = several.map(lambda step: (step, tf.minimum(full - step, steps_per_call)))
        if self.only_full:
            return several
        last = tf.data.Dataset.range(tf.maximum(start, full), end)
        return several.concatenate(last.map(lambda step: (step, tf.constant(1, tf.int64))))

    def indices(self, step: tf.Tensor, num_steps: tf.Tensor | None = None) -> tf.Tensor:
        """The cells of this host's batch at a step, counted over all epochs from 0: int64 [n].

        With `num_steps` those of so many steps, with full batches and of one epoch: int64 [num_steps, n].
        """
        num_cells = tf.constant(self.num_cells, tf.int64)
        epoch, step_in_epoch = step // self.steps_per_epoch, step % self.steps_per_epoch
        first = step_in_epoch * self.batch_size
        key = tf.stack([tf.constant(self.seed, tf.int64), epoch])
        positions = first + self.in_batch(tf.minimum(num_cells - first, self.batch_size))
        if num_steps is not None:
            positions += tf.range(num_steps)[:, None] * self.batch_size
        shuffled = tf.random.experimental.index_shuffle(tf.reshape(positions, [-1]), key, num_cells - 1)
        return tf.reshape(shuffled, tf.shape(positions))
