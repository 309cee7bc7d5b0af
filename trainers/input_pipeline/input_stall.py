"""Is training input-bound? How long each step waits for its batch, measured inside the tf.data pipeline, by readings of
the clock before and after it; so the training loop does not matter, and no Python runs per batch.
"""

import tensorflow as tf

from pipeline.terminal import quantity

_INPUT_BOUND_FRACTION = 0.05
_MIN_STEPS = 100  # in fewer, the wait for the first batch decides


class InputStall:
    """Seconds spent waiting for batches since the last `reset`."""

    def __init__(self) -> None:
        with tf.device("cpu"):
            self.variable = tf.Variable(0.0, trainable=False, dtype=tf.float64)

    @property
    def seconds(self) -> float:
        return float(self.variable.numpy())

    def reset(self) -> None:
        self.variable.assign(0.0)


def measured(batches: tf.data.Dataset, stall: InputStall) -> tf.data.Dataset:
    """The same batches; the time that each takes to arrive is added to `stall`."""
    clock = tf.data.Dataset.range(tf.int64.max).map(lambda _: tf.timestamp())

    def add(asked: tf.Tensor, batch: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        stall.variable.assign_add(tf.timestamp() - asked)
        return batch

    return tf.data.Dataset.zip(clock, batches).map(add)


def message(fraction: float, mode: str, num_steps: int) -> str:
    """Whether training waits for its input, which takes a fraction of its steps' time in a mode; which flag helps."""
    waited = f"input: waited {fraction:.1%} of the step time for data"
    if fraction < _INPUT_BOUND_FRACTION:
        return f"{waited}: not input-bound"
    if num_steps < _MIN_STEPS:
        return f"{waited}, in {quantity(num_steps, 'step')}: too few to judge"
    advice = {
        "streaming": "give --input=resident if the split fits into memory, or --input=mapped from a local disk",
        "mapped": "give --input=resident if the split fits into memory",
    }.get(mode, "give a larger --batch_size, or run on more CPU cores")
    return f"{waited}: input-bound; {advice}"
