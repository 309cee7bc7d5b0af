import keras
import numpy as np
from conftest import small_model
from keras import layers

from trainers.evaluation.report import image_grid


def test_grad_cam_finds_what_supports_the_prediction():
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(1, 1, kernel_initializer="ones", name="brightness")(x)
    x = layers.Flatten()(x)
    model = keras.Model(image, layers.Dense(1, activation="sigmoid", kernel_initializer="ones")(x))
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[0, 2:5, 9:12] = 255
    maps = image_grid.heatmaps(model, images)
    assert maps.shape == (2, 16, 16)
    assert maps.dtype == np.float32
    assert maps.max() == 1
    np.testing.assert_array_equal(maps[0] > 0.5, images[0, :, :, 0] > 0)
    assert not maps[1].any(), "nothing there"
    overlaid = image_grid.overlay(images, maps)
    assert (overlaid[0, 3, 10] != images[0, 3, 10]).any()
    np.testing.assert_array_equal(overlaid[1], images[1])


def test_half_precision_and_no_convolutions():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
    maps = image_grid.heatmaps(half, images)
    assert np.isfinite(maps).all()
    assert maps.max() <= 1
    image = keras.Input((32, 32, 3))
    flat = keras.Model(image, layers.Dense(1, activation="sigmoid")(layers.Flatten()(image)))
    assert image_grid.heatmaps(flat, images) is None
