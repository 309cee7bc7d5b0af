"""Keeps freed memory for the next step instead of handing it back to the kernel."""

import ctypes

_M_TRIM_THRESHOLD = -1  # malloc.h of glibc
_M_MMAP_MAX = -4
_MAX_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed; returns whether this was possible (elsewhere nothing happens).

    By default every activation of some megabytes is mapped, zeroed and unmapped again in each step: `basic_cnn` spent
    a quarter of its CPU time in the kernel. Kept, that falls to a tenth.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MAX_INT))
