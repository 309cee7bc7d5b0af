import subprocess
import sys

import keras
import numpy as np
import pytest

from pipeline.errors import InputError
from trainers.models import architectures
from trainers.models.features import split_backbone

HEAD = ["flatten", "fc1", "dropout1", "fc2", "dropout2", "probability"]
VGG = [
    *["block1_conv1", "block1_conv2", "block1_pool", "block2_conv1", "block2_conv2", "block2_pool"],
    *["block3_conv1", "block3_conv2", "block3_conv3", "block3_conv4", "block3_pool"],
    *["block4_conv1", "block4_conv2", "block4_conv3", "block4_conv4", "block4_pool"],
    *["block5_conv1", "block5_conv2", "block5_conv3", "block5_conv4", "block5_pool"],
]
BUILDERS = [architectures.basic_cnn, architectures.vgg_frozen, architectures.vgg_ft]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def names(layers):
    return [layer.name for layer in layers]


def assert_the_originals_head(model):
    assert names(model.layers)[-6:] == HEAD
    assert [model.get_layer(name).units for name in ("fc1", "fc2", "probability")] == [512, 512, 1]
    assert [model.get_layer(f"fc{i}").activation.__name__ for i in (1, 2)] == ["relu", "relu"]
    assert [model.get_layer(f"dropout{i}").rate for i in (1, 2)] == [0.3, 0.3]
    assert model.get_layer("probability").activation.__name__ == "sigmoid"


def test_basic_cnn_is_the_originals():
    model = architectures.basic_cnn(125)
    assert model.count_params() == count(model.trainable_weights) == 15_102_529
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
    assert_the_originals_head(model)


@pytest.mark.parametrize(
    ("build", "num_trainable", "frozen"),
    [(architectures.vgg_frozen, 2_622_977, VGG), (architectures.vgg_ft, 20_321_793, VGG[: VGG.index("block4_conv1")])],
)
def test_the_vggs_are_the_originals(build, num_trainable, frozen):
    model = build(125)
    assert model.count_params() == 22_647_361
    assert count(model.trainable_weights) == num_trainable
    assert names(model.layers) == ["image", "center", *VGG, *HEAD]
    counted = [layer for layer in model.layers if layer.name != "center"]
    assert len(counted) == 28
    assert not model.get_layer("center").weights
    trainable = [layer.name for layer in counted if layer.trainable]
    assert trainable == [name for name in [*VGG, *HEAD] if name not in frozen]
    assert len(trainable) == {"vgg_frozen": 6, "vgg_ft": 16}[model.name]
    assert_the_originals_head(model)


