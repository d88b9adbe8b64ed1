"""Ownership of stored objects: an owner, borrows, and the rules between them.

An :class:`OwnedProxy` owns its object in the store: when the proxy goes, the object
goes. It lends the object to others, Dask's tasks among them::

    owner = store.owned_proxy(frame)
    client.submit(f, borrow(owner))  # f sees a proxy; given back when the task ends
    client.submit(g, mut_borrow(owner))  # g may change the object: update(proxy)
    drop(owner)

A violation raises :class:`~daskref.exceptions.OwnershipError`, which names the rule.
The rules:

- a stored object has one owner, which stays in its process: it does not pickle;
- there may be any number of shared borrows, or one mutable borrow, and while there is
  one the owner does not change the object;
- a borrow never outlives its object: an owner that is deleted while it is lent
  (``del``, garbage collection) takes the object with it when the last borrow ends,
  and :func:`drop` refuses;
- a borrow ends where it is dropped (:func:`drop`, ``del``), or when the Dask task that
  has it ends: then what it was sent as can be used no more;
- only an owner lends: what a task has borrowed it does not send on;
- only an owner or a mutable borrow changes the object.

Borrows in tasks
----------------
A client of daskref looks after the borrows in its graphs, wherever in the arguments
they are. A borrow is out from the moment of the submission until each result that was
asked for and depends on it is there, has failed, or is not wanted any more: whether
the worker is killed and the task runs again elsewhere, or the future is let go of and
the task runs on by itself. At that moment, before ``future.result()`` returns, the
borrow is given back. A plain Dask client knows nothing of borrows: keep the borrow in a
variable for as long as the task runs.

A task changes the object that it has mutably borrowed with ``update(proxy)``. Objects
do not change once they are stored, so this puts a new object, and the owner points at
it once the task has ended, failed or not. An attempt at the task whose worker is lost
leaves no trace: the next attempt finds the object as it was. While the task has it, the
owner cannot be read.

Known limits
------------
If the owner's process is killed, the object stays for as long as its store does. When a
task's result is lost after the task had ended, and Dask runs the task again, it finds
the object only if the owner has neither dropped nor updated it; updates by such a
second run are discarded. A client that closes takes back what it has lent, even if its
tasks go on. A cancelled task may read what it borrowed after that was
given back: Dask does not stop running functions.
"""

from __future__ import annotations

from daskref.ownership.functions import (
    borrow,
    clone,
    drop,
    into_owned,
    mut_borrow,
    update,
)
from daskref.ownership.proxies import OwnedProxy, RefMutProxy, RefProxy
from daskref.ownership.rules import RULES

__all__ = [
    "RULES",
    "OwnedProxy",
    "RefMutProxy",
    "RefProxy",
    "borrow",
    "clone",
    "drop",
    "into_owned",
    "mut_borrow",
    "update",
]
