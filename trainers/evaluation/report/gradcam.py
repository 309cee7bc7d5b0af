"""Grad-CAM: which parts of a cell a convolutional model's prediction depends on.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from collections.abc import Callable
from typing import Any

import cv2
import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers, ops

_OPACITY = 0.45


def heatmaps(model: keras.Model, images: np.ndarray) -> np.ndarray | None:
    """How much each place supports the model's prediction: parasitized from 0.5 on, uninfected below.

    Gradients are those of the logit: those of a probability near 0 or 1 vanish.

    Args:
      model: ends in a dense layer with a sigmoid.
      images: uint8 RGB [n, size, size, 3].

    Returns:
      float32 [n, size, size] in 0…1, each with a maximum of 1 unless it is 0 everywhere; None for a model without
      convolutions, or with another output layer.
    """
    convolutions, head = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)], model.layers[-1]
    if not convolutions or not isinstance(head, layers.Dense):
        return None
    activations = keras.Model(model.inputs, convolutions[-1].output)(ops.convert_to_tensor(images), training=False)
    rest = keras.Model(convolutions[-1].output, head.input)
    kernel, bias = (ops.cast(weight, "float32") for weight in head.weights)

    def supported(activations: Any) -> Any:
        logit = ops.cast(rest(activations, training=False), "float32") @ kernel + bias
        # Every cell's logit depends on its own activations only, so the gradient of the sum is that of every cell.
        return ops.sum(ops.where(logit >= 0, logit, -logit))

    gradient, activations = (ops.cast(item, "float32") for item in (_gradient(supported, activations), activations))
    weights = ops.mean(gradient, axis=(1, 2), keepdims=True)
    maps = ops.convert_to_numpy(ops.relu(ops.sum(weights * activations, axis=-1)))
    peaks = maps.max(axis=(1, 2), keepdims=True)
    maps = np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)
    return np.stack([np.clip(cv2.resize(item, images.shape[2:0:-1]), 0, 1) for item in maps])


def _gradient(function: Callable[[Any], Any], at: Any) -> Any:
    """Of a function that returns a number; Keras itself has no gradients."""
    if keras.config.backend() == "jax":
        import jax  # only there where it is the backend

        return jax.grad(function)(at)
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = function(at)
    return tape.gradient(value, at)


def overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Lays heatmaps, float [n, size, size] in 0…1, over images, uint8 RGB [n, size, size, 3]; 0 changes nothing."""
    colours = matplotlib.colormaps["plasma"](maps)[..., :3] * 255
    opacity = (_OPACITY * np.sqrt(maps))[..., None]
    return np.rint(images * (1 - opacity) + colours * opacity).astype(np.uint8)
