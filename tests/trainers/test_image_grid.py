"""The grid of misclassified validation cells in TensorBoard."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.evaluation.report import image_grid

BRIGHTNESS = np.array([0, 255, 200, 30, 140, 120, 30, 250], np.uint8)
LABELS = np.array([0, 0, 0, 1, 0, 1, 1, 1], np.int64)
WRONG = [1, 3, 6, 2, 4, 5]  # by how far the brightness / 255 is from the label; 3 and 6 are equal


@pytest.fixture(scope="module")
def model():
    """Its probability is the mean brightness."""
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(1, use_bias=False)(x))
    model.layers[-1].set_weights([np.full((3, 1), 1 / 3)])
    return model


def batches(size, rows=slice(None)):
    images = np.broadcast_to(BRIGHTNESS[:, None, None, None], (8, 8, 8, 3))[rows]
    names = np.array([f"Parasitized/C{i}.png" for i in range(8)])[rows]
    return tf.data.Dataset.from_tensor_slices((images, LABELS[rows], names, names)).batch(size)


def summaries(folder):
    values = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            values += [(event.step, value) for value in event.summary.value]
    return values


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_most_confidently_wrong_come_first(size, model, tmp_path, monkeypatch):
    plotted, plot = [], image_grid.plot
    monkeypatch.setattr(image_grid, "plot", lambda cells, title: plotted.extend(cells) or plot(cells, title))
    assert image_grid.log_misclassified(model, batches(size), tmp_path, step=3) == 6
    assert [cell.filename for cell in plotted] == [f"Parasitized/C{i}.png" for i in WRONG]
    assert [cell.label for cell in plotted] == [("uninfected", "parasitized")[LABELS[i]] for i in WRONG]
    assert [cell.probability for cell in plotted] == pytest.approx((BRIGHTNESS[WRONG] / 255).tolist(), rel=1e-5)
    assert (plotted[0].image == 255).all()
    plotted.clear()
    monkeypatch.setattr(image_grid, "MAX_CELLS", 2)
    assert image_grid.log_misclassified(model, batches(size), tmp_path, step=3) == 2
    assert [cell.filename for cell in plotted] == [f"Parasitized/C{i}.png" for i in WRONG[:2]]


def test_the_summary_is_an_image(model, tmp_path):
    image_grid.log_misclassified(model, batches(3), tmp_path, step=3)
    ((step, value),) = summaries(tmp_path)
    assert (step, value.tag) == (3, image_grid.TAG)
    width, height, png = value.tensor.string_val
    image = tf.io.decode_png(png).numpy()
    assert image.shape == (int(height), int(width), 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


def test_nothing_misclassified_nothing_written(model, tmp_path):
    assert image_grid.log_misclassified(model, batches(3, slice(0, 1)), tmp_path, step=1) == 0
    assert list(tmp_path.iterdir()) == []
