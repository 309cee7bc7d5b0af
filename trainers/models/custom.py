"""Models of `--model=my_module:my_cnn`, and the files that they are saved in."""

import importlib
import inspect
import re
import tempfile
from pathlib import Path

import keras
import numpy as np

from pipeline.errors import InputError


def build(path: str, image_size_px: int, dropout_rate: float) -> keras.Model:
    """Calls the function that --model names.

    Raises InputError if it gives no model of images to probabilities, or one that cannot be loaded from its file.
    """
    name, _, function = path.partition(":")
    module = importlib.import_module(name)
    if not hasattr(module, function):
        raise InputError(f"--model={path}: {name} has no {function}; expected a function that it has")
    builder, expected = getattr(module, function), f"expected def {function}(image_size_px, *, dropout_rate)"
    if isinstance(builder, keras.Model):
        raise InputError(f"--model={path} is a Keras model; {expected} that returns it")
    try:
        inspect.signature(builder).bind(image_size_px, dropout_rate=dropout_rate)
    except TypeError as error:
        raise InputError(f"--model={path} cannot be called ({error}); {expected}") from error
    model = builder(image_size_px, dropout_rate=dropout_rate)
    shapes = (None, image_size_px, image_size_px, 3), (None, 1)
    if not isinstance(model, keras.Model) or (model.input_shape, model.output_shape) != shapes:
        got = f"{model.input_shape} → {model.output_shape}" if isinstance(model, keras.Model) else f"{model!r:.60}"
        raise InputError(f"--model={path} gives {got}; expected a Keras model of shapes {shapes[0]} → {shapes[1]}")
    if (dtype := model.outputs[0].dtype) != "float32":  # else a confidently wrong probability has no gradient
        raise InputError(f"--model={path} gives {dtype}; expected float32: give dtype='float32' to its last layer")
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)  # of several hosts, each checks the model for itself
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save(Path(folder, "model.keras"))
            copy = load(Path(folder, "model.keras"))
        except Exception as error:
            raise InputError(f"--model={path} cannot be loaded from the file that it is saved in ({error})") from error
    images = np.random.default_rng(0).integers(0, 256, (8, *shapes[0][1:]), np.uint8)
    for shift in (0, 9, -18):  # of the last weights: without a sigmoid, fresh ones may give 0…1 by chance
        for variable in copy.trainable_variables[-1:]:
            variable.assign(variable + shift)
        values = keras.ops.convert_to_numpy(copy(images))
        if values.min() < 0 or values.max() > 1:
            expected = "expected probabilities, as of a last layer with activation='sigmoid'"
            raise InputError(f"--model={path} gives values outside 0…1; {expected}")
    keras.distribution.set_distribution(distribution)
    return model


def load(file: Path) -> keras.Model:
    """Loads an uncompiled model; ValueError with the last reason that Keras gives."""
    try:
        return keras.models.load_model(file, compile=False)
    except Exception as error:  # a corrupt archive fails in zipfile, json, h5py or Keras, each in its own way
        reason = str(error).rpartition("Exception encountered: ")[2]  # behind the whole model's config
        raise ValueError(re.split(r"\n\n|Full object config", reason)[0].strip()) from error
