"""Reducers for values whose own pickle copies their memory, or loses something.

Each function reduces objects of one exact type, as ``copyreg`` has it. Unpickling gives
what Python's pickle would give, or a value closer to the original. The memory of the
object travels out of band, uncopied.

=========================  =============================================================
type                       why
=========================  =============================================================
``memoryview``             does not pickle; ``cloudpickle`` makes bytes of it
``numpy.ndarray``          dates and strided arrays would be copied into the pickle,
                           broadcast ones written out; of objects, each would be pickled
masked arrays              would be copied into the pickle, a missing mask written out
``matrix``, ``recarray``,  would be copied into the pickle
``memmap``, ``chararray``
Arrow's arrays             a slice would carry the whole array that it was cut from
pandas' Arrow arrays       chunks would be joined
PyTorch's tensors          would lose their gradient
PyTorch's storages         would be copied several times, and their sharing lost
=========================  =============================================================

Private names used here belong to other packages than Dask: PyTorch's
``TypedStorage._untyped_storage``, the ``__dict__`` in which pandas' Arrow arrays keep
their state and NumPy's masked arrays their fill value, and the module of NumPy's
``chararray``. ``tests/objects/test_reducers.py`` checks them.
"""

from __future__ import annotations

import ctypes
import operator
import pickle
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

#: ``(object) -> what ``__reduce__`` returns``
Reducer = Callable[[Any], Any]

#: Arrays of so many objects or more are searched for repeated ones.
_MANY = 256


def reducers() -> Mapping[type, Reducer]:
    """Return the reducers, by exact type, for the packages that are imported."""
    return _reducers(*map(_is_imported, _SENTINELS.items()))


#: Packages, and the last name that their import defines.
_SENTINELS = {
    "numpy": "ndarray",
    "pyarrow": "Table",
    "pandas": "DataFrame",
    "torch": "frombuffer",
}


def _is_imported(package: tuple[str, str]) -> bool:
    name, sentinel = package
    return hasattr(sys.modules.get(name), sentinel)


@lru_cache
def _reducers(
    numpy: bool, pyarrow: bool, pandas: bool, torch: bool
) -> Mapping[type, Reducer]:
    found: dict[type, Reducer] = {memoryview: _reduce_memoryview}
    if numpy:
        import numpy as np

        found[np.ndarray] = _reduce_array
        found[np.ma.MaskedArray] = _reduce_masked
        found |= dict.fromkeys((np.matrix, np.recarray, np.memmap), _reduce_subclass)
        # from its own module: NumPy 2.5 warns on access to `np.char.chararray`
        home = sys.modules.get("numpy._core.defchararray", np.char)
        if (chararray := getattr(home, "chararray", None)) is not None:
            found[chararray] = _reduce_subclass
    if pyarrow:
        import pyarrow as pa

        for cls in vars(pa.lib).values():
            if isinstance(cls, type) and issubclass(cls, pa.Array):
                found[cls] = _reduce_arrow
    if pandas:
        import pandas as pd

        for name in ("ArrowExtensionArray", "ArrowStringArray"):
            if (cls := getattr(pd.arrays, name, None)) is not None:
                found[cls] = _reduce_arrow_extension
    if numpy and torch:
        import torch as th

        found[th.Tensor] = _reduce_tensor
        found[th.storage.UntypedStorage] = _reduce_storage
        found[th.storage.TypedStorage] = _reduce_typed_storage
    return found


def reducers_of_results() -> Mapping[type, Reducer]:
    """Return the reducers that differ for results: their arrays become contiguous."""
    if not _is_imported(("numpy", "ndarray")):
        return {}
    import numpy as np

    return {np.ndarray: _reduce_result}


def buffer_of(memory: Any) -> pickle.PickleBuffer:
    """Return contiguous memory as a buffer that goes out of band."""
    return pickle.PickleBuffer(memory)


# memoryview


