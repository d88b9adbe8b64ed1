"""The client process: what it sends, what it receives, and the objects that it holds.

Read ``client`` first: the class, and a value's way through the files; then
``by_reference``: where the class differs from Dask's.

- ``_attachment``: the state of a client that passes values by reference; it joins the
  session and leaves it
- ``_holdings``: the objects that this client has put, each content once
- ``_scatter``: ``scatter``, step by step, and its wait for workers
- ``_watches``: keys whose end this client waits for; ``_loans``: borrows lent to tasks
- ``_hosts``: this client's part where workers run on several hosts
- ``explaining``, ``inventory``: what would go by reference, and what is stored,
  shown as ``tables``
- ``enabling``: ``enable`` and ``disable``, for existing clients
"""

from daskref.client.client import Client as Client
from daskref.client.enabling import disable as disable
from daskref.client.enabling import enable as enable
from daskref.client.explaining import explain as explain
from daskref.client.inventory import list_objects as list_objects
from daskref.client.inventory import stats as stats

__all__ = ["Client", "disable", "enable", "explain", "list_objects", "stats"]