def test_the_vggs_compute_what_keras_vgg19_does():
    model = architectures.vgg_frozen(32)
    peer = keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert names(peer.layers)[1:] == VGG
    for name in VGG:
        peer.get_layer(name).set_weights(model.get_layer(name).get_weights())
        ours, theirs = model.get_layer(name).get_config(), peer.get_layer(name).get_config()
        assert {key for key in ours if ours[key] != theirs[key]} <= {"kernel_initializer", "trainable"}
    expected = peer.predict(keras.applications.vgg19.preprocess_input(IMAGES.astype(np.float32)), verbose=0)
    features = split_backbone(model).backbone.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(features, expected.reshape(3, -1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_input_of_the_vggs(policy):
    keras.config.set_dtype_policy(policy)
    try:
        for vgg_input, layer, expected in (
            ("imagenet", "center", IMAGES[..., ::-1] - np.array([103.939, 116.779, 123.68])),
            ("original", "scale", IMAGES[..., ::-1] / 255),
        ):
            model = architectures.vgg_ft(32, vgg_input=vgg_input)
            assert model.input.dtype == "uint8"
            seen = keras.Model(model.input, model.get_layer(layer).output)(IMAGES)
            np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-4)
    finally:
        keras.config.set_dtype_policy("float32")


def test_basic_cnn_takes_plain_uint8_images_and_scales_them_itself():
    keras.utils.set_random_seed(0)
    model = architectures.basic_cnn(32)
    assert model.input.dtype == "uint8"
    scaled = keras.Model(model.input, model.get_layer("scale").output)(IMAGES)
    np.testing.assert_allclose(scaled, IMAGES / 255, rtol=1e-6)
    probabilities = np.asarray(model(IMAGES))
    assert probabilities.shape == (3, 1)
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_options_reach_their_layers():
    assert architectures.basic_cnn(32, dropout_rate=0.1).get_layer("dropout2").rate == 0.1
    assert architectures.vgg_ft(32, dropout_rate=0.5).get_layer("dropout1").rate == 0.5


@pytest.mark.parametrize(
    ("build", "size"), [(architectures.basic_cnn, 7), (architectures.vgg_frozen, 31), (architectures.vgg_ft, 31)]
)
def test_an_image_that_is_too_small(build, size):
    with pytest.raises(InputError, match=f"at least {size + 1} pixels, the data set has {size}"):
        build(size)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_confidently_wrong_cell_still_gets_gradient(policy, build):
    import tensorflow as tf

    keras.config.set_dtype_policy(policy)
    try:
        model = build(32)
    finally:
        keras.config.set_dtype_policy("float32")
    head = model.get_layer("probability")
    assert head.compute_dtype == "float32"
    head.bias.assign([12.0])  # says parasitized, whatever it sees
    images = np.zeros((1, 32, 32, 3), np.uint8)
    model.get_layer("fc1").kernel.assign(np.zeros(model.get_layer("fc1").kernel.shape))
    with tf.GradientTape() as tape:
        output = model(images)
        assert output.dtype == "float32"
        loss = keras.losses.BinaryCrossentropy()(np.array([[0.0]]), output)
    assert abs(float(tape.gradient(loss, head.bias.value)[0])) > 0.9


def test_saved_vggs_load_without_the_project_in_safe_mode(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    models = {vgg_input: architectures.vgg_ft(32, vgg_input=vgg_input) for vgg_input in ("imagenet", "original")}
    for vgg_input, model in models.items():
        split_backbone(model)  # leaves no trace in the file
        model.save(tmp_path / f"{vgg_input}.keras")
    code = (
        "import sys, keras, numpy as np\n"
        "for name in sys.argv[1:]:\n"
        "    model = keras.models.load_model(f'{name}.keras', safe_mode=True)\n"
        "    assert model.get_layer('block5_conv4').output.shape == (None, 2, 2, 512)\n"
        "    np.save(f'{name}.npy', model.predict(np.load('images.npy'), verbose=0))\n"
        "assert not any(name.startswith(('trainers', 'pipeline')) for name in sys.modules)"
    )
    command = [sys.executable, "-c", code, *models]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for vgg_input, model in models.items():
        expected = model.predict(IMAGES, verbose=0)
        np.testing.assert_allclose(np.load(tmp_path / f"{vgg_input}.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("build", BUILDERS)
def test_backbone_and_head_share_their_layers_with_the_model(build):
    keras.utils.set_random_seed(0)
    model = build(32, dropout_rate=0.0)
    backbone, head = split_backbone(model)
    assert backbone.output.shape == head.input.shape
    assert (head.name, head.input.dtype, head.output.dtype) == (model.name, "float16", "float32")
    assert [weight.path for weight in head.trainable_weights] == [
        weight.path for weight in model.trainable_weights if weight.path.startswith(("fc", "probability"))
    ]
    features = backbone.predict(IMAGES, verbose=0)
    before = model.predict(IMAGES, verbose=0)
    head.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    head.train_on_batch(features.astype(np.float16), np.array([[0], [1], [0]]))
    after = model.predict(IMAGES, verbose=0)
    assert not np.allclose(before, after, atol=1e-4), "a step of the head changes the model"
    np.testing.assert_allclose(head.predict(features.astype(np.float16), verbose=0), after, atol=2e-3)
    np.testing.assert_array_equal(backbone.predict(IMAGES, verbose=0), features)
