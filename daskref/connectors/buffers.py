"""Buffers as bytes, and their addresses."""

from __future__ import annotations

import ctypes
import pickle
from functools import cache
from typing import Any


class _PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


@cache
def _get_buffer() -> tuple[Any, Any]:
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
    release = ctypes.pythonapi.PyBuffer_Release
    release.argtypes = [ctypes.POINTER(_PyBuffer)]
    return get, release


def raw(buffer: Any) -> memoryview:
    """Return the bytes of any contiguous buffer, without copying."""
    view = memoryview(buffer)
    if view.c_contiguous and view.nbytes:
        # Not a PickleBuffer of a memoryview: Python before 3.12.7 crashes when it
        # collects them in a cycle, such as an error's traceback (gh-77894).
        return view.cast("B")
    return pickle.PickleBuffer(buffer).raw()


def address(view: memoryview) -> int:
    """Return the address of the bytes; *view* must outlive its use."""
    get, release = _get_buffer()
    info = _PyBuffer()
    get(view, ctypes.byref(info), 0)
    try:
        where = info.buf
        assert isinstance(where, int)
        return where
    finally:
        release(ctypes.byref(info))
