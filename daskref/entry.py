"""What runs wherever daskref is installed and Dask is imported.

Dask loads this (entry point group ``dask.sizeof``) in the middle of its own import,
when neither ``distributed`` nor what builds on it can be imported yet: hence a module
that imports nothing of them, in a package that imports its parts on first use. It
leaves notes; the family itself is loaded by the first value or message that needs it.

All who import Dask pay for what is imported here, with or without a use for daskref:
that is nothing which Dask has not imported before.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

_NAME = "daskref"
_SERIALIZE = "distributed.protocol.serialize"


def register_sizeof(sizeof: Any) -> None:
    """Announce daskref's types to Dask, and its family to ``distributed``.

    *sizeof*: Dask's dispatch of that name.
    """

    def load() -> None:
        from daskref.cluster.family import register_sizeof

        register_sizeof(sizeof)

    sizeof.register_lazy(_NAME, load)
    # Not on `distributed`: where that is what brings Dask in, it is in sys.modules
    # already, and half-made.
    if _SERIALIZE in sys.modules:
        _announce(sys.modules[_SERIALIZE])
    else:
        sys.meta_path.insert(0, _Announcer())


class _Announcer:
    """Finder of modules that finds one, once: to be called when it was imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return where a module is, as the other finders say."""
        if name != _SERIALIZE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                vars(loader).pop("exec_module", None)  # that of its class comes back
                execute(module)
                _announce(module)

            loader.exec_module = exec_module
        return spec


def _announce(serialize: Any) -> None:
    if _NAME in serialize.families:
        return
    serialize.register_serialization_family(_NAME, _dumps, _loads)
    # a Proxy cannot exist before the package is loaded, but may be its first use
    for dispatch in (serialize.dask_serialize, serialize.dask_deserialize):
        dispatch.register_lazy(_NAME, _load_family)


def _load_family() -> Any:
    from daskref.cluster import family

    family.register_family()  # in the place of these stubs
    return family


def _dumps(x: Any, context: Any = None) -> Any:
    return _load_family().dumps(x, context)


def _loads(header: Any, frames: Any) -> Any:
    return _load_family().loads(header, frames)
