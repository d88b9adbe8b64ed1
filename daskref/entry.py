"""What runs wherever daskref is installed and Dask is imported.

Dask loads this (entry point group ``dask.sizeof``) in the middle of its own import,
when neither ``distributed`` nor what builds on it can be imported yet: hence a module
that imports nothing of them, in a package that imports its parts on first use. It
leaves notes; the family itself is loaded by the first value or message that needs it.
"""

from __future__ import annotations

from typing import Any

import wrapt

_NAME = "daskref"
_SERIALIZE = "distributed.protocol.serialize"


def register_sizeof(sizeof: Any) -> None:
    """Announce daskref's types to Dask, and its family to ``distributed``.

    Parameters
    ----------
    sizeof
        Dask's dispatch of that name.
    """

    def load() -> None:
        from daskref.family import register_sizeof

        register_sizeof(sizeof)

    sizeof.register_lazy(_NAME, load)
    # Not on `distributed`: where that is what brings Dask in, it is in sys.modules
    # already, and half-made.
    wrapt.register_post_import_hook(_announce, _SERIALIZE)


def _announce(serialize: Any) -> None:
    if _NAME in serialize.families:
        return
    serialize.register_serialization_family(_NAME, _dumps, _loads)
    # a Proxy cannot exist before the package is loaded, but may be its first use
    for dispatch in (serialize.dask_serialize, serialize.dask_deserialize):
        dispatch.register_lazy(_NAME, _load_family)


def _load_family() -> Any:
    from daskref import family

    family.register_family()  # in the place of these stubs
    return family


def _dumps(x: Any, context: Any = None) -> Any:
    return _load_family().dumps(x, context)


def _loads(header: Any, frames: Any) -> Any:
    return _load_family().loads(header, frames)
