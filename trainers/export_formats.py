"""A trained model in the formats of other runtimes: a run folder in, `export/` in it out.

    saved_model    export/saved_model/      TensorFlow, TF Serving
    onnx           export/model.onnx        ONNX Runtime and whatever else reads ONNX; needs requirements-export.txt
    litert         export/model.tflite      LiteRT (TensorFlow Lite), for phones and small boards

All take what `model.keras` takes, uint8 RGB [batch, size, size, 3] in 0…255, give its probabilities float32 [batch, 1],
and compute in float32 whatever the model was trained in, since the others know no bfloat16. No Keras is imported until
a model is exported.
"""

import importlib.util
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import InputError
from trainers import run_dir

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
    """Checks before anything slow that these formats can be written.

    Args:
      names: of formats.
      flag: where they come from, for errors.

    Raises:
      InputError: if there is no such format, or what it needs is not installed.
    """
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


def export(run_folder: str | Path, names: Sequence[str]) -> list[Path]:
    """Writes a run's `model.keras` in other formats; each appears whole or not at all, and replaces an older one.

    Args:
      run_folder: of a run that has a model.
      names: formats, see `check`.

    Returns:
      what was written, in the order of the names.

    Raises:
      InputError: if the model cannot be loaded or the folder not be written, or Keras does not run on TensorFlow.
    """
    path = Path(run_folder) / run_dir.MODEL
    if not path.exists():
        raise InputError(f"{run_folder} has no {path.name}; run its trainer first")
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"models are exported by Keras on TensorFlow, not on {keras.backend.backend()}; give the command "
            f"KERAS_BACKEND=tensorflow python -m trainers.export --run_dir={run_folder} --format={','.join(names)}"
        )
    model = _in_float32(_load(path))
    return [_write(model, Path(run_folder) / FOLDER, _FORMATS[name]) for name in names]


def _load(path: Path) -> "keras.Model":
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # a damaged archive fails in zipfile, json, h5py or Keras, each in its own way
        raise InputError(f"{path} cannot be loaded ({error}); train again into another --run_dir") from error


def _in_float32(model: "keras.Model") -> "keras.Model":
    import keras

    def copy(layer: keras.Operation) -> keras.Operation:
        has_policy = isinstance(layer, keras.Layer)  # slicing, for one, has none
        return type(layer).from_config(layer.get_config() | ({"dtype": "float32"} if has_policy else {}))

    result = keras.models.clone_model(model, clone_function=copy)
    result.set_weights(model.get_weights())
    result(keras.ops.zeros((1, *result.input_shape[1:]), "uint8"))  # Keras exports what was called before
    return result


def _write(model: "keras.Model", folder: Path, its_format: _Format) -> Path:
    path, partial = folder / its_format.file, folder / f"partial.{its_format.file}"
    try:
        folder.mkdir(exist_ok=True)
        _remove(partial)
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # tf2onnx, of NumPy
                model.export(partial, format=its_format.keras_name, verbose=False)
            _remove(path)
            partial.rename(path)
        finally:
            _remove(partial)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}; mend that and export again") from error
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
