"""How a command starts TensorFlow: without its C++ messages about CPU instructions and CUDA, and with its memory.

TF_CPP_MIN_LOG_LEVEL does not reach what TensorFlow 2.21 logs before logging is set up
(github.com/tensorflow/tensorflow/issues/100442). Where the import fails, all of it is shown.
"""

import ctypes
import importlib
import os
import sys
import tempfile

_STANDARD_ERROR = 2
_M_TRIM_THRESHOLD = -1  # malloc.h of glibc
_M_MMAP_MAX = -4
_MAX_INT = 2**31 - 1


def import_tensorflow() -> None:
    """Imports TensorFlow, if it has not been, and starts its devices; standard error is held back meanwhile.

    Raises:
      ImportError: if it cannot be imported; its output is printed before.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step; returns whether that was possible, otherwise does nothing.

    By default each activation of some megabytes is mapped, zeroed and unmapped again in every step: `basic_cnn` spent a
    quarter of its CPU time in the kernel, and a tenth with this.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MAX_INT))
