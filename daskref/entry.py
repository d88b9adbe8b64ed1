"""The code that runs wherever daskref is installed and Dask is imported.

Dask loads this (entry point group ``dask.sizeof``) in the middle of its own import,
when neither ``distributed`` nor a package on top of it can be imported yet. So this
module imports nothing of them, and its package imports its parts on first use. The
functions here register callbacks; the first value or message that needs the family
loads it.

Every process that imports Dask pays for the imports here, with or without a use for
daskref: Dask has imported all of them before.
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
    # Not `distributed`: if its import imports Dask, it is in sys.modules already, and
    # half-made.
    if _SERIALIZE in sys.modules:
        _announce(sys.modules[_SERIALIZE])
    else:
        sys.meta_path.insert(0, _Announcer())


class _Announcer:
    """Finder that finds one module, once, to announce daskref after its import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's spec, as the other finders have it."""
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
    # the first use of the family may be a Proxy, of a package that is loaded
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
