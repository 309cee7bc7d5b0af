"""Am I input-bound? How long each training step waits for its batch, measured inside the data set.

A batch is taken between two clocks by the same thread, one after the other: what passes between them is waiting,
whatever backend and loop take the batches.
"""

import tensorflow as tf

_INPUT_BOUND_SHARE = 0.05


class Waiting:
    """Seconds spent waiting for batches since the last `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Adds one batch's wait."""
        self.seconds += float(seconds)


def measured(batches: tf.data.Dataset, waiting: Waiting) -> tf.data.Dataset:
    """The same batches; `waiting` is told how long each was waited for."""
    clock = tf.data.Dataset.range(1).repeat().map(lambda _: tf.timestamp())

    def note(asked: tf.Tensor, batch: tuple[tf.Tensor, ...], given: tf.Tensor) -> tuple[tf.Tensor, ...]:
        noted = tf.numpy_function(waiting.add, [given - asked], [])
        with tf.control_dependencies([noted] if noted is not None else []):
            return tf.nest.map_structure(tf.identity, batch)

    return tf.data.Dataset.zip((clock, batches, clock)).map(note)


def verdict(share: float, mode: str) -> str:
    """One line for people: whether training waits for its input, and which flag to change if it does.

    Args:
      share: of the step time that is spent waiting, 0…1.
      mode: of the input.
    """
    waited = f"waited {share:.1%} of the step time for data"
    if share < _INPUT_BOUND_SHARE:
        return f"input: {waited}: not input-bound"
    advice = {
        "streaming": "give --input=resident if the split fits into memory, or --input=mapped from a local disk",
        "mapped": "give --input=resident if the split fits into memory",
    }.get(mode, "give a larger --batch_size, or the process more processors")
    return f"input: {waited}: input-bound; {advice}"
