"""A trained model in the formats of other runtimes: a run folder in, `export/` in it out.

    saved_model    export/saved_model/      TensorFlow, TF Serving
    onnx           export/model.onnx        ONNX Runtime and whatever else reads ONNX; needs tf2onnx and onnx
    litert         export/model.tflite      LiteRT (TensorFlow Lite), for phones and small boards
                   export/model_int8.tflite   the same in 8-bit integers, a quarter of the size

They take what `model.keras` takes, uint8 RGB [batch, size, size, 3], give its probabilities, float32 [batch, 1] in 0…1,
and compute in float32 whatever the model was trained in, since other runtimes have no bfloat16; the int8 model computes
in integers. Keras is not imported before a model is exported.
"""

import importlib.util
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.errors import InputError

if TYPE_CHECKING:
    import keras

FOLDER = "export"


class _Format(NamedTuple):
    keras_name: str
    file: str
    needs: tuple[str, ...] = ()
    output: str = "output_0"  # as Keras and tf2onnx name it


_FORMATS = {
    "saved_model": _Format("tf_saved_model", "saved_model"),
    "onnx": _Format("onnx", "model.onnx", ("tf2onnx", "onnx"), "Identity:0"),
    "litert": _Format("litert", "model.tflite"),
}
NAMES = tuple(_FORMATS)
_INT8 = _Format("litert", "model_int8.tflite")
OUTPUT_NAMES = {to.file: to.output for to in (*_FORMATS.values(), _INT8)}
"""File -> name of the model's output in it; the input has the name that it has in `model.keras`."""


def check(names: Sequence[str], flag: str) -> None:
    """Raises InputError, before anything slow, if a flag names an unknown format, or what it needs is not installed."""
    for name in names:
        if name not in _FORMATS:
            raise InputError(f"--{flag}={name} is no known format; expected some of {','.join(NAMES)}")
    for name in names:
        missing = [package for package in _FORMATS[name].needs if importlib.util.find_spec(package) is None]
        if missing:
            raise InputError(f"--{flag}={name} needs {' and '.join(missing)}; pip install {' '.join(missing)}")


def missing(run_folder: str | Path, names: Sequence[str]) -> list[str]:
    """Those of the formats that have not been written."""
    return [name for name in names if not (Path(run_folder) / FOLDER / _FORMATS[name].file).exists()]


def export(
    run_folder: str | Path, model: "keras.Model", names: Sequence[str], calibration: np.ndarray | None = None
) -> list[Path]:
    """Writes a run's model in other formats, each once it is complete, over an older one; returns the paths.

    Given cells for calibration, uint8 RGB [n, size, size, 3], litert, the only name then, is quantized to int8, and
    they tell the range of each activation. Raises InputError if the folder cannot be written, or Keras does not run on
    TensorFlow.
    """
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        text = f"models are exported by Keras on TensorFlow, not on {keras.backend.backend()}"
        raise InputError(f"{text}; give python -m trainers.export with KERAS_BACKEND=tensorflow")
    folder = Path(run_folder) / FOLDER
    copy = in_float32(model)
    if calibration is None:
        return [_write(copy, folder, _FORMATS[name]) for name in names]
    options = {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([image[np.newaxis]] for image in calibration),
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
    }
    return [_write(copy, folder, _INT8, **options)]


def in_float32(model: "keras.Model") -> "keras.Model":
    """A copy of a model that computes in float32, with its weights, as exports do."""
    import keras

    def copy(layer: keras.Operation) -> keras.Operation:
        has_policy = isinstance(layer, keras.Layer)  # slicing, for one, has none
        return type(layer).from_config(layer.get_config() | ({"dtype": "float32"} if has_policy else {}))

    image = keras.Input(model.input_shape[1:], dtype="uint8", name=model.inputs[0].name)
    result = keras.models.clone_model(model, input_tensors=image, clone_function=copy)
    result.set_weights(model.get_weights())
    result(keras.ops.zeros((1, *result.input_shape[1:]), "uint8"))  # Keras exports only what has been called
    return result


def _write(model: "keras.Model", folder: Path, to: _Format, **options: Any) -> Path:
    path, partial = folder / to.file, folder / f"partial.{to.file}"
    try:
        folder.mkdir(exist_ok=True)
        _remove(partial)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # tf2onnx, of NumPy
            model.export(partial, format=to.keras_name, verbose=False, **options)
        _remove(path)
        partial.rename(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}; fix that and export again") from error
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
