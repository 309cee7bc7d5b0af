"""A moving average of the weights, which is judged and saved instead of them.

The weights of single steps jump about; their average generalises better and makes epochs comparable (Polyak & Juditsky,
1992; Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018). Keras's optimizers can average too, but
write the average over the weights at the end of each `fit`, after which a run could not be continued.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops

from trainers.training.position import TrainStep

_STEPS_BETWEEN_UPDATES = 8  # averaging at each step would cost as much memory traffic as the optimizer


class WeightAverage(keras.callbacks.Callback):
    """Averages a model's trainable weights while it is trained.

    Args:
      model: whose weights.
      momentum: share of the average that a step keeps, 0…1; less in the first steps, as there is little to keep.
      position: see `TrainStep`.
    """

    def __init__(self, model: keras.Model, momentum: float, position: TrainStep) -> None:
        super().__init__()
        self._weights, self._momentum, self._position = model.trainable_variables, momentum, position
        self.averages = [
            keras.Variable(ops.convert_to_numpy(weight), trainable=False, name=f"average_{i}")
            for i, weight in enumerate(self._weights)
        ]

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._num_updates = self._position.step // _STEPS_BETWEEN_UPDATES

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        num_updates = self._position.step // _STEPS_BETWEEN_UPDATES
        if num_updates == self._num_updates:
            return
        steps = (num_updates - self._num_updates) * _STEPS_BETWEEN_UPDATES
        self._num_updates = num_updates
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        kept = min(self._momentum**steps, (1 + num_updates) / (10 + num_updates))
        for average, weight in zip(self.averages, self._weights, strict=True):
            average.assign(kept * average + (1 - kept) * ops.cast(weight, average.dtype))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Has the model carry the averages while the block runs."""
        weights = [ops.convert_to_numpy(weight) for weight in self._weights]
        for weight, average in zip(self._weights, self.averages, strict=True):
            weight.assign(ops.convert_to_numpy(average))  # a copy: JAX may take over the array of a model's weight
        try:
            yield
        finally:
            for weight, value in zip(self._weights, weights, strict=True):
                weight.assign(value)
