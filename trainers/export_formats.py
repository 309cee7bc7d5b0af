"""A trained model in the formats of other runtimes: a run folder in, `export/` in it out.

    saved_model    export/saved_model/      TensorFlow, TF Serving
    onnx           export/model.onnx        ONNX Runtime and whatever else reads ONNX; needs requirements-export.txt
    litert         export/model.tflite      LiteRT (TensorFlow Lite), for phones and small boards

They take what `model.keras` takes, uint8 RGB [batch, size, size, 3], give its probabilities, float32 [batch, 1] in 0…1,
and compute in float32 whatever the model was trained in, since other runtimes have no bfloat16. Keras is not imported
before a model is exported.
"""

import importlib.util
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import InputError

if TYPE_CHECKING:
    import keras

FOLDER = "export"


class _Format(NamedTuple):
    keras_name: str
    file: str
    needs: tuple[str, ...]


_FORMATS = {
    "saved_model": _Format("tf_saved_model", "saved_model", ()),
    "onnx": _Format("onnx", "model.onnx", ("tf2onnx", "onnx")),
    "litert": _Format("litert", "model.tflite", ()),
}
NAMES = tuple(_FORMATS)


def check(names: Sequence[str], flag: str) -> None:
    """Raises InputError, before anything slow, if a flag names an unknown format, or what it needs is not installed."""
    for name in names:
        if name not in _FORMATS:
            raise InputError(f"--{flag}={name} is no known format; expected some of {','.join(NAMES)}")
    for name in names:
        missing = [package for package in _FORMATS[name].needs if importlib.util.find_spec(package) is None]
        if missing:
            raise InputError(
                f"--{flag}={name} needs {' and '.join(missing)}, not installed here: "
                "pip install -r requirements-export.txt"
            )


def missing(run_folder: str | Path, names: Sequence[str]) -> list[str]:
    """Those of the formats that have not been written."""
    return [name for name in names if not (Path(run_folder) / FOLDER / _FORMATS[name].file).exists()]


def export(run_folder: str | Path, model: "keras.Model", names: Sequence[str]) -> list[Path]:
    """Writes a run's model in other formats; each file appears once it is complete, and replaces an older one.

    Returns what was written, in the order of the names. Raises InputError if the folder cannot be written, or Keras
    does not run on TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"models are exported by Keras on TensorFlow, not on {keras.backend.backend()}; give the command "
            f"KERAS_BACKEND=tensorflow python -m trainers.export --run_dir={run_folder} --format={','.join(names)}"
        )
    in_float32 = _in_float32(model)
    return [_write(in_float32, Path(run_folder) / FOLDER, _FORMATS[name]) for name in names]


def _in_float32(model: "keras.Model") -> "keras.Model":
    import keras

    def copy(layer: keras.Operation) -> keras.Operation:
        has_policy = isinstance(layer, keras.Layer)  # slicing, for one, has none
        return type(layer).from_config(layer.get_config() | ({"dtype": "float32"} if has_policy else {}))

    result = keras.models.clone_model(model, clone_function=copy)
    result.set_weights(model.get_weights())
    result(keras.ops.zeros((1, *result.input_shape[1:]), "uint8"))  # Keras exports only models that have been called
    return result


def _write(model: "keras.Model", folder: Path, to: _Format) -> Path:
    path, partial = folder / to.file, folder / f"partial.{to.file}"
    try:
        folder.mkdir(exist_ok=True)
        _remove(partial)
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # tf2onnx, of NumPy
                model.export(partial, format=to.keras_name, verbose=False)
            _remove(path)
            partial.rename(path)
        finally:
            _remove(partial)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}; fix that and export again") from error
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
