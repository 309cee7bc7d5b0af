"""How a command starts TensorFlow and Keras: without C++ messages about CPU instructions and CUDA, whatever Keras's own
configuration (`~/.keras/keras.json`, `KERAS_MAX_EPOCHS`, …) says, and with its memory.
"""

import ctypes
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable

from pipeline.errors import InputError

TENSORFLOW, JAX = "tensorflow", "jax"

_STANDARD_ERROR = 2


def choose_backend() -> str:
    """The backend by KERAS_BACKEND, TensorFlow by default; InputError if models do not run on it, or it is missing."""
    backend = os.environ.get("KERAS_BACKEND") or TENSORFLOW
    if backend not in (TENSORFLOW, JAX):
        expected = f"expected {TENSORFLOW} or {JAX}: set one of them, or unset it"
        raise InputError(f"KERAS_BACKEND={backend} is no backend of the models; {expected}")
    if importlib.util.find_spec(backend) is None:
        raise InputError(f"KERAS_BACKEND={backend} is not installed here: pip install {backend}")
    os.environ["KERAS_BACKEND"] = backend  # for Keras, which would otherwise ask keras.json
    return backend


def import_tensorflow(models: Iterable[str] = ()) -> None:
    """Imports TensorFlow and Keras, if they have not been, and starts their devices; standard error is held back. Then
    imports the modules of --model, which register layers of their own: only a user names them, never a run's folder.

    On another backend TensorFlow only reads the data, and sees no GPU. Raises InputError if Keras, its backend or such
    a module cannot be used, and ImportError if TensorFlow cannot be imported, after its output.
    """
    backend = choose_backend()
    try:
        _import_tensorflow()
        import tensorflow as tf

        if backend != TENSORFLOW:
            tf.config.set_visible_devices([], "GPU")
            importlib.import_module(backend).devices()
        import keras
    except Exception as error:  # of a value in keras.json, a device that is missing, or a library
        if "tensorflow" not in sys.modules and isinstance(error, ImportError):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
        advice = "mend that, unset KERAS_BACKEND, or remove keras.json from ~/.keras or KERAS_HOME"
        text = f"Keras cannot compute on {backend} ({reason}); {advice}"
        raise InputError(f"{text}: it may hold an unknown value") from error
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
    for model in models:
        try:
            importlib.import_module(model.partition(":")[0])
        except (ImportError, TypeError, ValueError) as error:
            expected = "expected such as my_module:my_cnn, with my_module.py in the current folder or installed"
            raise InputError(f"--model={model} cannot be imported ({error}); {expected}") from error


def _import_tensorflow() -> None:
    if "tensorflow" in sys.modules:
        return
    # It does not reach what TensorFlow logs before logging is set up (github.com/tensorflow/tensorflow/issues/100442).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    shown = os.dup(_STANDARD_ERROR)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), _STANDARD_ERROR)
        try:
            tensorflow = importlib.import_module("tensorflow")
            if {"TF_XLA_FLAGS", "XLA_FLAGS"}.isdisjoint(os.environ):  # a wrong one ends the process here, with a reason
                tensorflow.config.list_physical_devices()
        except ImportError:
            os.dup2(shown, _STANDARD_ERROR)
            held_back.seek(0)
            sys.stderr.write(held_back.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(shown, _STANDARD_ERROR)
            os.close(shown)


def keep_freed_memory() -> None:
    """Tells glibc, where it is the C library, to keep freed memory: without that `basic_cnn` spent a quarter of its CPU
    time in the kernel, with it a tenth.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX of malloc.h
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
