import keras
import numpy as np
import pytest

from trainers import models


def test_basic_cnn_is_the_originals():
    model = models.basic_cnn(125)
    assert model.count_params() == 15_102_529
    weights = [layer.count_params() for layer in model.layers if layer.weights]
    assert weights == [896, 18_496, 73_856, 14_746_112, 262_656, 513]
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == [
        "InputLayer",
        "Rescaling",
        *["Conv2D", "MaxPooling2D"] * 3,
        "Flatten",
        *["Dense", "Dropout"] * 2,
        "Dense",
    ]
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            assert (layer.kernel_size, layer.padding, layer.activation.__name__) == ((3, 3), "same", "relu")
        if isinstance(layer, keras.layers.Dropout):
            assert layer.rate == 0.3


def test_it_takes_plain_uint8_images_and_scales_them_itself():
    keras.utils.set_random_seed(0)
    model = models.basic_cnn(16)
    assert model.input.dtype == "uint8"
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    scaled = keras.Model(model.input, model.get_layer("scale").output)(images)
    np.testing.assert_allclose(scaled, images / 255, rtol=1e-6)
    probabilities = np.asarray(model(images))
    assert probabilities.shape == (3, 1)
    assert ((probabilities > 0) & (probabilities < 1)).all()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_confidently_wrong_cell_still_gets_gradient(policy):
    import tensorflow as tf

    keras.config.set_dtype_policy(policy)
    try:
        model = models.basic_cnn(8)
    finally:
        keras.config.set_dtype_policy("float32")
    head = model.get_layer("probability")
    assert head.compute_dtype == "float32"
    head.bias.assign([12.0])  # says parasitized, whatever it sees
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with tf.GradientTape() as tape:
        loss = keras.losses.BinaryCrossentropy()(np.array([[0.0]]), model(images))
    assert abs(float(tape.gradient(loss, head.bias.value)[0])) > 0.9
