"""Keras models that train in another way than Keras's own: several steps per call, batches that are padded."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from trainers.tf_import import JAX


class ManySteps(keras.Model):
    """A model whose `fit` gets the batches of several steps at once, along a first axis, and takes step after step.

    Keras's `steps_per_execution` is not that: on TensorFlow each step still asks an iterator for its batch, which takes
    longer than a small model's step, and on JAX Python calls each step.
    """

    def compile(self, *arguments: Any, **options: Any) -> None:
        super().compile(*arguments, **options)
        # Builds them: `fit` would do so for the batches of several steps as if for one.
        self.compute_loss(y=ops.zeros((1,)), y_pred=ops.zeros((1, 1)))
        self.compute_metrics(None, ops.zeros((1,)), ops.zeros((1, 1)))

    def train_step(self, *arguments: Any) -> Any:
        take_step = super().train_step  # takes (data) on TensorFlow and (state, data) on JAX
        if keras.backend.backend() == JAX:
            import jax

            state, data = arguments
            state, logs = jax.lax.scan(lambda state, batch: take_step(state, batch)[::-1], state, data)
            return {name: values[-1] for name, values in logs.items()}, state
        (data,) = arguments

        def one(i: tf.Tensor) -> tf.Tensor:
            take_step(tf.nest.map_structure(lambda values: values[i], data))
            return i + 1

        num_steps = tf.shape(tf.nest.flatten(data)[0])[0]
        tf.while_loop(lambda i: i < num_steps, one, [tf.constant(0)], parallel_iterations=1)
        return self.get_metrics_result()


class Padded(keras.Model):
    """A model for several hosts, whose batches are of one length: an epoch's last one is padded by cells of weight 0.

    Its running loss and accuracy leave those out; Keras counts them in both.
    """

    def compile(self, *, metrics: list[Any], **options: Any) -> None:
        super().compile(weighted_metrics=metrics, **options)  # by no other weights than 0 and 1

    def compute_metrics(
        self, x: Any, y: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: keras.KerasTensor
    ) -> dict[str, keras.KerasTensor]:
        # The loss has been added for as many cells as `x` has: the padding is taken back out of it.
        is_cell = ops.cast(sample_weight > 0, "float32")
        (loss,) = (metric for metric in self.metrics if metric.name == "loss")
        loss.update_state(self.compute_loss(x, y, y_pred, sample_weight), sample_weight=ops.sum(is_cell - 1))
        return super().compute_metrics(x, y, y_pred, is_cell)
