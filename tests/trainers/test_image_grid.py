"""The grid of misclassified validation cells in TensorBoard."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import open_split

from trainers.evaluation import predictions
from trainers.evaluation.predictions import Predictions
from trainers.evaluation.report import image_grid

LABELS = np.array([0, 0, 0, 1, 0, 1, 1, 1])
PROBABILITIES = np.array([0, 1.0, 0.8, 0.1, 0.6, 0.45, 0.1, 0.95])
WRONG = [1, 3, 6, 2, 4, 5]  # by the distance of the probability from the label; those of 3 and 6 are equal


def test_the_most_confidently_wrong_come_first(monkeypatch):
    names = np.array([f"Parasitized/C{i}.png" for i in range(8)])
    cells = Predictions(LABELS, PROBABILITIES, names, names)
    assert image_grid.worst_misclassified(cells) == WRONG
    monkeypatch.setattr(image_grid, "MAX_CELLS", 2)
    assert image_grid.worst_misclassified(cells) == WRONG[:2]


@pytest.mark.parametrize("is_right", [False, True])
def test_the_summary_is_an_image_if_a_cell_is_misclassified(is_right, data_dir, tmp_path):
    split = open_split(data_dir, "validation")
    cells = predictions.predict_split(lambda images: np.zeros(len(images)), split, 16, "validation")[0]
    if is_right:
        cells = cells._replace(probabilities=cells.labels.astype(float))
    image_grid.log_misclassified(cells, split, tmp_path, step=3)
    if is_right:
        assert list(tmp_path.iterdir()) == []
        return
    (path,) = tmp_path.iterdir()
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    ((step, value),) = [(event.step, value) for event in events for value in event.summary.value]
    assert (step, value.tag) == (3, image_grid.TAG)
    width, height, png = value.tensor.string_val
    image = tf.io.decode_png(png).numpy()
    assert image.shape == (int(height), int(width), 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10
