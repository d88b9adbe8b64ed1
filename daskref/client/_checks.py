"""Checks that a user's argument is a client."""

from __future__ import annotations

from typing import Any

import distributed
from distributed.deploy.cluster import Cluster


def check_client(client: Any, verb: str) -> None:
    """Raise a helpful TypeError unless *client* is one of Dask's clients."""
    if not issubclass(type(client), distributed.Client):
        kind = type(client).__name__
        hint = ""
        if issubclass(type(client), Cluster):
            hint = ": use daskref.Client(cluster)"
            if verb not in ("stats", "list_objects"):
                hint += f", or daskref.{verb}(cluster.get_client())"
        elif issubclass(type(client), str):
            hint = f": use daskref.Client({client!r})"
        raise TypeError(f"daskref.{verb} takes a client, not a {kind}{hint}")


def check_enabled(client: Any, verb: str) -> None:
    """Raise a TypeError unless *client* passes values by reference."""
    check_client(client, verb)
    trying = getattr(client, "_daskref_trying", None) is not None
    if getattr(client, "_daskref", None) is None and not trying:
        raise TypeError(
            f"{client!r} is a plain Dask client: use daskref.Client, or daskref.enable"
        )
