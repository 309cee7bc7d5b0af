import ctypes
import platform

from trainers.training import allocator


def test_glibc_keeps_what_is_freed():
    assert allocator.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert allocator.keep_freed_memory() is False
