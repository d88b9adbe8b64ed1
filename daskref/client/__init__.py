"""The client process: what leaves it, what comes back, and what it holds.

Read ``client`` first: the class, and the way of a value through the files; then
``by_reference``: what the class does otherwise than Dask's.

- ``_attachment``: what a client has while it passes values by reference; it joins the
  session and leaves it
- ``_holdings``: the objects that this client has put, each content once
- ``_scatter``, ``_placing``: ``scatter``, step by step, and its wait for workers
- ``_watches``: keys of which the client wants to hear that Dask is done with them;
  ``_loans``: borrows that it has lent to tasks, until then
- ``_hosts``: this client's part where workers run on several hosts
- ``explaining``, ``inventory``: what would go by reference, and what is stored,
  shown as ``tables``
- ``enabling``: ``enable`` and ``disable``, for a client that somebody else made
"""

from daskref.client.client import Client as Client
from daskref.client.enabling import disable as disable
from daskref.client.enabling import enable as enable
from daskref.client.explaining import explain as explain
from daskref.client.inventory import list_objects as list_objects
from daskref.client.inventory import stats as stats

__all__ = ["Client", "disable", "enable", "explain", "list_objects", "stats"]
