"""The three architectures, as uncompiled Keras models.

Every model takes plain uint8 RGB images [batch, size, size, 3] in 0…255 and gives the probability of `parasitized`
[batch, 1], float32. Scaling and channel order are Keras layers of the model, so a saved model needs nothing else. The
dropout rate in [0, 1) is that of both dropouts of the head.

Source of all three: D. Sarkar, "Detecting Malaria with Deep Learning", 2019.
"""

import keras
from keras import layers

from pipeline.errors import InputError

VGG_CONVOLUTIONS = {
    f"block{block}_conv{i}": filters
    for block, (filters, num_convolutions) in enumerate(((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)), 1)
    for i in range(1, num_convolutions + 1)
}
"""Name of each of VGG-19's convolutions, in order, and its number of filters."""

_HEAD_UNITS = 512
_IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)  # mean pixel of ImageNet in 0…255, as Keras's VGG weights expect


def basic_cnn(image_size_px: int, *, dropout_rate: float = 0.3) -> keras.Model:
    """Model 1, from scratch: 15,102,529 parameters at 125 pixels; InputError below 8 pixels."""
    image = _image(image_size_px, at_least=8, model="basic_cnn")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    for i, filters in enumerate((32, 64, 128), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    return keras.Model(image, _head(x, dropout_rate), name="basic_cnn")


def vgg_frozen(image_size_px: int, *, vgg_input: str = "imagenet", dropout_rate: float = 0.3) -> keras.Model:
    """Model 2, `vgg_ft` of which only the head trains: 2,622,977 parameters."""
    return _vgg("vgg_frozen", image_size_px, vgg_input, dropout_rate, train_from="flatten")


def vgg_ft(image_size_px: int, *, vgg_input: str = "imagenet", dropout_rate: float = 0.3) -> keras.Model:
    """Model 3, trainable from `block4_conv1` on: 22,647,361 parameters at 125 pixels, of which 20,321,793 trainable.

    By `vgg_input` the convolutions see BGR in 0…255 minus ImageNet's mean, as the public weights expect, or BGR in 0…1,
    as in the original work. Raises InputError below 32 pixels.
    """
    return _vgg("vgg_ft", image_size_px, vgg_input, dropout_rate, train_from="block4_conv1")


def _image(size: int, at_least: int, model: str) -> keras.KerasTensor:
    if size < at_least:
        advice = "make one with a larger --image_size_px"
        raise InputError(f"{model} needs images of at least {at_least} pixels, the data set has {size}; {advice}")
    return keras.Input((size, size, 3), dtype="uint8", name="image")


def _vgg(name: str, image_size_px: int, vgg_input: str, dropout_rate: float, train_from: str) -> keras.Model:
    """VGG-19 without its top (K. Simonyan, A. Zisserman, arXiv:1409.1556), with Keras's layer names, and our head."""
    image = _image(image_size_px, at_least=32, model=name)
    # In float32 under every policy, so that values are rounded once, after the mean is subtracted.
    if vgg_input == "original":
        scaling = layers.Rescaling(1 / 255, dtype="float32", name="scale")
    else:
        offset = [-mean for mean in _IMAGENET_MEAN_BGR]
        scaling = layers.Rescaling(1.0, offset=offset, dtype="float32", name="center")
    x = scaling(image[..., ::-1])
    block = "block1"
    for convolution, filters in VGG_CONVOLUTIONS.items():
        if not convolution.startswith(block):
            x = layers.MaxPooling2D(2, name=f"{block}_pool")(x)
            block = convolution.partition("_")[0]
        x = layers.Conv2D(
            filters, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=convolution
        )(x)
    x = layers.MaxPooling2D(2, name=f"{block}_pool")(x)
    model = keras.Model(image, _head(x, dropout_rate), name=name)
    names = [layer.name for layer in model.layers]
    for layer in model.layers[: names.index(train_from)]:
        layer.trainable = False
    return model


def _head(x: keras.KerasTensor, dropout_rate: float) -> keras.KerasTensor:
    x = layers.Flatten(name="flatten")(x)
    for i in (1, 2):
        x = layers.Dense(_HEAD_UNITS, activation="relu", name=f"fc{i}")(x)
        x = layers.Dropout(dropout_rate, name=f"dropout{i}")(x)
    # In half precision a confidently wrong cell would have a zero gradient: the output is float32 under every policy.
    return layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x)