def _reduce_memoryview(view: memoryview) -> Any:
    if view.format in _CASTS and view.nbytes:
        flat = view if view.c_contiguous else memoryview(bytearray(view.tobytes()))
        flat = flat.toreadonly() if view.readonly else flat
        return _make_memoryview, (buffer_of(flat.cast("B")), view.format, view.shape)
    if "numpy" in sys.modules:  # reads formats that Python does not
        import numpy as np

        return memoryview, (np.asarray(view),)
    return memoryview, (view.tobytes(),)


#: What Python can cast bytes to.
_CASTS = frozenset("cbB?hHiIlLqQnNfd")


def _make_memoryview(buffer: Any, format: Any, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer).cast("B")
    # shapes without dimensions are of one element
    return view.cast(format, shape) if shape else view.cast(format, [])


# NumPy


def _reduce_array(array: Any) -> Any:
    flags = array.flags
    if array.dtype.hasobject:
        if array.dtype == object and array.size >= _MANY:
            return _reduce_objects(array)
        return array.__reduce_ex__(5)
    if not flags.forc:
        if not flags.writeable and 0 in array.strides:
            return _reduce_broadcast(array)
        axes = sorted(range(array.ndim), key=array.strides.__getitem__, reverse=True)
        if (swapped := array.transpose(axes)).flags.c_contiguous:
            back = sorted(range(array.ndim), key=axes.__getitem__)  # the inverse
            return _make_swapped, (swapped, back)
        array = array.copy(order="C")
    if array.dtype.kind in "mMV":  # NumPy copies these into the pickle
        return _reduce_memory(array)
    return array.__reduce_ex__(5)


def _reduce_result(array: Any) -> Any:
    # Arrays without memory for each element stay so.
    if not (array.flags.forc or array.dtype.hasobject or 0 in array.strides):
        array = array.copy(order="C")
    return _reduce_array(array)


def _reduce_memory(array: Any) -> Any:
    """Reduce an array, or an instance of a subclass, to its memory."""
    import numpy as np

    if not array.dtype.itemsize:
        return array.__reduce_ex__(5)
    order = "C" if array.flags.c_contiguous else "F"
    base = array.view(np.ndarray)
    raw = (base if order == "C" else base.T).reshape(-1).view("u1")
    how = (type(array), array.shape, array.dtype, order)
    return _make_array, (*how, buffer_of(raw))


def _make_array(
    cls: Any, shape: tuple[int, ...], dtype: Any, order: str, buffer: Any
) -> Any:
    import numpy as np

    # as NumPy's own pickle does it: __array_finalize__(None), no __new__ of the class
    return np.ndarray.__new__(cls, shape, dtype, buffer, 0, None, order)  # type: ignore[arg-type]


def _make_swapped(array: Any, axes: list[int]) -> Any:
    return array.transpose(axes)


def _reduce_masked(array: Any) -> Any:
    import numpy as np

    if array.baseclass is not np.ndarray or array.dtype.hasobject:
        return array.__reduce__()
    mask = None if array.mask is np.ma.nomask else np.ma.getmaskarray(array)
    value = vars(array)["_fill_value"]  # None if it is the default
    return _make_masked, (array.data, mask, array.hardmask, value)


def _make_masked(data: Any, mask: Any, hard: bool, value: Any) -> Any:
    import numpy as np

    mask = np.ma.nomask if mask is None else mask
    made = np.ma.MaskedArray(data, mask, hard_mask=hard)
    vars(made)["_fill_value"] = value
    return made


def _reduce_subclass(array: Any) -> Any:
    if array.dtype.hasobject or not array.flags.forc:
        return array.__reduce_ex__(5)
    return _reduce_memory(array)


def _reduce_broadcast(array: Any) -> Any:
    once = tuple(slice(0, 1) if not stride else slice(None) for stride in array.strides)
    return _make_broadcast, (array[once].copy(order="C"), array.shape)


def _make_broadcast(once: Any, shape: tuple[int, ...]) -> Any:
    import numpy as np

    return np.broadcast_to(once, shape)


