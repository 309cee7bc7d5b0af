"""Several training steps in one call of the compiled function, on TensorFlow and on JAX."""

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
        """Also builds loss and metrics: `fit` would build them for the batches of several steps as if for one."""
        super().compile(*arguments, **options)
        self.compute_loss(y=ops.zeros((1,)), y_pred=ops.zeros((1, 1)))
        self.compute_metrics(None, ops.zeros((1,)), ops.zeros((1, 1)))

    def train_step(self, *arguments: Any) -> Any:
        """Takes (data) on TensorFlow and (state, data) on JAX; gives what Keras's own gives after the last step."""
        take_step = super().train_step
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
