"""A model for several hosts, whose batches are of one length: an epoch's last one is padded by cells of weight 0."""

from typing import Any

import keras
from keras import ops


class Padded(keras.Model):
    """A model whose running loss and accuracy leave out what has weight 0; Keras counts it in both."""

    def compile(self, *, metrics: list[Any], **options: Any) -> None:
        """Compiles; `metrics` get no weights but 0 and 1."""
        super().compile(weighted_metrics=metrics, **options)

    def compute_metrics(
        self, x: Any, y: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: keras.KerasTensor
    ) -> dict[str, keras.KerasTensor]:
        """Takes the padding back out of the loss, which Keras has added for as many cells as `x` has."""
        is_cell = ops.cast(sample_weight > 0, "float32")
        (loss,) = (metric for metric in self.metrics if metric.name == "loss")
        loss.update_state(self.compute_loss(x, y, y_pred, sample_weight), sample_weight=ops.sum(is_cell - 1))
        return super().compute_metrics(x, y, y_pred, is_cell)