def _reduce_objects(array: Any) -> Any:
    """Reduce an array that repeats objects, as text in a column, to each object once.

    Elements that are one object stay one object.
    """
    import numpy as np

    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    order = "F" if fortran else "C"
    flat = np.ascontiguousarray(array.T if fortran else array).reshape(-1)
    memory: Any = (ctypes.c_char * flat.nbytes).from_address(flat.ctypes.data)
    pointers = np.frombuffer(memory, np.intp)
    # a sample first: sorting takes time, and most arrays of objects repeat none
    sample = pointers[:: max(1, pointers.size // 4096)]
    if np.unique(sample).size > sample.size // 2:
        return array.__reduce_ex__(5)
    found, codes = _factorize(pointers)
    if len(found) > flat.size // 2:
        return array.__reduce_ex__(5)
    codes = codes.astype(np.min_scalar_type(len(found)), copy=False)
    state = (flat[found].tolist(), codes)
    return _empty_objects, (array.shape, order), state, None, None, _fill_objects


def _factorize(values: Any) -> tuple[Any, Any]:
    """Return the first position of each distinct value, and each value's code."""
    import numpy as np

    if (pandas := sys.modules.get("pandas")) is not None:
        codes, distinct = pandas.factorize(values)
        first = np.empty(len(distinct), np.intp)
        first[codes[::-1]] = np.arange(values.size - 1, -1, -1)
        return first, codes
    _, first, codes = np.unique(values, return_index=True, return_inverse=True)
    return first, codes


def _empty_objects(shape: tuple[int, ...], order: Any) -> Any:
    import numpy as np

    return np.empty(shape, object, order=order)


def _fill_objects(array: Any, state: tuple[list[Any], Any]) -> None:
    import numpy as np

    distinct, codes = state
    once = np.empty(len(distinct), object)
    for i, obj in enumerate(distinct):  # not all at once: NumPy would look inside
        once[i] = obj
    array.reshape(-1, order="A")[:] = once[codes]


# Arrow and pandas


def _reduce_arrow(array: Any) -> Any:
    import pyarrow as pa

    try:
        whole, part = array.get_total_buffer_size(), array.nbytes
        if whole <= part + part // 4 + 1024:
            return array.__reduce__()
        batch = pa.record_batch([array], names=["array"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
    except Exception:  # of a type that Arrow does not size, or not write
        return array.__reduce__()
    return _make_arrow, (buffer_of(sink.getvalue()),)


def _make_arrow(buffer: Any) -> Any:
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(buffer)) as stream:
        return stream.read_next_batch().column(0)


def _reduce_arrow_extension(array: Any) -> Any:
    # Its own way would join the chunks, which is a copy of all of them.
    state = {**array.__dict__, "_cache": {}}
    return _make_empty, (type(array),), state, None, None, _set_attributes


def _make_empty(cls: Any) -> Any:
    return cls.__new__(cls)


def _set_attributes(obj: Any, state: dict[str, Any]) -> None:
    obj.__dict__.update(state)


# PyTorch


def _reduce_tensor(tensor: Any) -> Any:
    made = tensor.__reduce_ex__(5)
    gradient = tensor.grad if tensor.is_leaf else None
    if gradient is None or len(made) != 2:
        return made
    return (*made, gradient, None, None, _set_gradient)


def _set_gradient(tensor: Any, gradient: Any) -> None:
    tensor.grad = gradient


def _reduce_storage(storage: Any) -> Any:
    import torch

    if storage.device.type != "cpu":
        return storage.__reduce__()
    memory = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return _make_storage, (buffer_of(memory),)


def _make_storage(buffer: Any) -> Any:
    import torch

    if not memoryview(buffer).nbytes:
        return torch.UntypedStorage(0)
    return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()


_untyped_of = operator.attrgetter("_untyped_storage")  # its public name warns


def _reduce_typed_storage(storage: Any) -> Any:
    untyped = _untyped_of(storage)
    if untyped.device.type != "cpu":
        return storage.__reduce__()
    return _make_typed_storage, (untyped, storage.dtype)


def _make_typed_storage(untyped: Any, dtype: Any) -> Any:
    import torch

    return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)
