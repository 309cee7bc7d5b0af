import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.training import misclassified

BRIGHTNESS = np.array([0, 255, 200, 30, 140, 120, 30, 250], np.uint8)
LABELS = np.array([0, 0, 0, 1, 0, 1, 1, 1], np.int64)
WRONG = [1, 3, 6, 2, 4, 5]  # by how far the brightness / 255 is from the label; 3 and 6 are equal


def brightness_model():
    """Its probability is the mean brightness."""
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(1, use_bias=False)(x))
    model.layers[-1].set_weights([np.full((3, 1), 1 / 3)])
    return model


def batches(rows=slice(None), size=3):
    images = np.broadcast_to(BRIGHTNESS[:, None, None, None], (8, 8, 8, 3))[rows]
    names = np.array([f"Parasitized/C{i}.png" for i in range(8)])[rows]
    return tf.data.Dataset.from_tensor_slices((images, LABELS[rows], names, names)).batch(size)


def summaries(folder):
    found = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(event.step, value) for value in event.summary.value]
    return found


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_most_confidently_wrong_come_first(size):
    found = misclassified.worst(brightness_model(), batches(size=size))
    assert [item.filename for item in found] == [f"Parasitized/C{i}.png" for i in WRONG]
    assert [item.label for item in found] == LABELS[WRONG].tolist()
    assert [item.probability for item in found] == pytest.approx((BRIGHTNESS[WRONG] / 255).tolist(), rel=1e-5)
    assert (found[0].image == 255).all()
    few = misclassified.worst(brightness_model(), batches(size=size), at_most=2)
    assert [item.filename for item in few] == [f"Parasitized/C{i}.png" for i in WRONG[:2]]


def test_the_summary_is_a_picture(tmp_path):
    assert misclassified.log(brightness_model(), batches(), tmp_path, step=3) == 6
    ((step, value),) = summaries(tmp_path)
    assert (step, value.tag) == (3, misclassified.TAG)
    width, height, png = value.tensor.string_val
    picture = tf.io.decode_png(png).numpy()
    assert picture.shape == (int(height), int(width), 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_no_mistakes_no_picture(tmp_path):
    assert misclassified.log(brightness_model(), batches(slice(0, 1)), tmp_path, step=1) == 0
    assert list(tmp_path.iterdir()) == []
