"""Weights of the classes in the loss, for data in which one is rare."""

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from pipeline.cells import LABELS
from pipeline.errors import InputError

MODES = ("none", "balanced")


def class_weight(mode: str, labels: np.ndarray) -> dict[int, float] | None:
    """What `keras.Model.fit` takes as `class_weight`.

    Args:
      mode: "none", or "balanced": num_cells / (num_classes × num_cells_of_the_class), after G. King and L. Zeng,
        "Logistic Regression in Rare Events Data", 2001, as in scikit-learn's `compute_class_weight`.
      labels: int [cells] of the training split.

    Returns:
      label -> weight; None for "none".

    Raises:
      InputError: if "balanced" has cells of one class only.
    """
    if mode == "none":
        return None
    classes = np.arange(len(LABELS))
    if len(present := np.unique(labels)) < len(classes):
        raise InputError(
            f"--class_weight={mode} needs cells of both classes, the training split has "
            f"{' and '.join(LABELS[label] for label in present) or 'none'} only; give another --train_split or "
            "--class_weight=none"
        )
    return dict(enumerate(compute_class_weight(mode, classes=classes, y=labels).tolist()))
