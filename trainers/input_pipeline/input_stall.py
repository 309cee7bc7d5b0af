"""Is training input-bound? How long each step waits for its batch, measured inside the tf.data pipeline.

A batch is taken between two clocks by the same thread: the time between them is the stall, whatever backend and
training loop take the batches.
"""

import tensorflow as tf

_INPUT_BOUND_FRACTION = 0.05


class InputStall:
    """Seconds spent waiting for batches since the last `reset`."""

    seconds = 0.0

    def reset(self) -> None:
        """Sets the time to zero."""
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Adds the time that one batch took to arrive."""
        self.seconds += float(seconds)


def measured(batches: tf.data.Dataset, stall: InputStall) -> tf.data.Dataset:
    """The same batches; the time that each takes to arrive is added to `stall`."""
    clock = tf.data.Dataset.range(1).repeat().map(lambda _: tf.timestamp())

    def add(asked: tf.Tensor, batch: tuple[tf.Tensor, ...], given: tf.Tensor) -> tuple[tf.Tensor, ...]:
        added = tf.numpy_function(stall.add, [given - asked], [])
        with tf.control_dependencies([added] if added is not None else []):
            return tf.nest.map_structure(tf.identity, batch)

    return tf.data.Dataset.zip((clock, batches, clock)).map(add)


def message(fraction: float, mode: str) -> str:
    """Says in one line whether training waits for its input, and which flag to change if it does.

    Args:
      fraction: part of the step time that is spent waiting, 0…1.
      mode: mode of the input.
    """
    waited = f"input: waited {fraction:.1%} of the step time for data"
    if fraction < _INPUT_BOUND_FRACTION:
        return f"{waited}: not input-bound"
    advice = {
        "streaming": "give --input=resident if the split fits into memory, or --input=mapped from a local disk",
        "mapped": "give --input=resident if the split fits into memory",
    }.get(mode, "give a larger --batch_size, or run on more CPU cores")
    return f"{waited}: input-bound; {advice}"
