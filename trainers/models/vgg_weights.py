"""Loads weights of VGG-19's convolutions from what `--vgg_weights` names.

imagenet         Keras's own download, cached in ~/.keras/models
<file>.npz       arrays `<layer>/kernel` and `<layer>/bias`
<file>.h5        Keras's older format, which the download has, with VGG-19's layer names
<file>.weights.h5, <file>.keras    of Keras 3: VGG-19 with or without its top, or a model of this project
none             He initialisation
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from pipeline.errors import InputError
from trainers import npz
from trainers.models.architectures import VGG_CONVOLUTIONS

IMAGENET, NONE = "imagenet", "none"
_IMAGENET_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
_REMEDY = (
    f"expected --vgg_weights={IMAGENET}, {NONE}, or a .npz, .keras, .h5 or .weights.h5 file of VGG-19 with Keras's "
    "layer names"
)

_Arrays = Mapping[str, Sequence[np.ndarray]]  # layer name -> kernel (height, width, in, out), bias


def load(model: keras.Model, source: str) -> list[str]:
    """Sets the convolutions of a VGG; returns lines to print: how many, and which the source lacks.

    Raises InputError if it cannot be read or downloaded, or has no VGG-19 or arrays of other shapes.
    """
    if source == NONE:
        return ["VGG weights: none, all convolutions start from He initialisation"]
    if source == IMAGENET:
        try:
            arrays = _convolutions(_vgg19(IMAGENET))
        except Exception as error:  # Keras raises a plain Exception where there is no network
            raise InputError(
                f"--vgg_weights={IMAGENET} cannot be downloaded ({error}); connect this machine, or copy "
                f"{_IMAGENET_FILE} into ~/.keras/models (or $KERAS_HOME/models), or give --vgg_weights=<file> or "
                f"--vgg_weights={NONE}"
            ) from error
        return [_assign(model, arrays, "ImageNet, Keras's download")]
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"--vgg_weights={source} does not exist; {_REMEDY}")
    try:
        arrays = _read(path)
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile, h5py and Keras each raise their own
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"--vgg_weights={source} cannot be read ({reason.splitlines()[0]}); {_REMEDY}") from error
    missing = [name for name in VGG_CONVOLUTIONS if name not in arrays]
    loaded = _assign(model, arrays, source)
    return [loaded, *(f"VGG weights: {name} is not in {source}: He initialisation" for name in missing)]


def _vgg19(weights: str | None) -> keras.Model:
    return keras.applications.VGG19(include_top=False, weights=weights, input_shape=(32, 32, 3))


def _convolutions(vgg19: keras.Model) -> _Arrays:
    return {name: vgg19.get_layer(name).get_weights() for name in VGG_CONVOLUTIONS}


def _read(path: Path) -> _Arrays:
    if path.suffix == ".npz":
        arrays = npz.read(path, [f"{name}/{part}" for name in VGG_CONVOLUTIONS for part in ("kernel", "bias")])
        names = {key.rpartition("/")[0] for key in arrays}
        return {name: [arrays[f"{name}/kernel"], arrays[f"{name}/bias"]] for name in names}
    if path.suffix not in (".h5", ".keras"):
        raise InputError(f"--vgg_weights={path} is of an unknown type; {_REMEDY}")
    # The new formats number layers by type, so that convolutions load whatever layers follow them.
    is_older = path.suffix == ".h5" and not path.name.endswith(".weights.h5")
    vgg19 = _vgg19(None)
    vgg19.set_weights([np.full(weight.shape, np.nan) for weight in vgg19.weights])
    try:
        with warnings.catch_warnings(action="ignore"):  # one per layer of another model
            vgg19.load_weights(path, **({"by_name": True} if is_older else {}))
    except ValueError as error:
        raise InputError(f"--vgg_weights={path} holds the weights of another model; {_REMEDY}") from error
    return {name: weights for name, weights in _convolutions(vgg19).items() if not np.isnan(weights[0]).all()}


def _assign(model: keras.Model, arrays: _Arrays, source: str) -> str:
    if not arrays:
        raise InputError(f"--vgg_weights={source} has none of VGG-19's layers {', '.join(VGG_CONVOLUTIONS)}; {_REMEDY}")
    for name, weights in arrays.items():
        expected = [tuple(weight.shape) for weight in model.get_layer(name).weights]
        shapes = [weight.shape for weight in weights]
        if shapes != expected:
            raise InputError(f"--vgg_weights={source}: {name} has the shapes {shapes}, expected {expected}; {_REMEDY}")
        if not all(np.isfinite(weight).all() for weight in weights):
            raise InputError(f"--vgg_weights={source}: {name} has NaN or infinite values; {_REMEDY}")
    for name, weights in arrays.items():
        model.get_layer(name).set_weights(list(weights))
    return f"VGG weights: {len(arrays)} of {len(VGG_CONVOLUTIONS)} convolutions from {source}"
