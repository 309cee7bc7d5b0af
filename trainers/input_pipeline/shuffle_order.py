"""Which cell comes when: (seed, step) → indices into the split. No state, so any step can be the first, on any host.

Resident and mapped input and frozen features use this order; streaming shuffles in a buffer of its own.

The order of an epoch is a stateless permutation (`tf.random.experimental.index_shuffle`, a Feistel-like cipher of the
position; the operation is marked experimental, so a test pins a golden order). It is a global shuffle without a buffer.
"""

from typing import NamedTuple

import tensorflow as tf


class ShuffleOrder(NamedTuple):
    """The order of a training run.

    Attributes:
      num_cells: number of cells in the split.
      batch_size: cells per global batch; an epoch's last batch may be smaller.
      seed: decides the order of every epoch.
      shard_index, shard_count: which contiguous slice of each global batch this host takes.
    """

    num_cells: int
    batch_size: int
    seed: int
    shard_index: int = 0
    shard_count: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return -(-self.num_cells // self.batch_size)

    def indices(self, step: tf.Tensor) -> tf.Tensor:
        """The cells of this host's batch at a step.

        Args:
          step: int64 scalar, counted over all epochs from 0.

        Returns:
          int64 [n]; over all steps of an epoch and all hosts, each cell of the split once.
        """
        num_cells = tf.constant(self.num_cells, tf.int64)
        epoch, step_in_epoch = step // self.steps_per_epoch, step % self.steps_per_epoch
        first = step_in_epoch * self.batch_size
        size = tf.minimum(num_cells - first, self.batch_size)
        start = first + size * self.shard_index // self.shard_count
        stop = first + size * (self.shard_index + 1) // self.shard_count
        key = tf.stack([tf.constant(self.seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(tf.range(start, stop), key, num_cells - 1)
