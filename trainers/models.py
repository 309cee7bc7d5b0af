"""The models: an image size in, an uncompiled Keras model out.

Every model takes plain uint8 RGB images [batch, size, size, 3] in 0…255 and gives the probability of `parasitized`
[batch, 1], float32. Scaling is a layer of the model, so a saved model needs nothing else.
"""

import keras
from keras import layers

_HEAD_UNITS = 512
_DROPOUT_RATE = 0.3


def basic_cnn(image_size_px: int, *, dropout_rate: float = _DROPOUT_RATE) -> keras.Model:
    """The original's CNN from scratch: 15,102,529 parameters at 125 pixels.

    Source: D. Sarkar, "Detecting Malaria with Deep Learning", 2019, model 1.

    Args:
      image_size_px: side of the input in pixels, at least 8.
    """
    image = keras.Input((image_size_px, image_size_px, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    for filters in (32, 64, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    return keras.Model(image, _head(x, dropout_rate), name="basic_cnn")


def _head(x: keras.KerasTensor, dropout_rate: float) -> keras.KerasTensor:
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(_HEAD_UNITS, activation="relu")(x)
        x = layers.Dropout(dropout_rate)(x)
    # In half precision a confidently wrong cell would have a zero gradient: the output is float32 under every policy.
    return layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(x)
