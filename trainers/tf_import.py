"""Imports TensorFlow without what its C++ side has to say about instructions and CUDA libraries.

TensorFlow 2.21 logs it before logging can be set up, so that TF_CPP_MIN_LOG_LEVEL does not reach it
(github.com/tensorflow/tensorflow/issues/100442). Where the import fails, all of it is shown.
"""

import importlib
import os
import sys
import tempfile

_STANDARD_ERROR = 2


def import_tensorflow() -> None:
    """Imports TensorFlow, if it has not been, and starts its devices; standard error is held back meanwhile.

    Raises:
      ImportError: if it cannot be imported; what it said is printed before.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    shown = os.dup(_STANDARD_ERROR)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), _STANDARD_ERROR)
        try:
            importlib.import_module("tensorflow").config.list_physical_devices()
        except Exception:
            os.dup2(shown, _STANDARD_ERROR)
            held_back.seek(0)
            sys.stderr.write(held_back.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(shown, _STANDARD_ERROR)
            os.close(shown)
