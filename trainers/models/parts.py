"""A model in two: the backbone, whose features may be computed once, and the head that trains on them."""

from typing import NamedTuple

import keras


class Parts(NamedTuple):
    """A model in two, which share their layers with it: what one trains, the others have.

    Attributes:
      backbone: uint8 RGB [batch, size, size, 3] -> features [batch, num_features], in the policy's compute dtype.
      head: features, float16 [batch, num_features] -> probability float32 [batch, 1]; under the whole model's name.
    """

    backbone: keras.Model
    head: keras.Model


def split(model: keras.Model) -> Parts:
    """Splits a model behind its flattened features; the features of `vgg_frozen` never change.

    Args:
      model: one of `trainers.models.architectures`.
    """
    names = [layer.name for layer in model.layers]
    flattened = model.get_layer("flatten").output
    features = keras.Input(flattened.shape[1:], dtype="float16", name="features")
    x = features
    for name in names[names.index("flatten") + 1 :]:
        x = model.get_layer(name)(x)
    backbone = keras.Model(model.input, flattened, name=f"{model.name}_backbone")
    return Parts(backbone, keras.Model(features, x, name=model.name))
