"""Owners and borrows of stored objects: the functions for users, and the rules.

An :class:`OwnedProxy` owns its object in the store: when the proxy goes, the object
goes. Others, Dask's tasks among them, borrow the object::

    owner = store.owned_proxy(frame)
    client.submit(f, borrow(owner))  # f sees a proxy; given back when the task ends
    client.submit(g, mut_borrow(owner))  # the same, while nobody else has it
    drop(owner)

A violation raises :class:`~daskref.exceptions.OwnershipError`, or a subclass of it,
which quotes the rule. The rules:

- a stored object has one owner, which stays in its process: it does not pickle;
- there may be any number of shared borrows, or one mutable borrow, and while there is
  one the owner does not change the object;
- a borrow never outlives its object: an owner that is deleted while it is lent
  (``del``, garbage collection) takes the object with it when the last borrow ends,
  and :func:`drop` refuses;
- a borrow ends where it is dropped (:func:`drop`, ``del``), or when the Dask task that
  has it ends: then the proxy that was sent can be used no more;
- only an owner lends: a task does not send on what it has borrowed;
- only an owner or a mutable borrow changes the object, in the process of the owner.

Borrows in tasks
----------------
A client of daskref tracks the borrows in its graphs, wherever in the arguments they
are. A borrow is out from the submission until each result that was asked for and
depends on it is there, has failed, or is not wanted any more: also when the worker is
killed and the task runs again elsewhere, and when the future is released while the task
runs on. At that moment, before ``future.result()`` returns, the client gives the borrow
back. A plain Dask client knows nothing of borrows: keep the borrow in a variable for as
long as the task runs.

A task does not change what it has borrowed: :func:`update` is an error there. It
returns the new value, as every task does. So an attempt whose worker is lost leaves no
trace: the next attempt finds the object as it was.

Known limits
------------
If the owner's process is killed, the object stays for as long as its store does. When a
task's result is lost after the task had ended, and Dask runs the task again, it finds
the object only if the owner has neither dropped nor updated it. A client that closes
takes back what it has lent, even if its tasks go on. A cancelled task may read a
borrowed object after the borrow was given back: Dask does not stop running functions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

from daskref.exceptions import MissingKeyError, ResolveError
from daskref.objects.reference import Reference, describe
from daskref.ownership.borrows import Ownership
from daskref.ownership.factories import BorrowFactory, OwnedFactory
from daskref.ownership.proxies import OwnedProxy, RefMutProxy, RefProxy, refuse
from daskref.ownership.rules import (
    ENDS,
    MUTABLE_CHANGES,
    ONE_OWNER,
    OWNER_LENDS,
    SHARED_OR_MUTABLE,
    VALID,
)
from daskref.proxy.proxy import Proxy, extract, get_factory, is_proxy, is_resolved
from daskref.proxy.states import forget, populate
from daskref.store.factory import StoreFactory, factory_of
from daskref.store.registry import opened

T = TypeVar("T")


def _ownership(proxy: Any, what: str) -> Ownership:
    factory = get_factory(proxy) if is_proxy(proxy) else None
    if not isinstance(factory, OwnedFactory):
        refuse(proxy, f"only an owner can be {what}", OWNER_LENDS)
    return factory.ownership


def _populate(proxy: Any, source: Any) -> None:
    if is_resolved(source):
        populate(proxy, extract(source))


def _borrow(kind: Any, proxy: Any, mutable: bool, populate_target: bool) -> Any:
    borrowed = _ownership(proxy, "borrowed").borrow(mutable)
    factory = borrowed.ownership.factory
    made = kind(BorrowFactory(factory, borrowed.id, mutable, borrowed))
    if populate_target:
        _populate(made, proxy)
    return made


def borrow(proxy: OwnedProxy[T], *, populate_target: bool = True) -> RefProxy[T]:
    """Borrow an owned object, to read it.

    Parameters
    ----------
    proxy
        The owner; not resolved by this.
    populate_target
        If the owner is resolved, so is the borrow, to the same object: both see changes
        in place.

    Returns
    -------
    RefProxy
        A proxy that keeps the object in the store until the proxy is dropped or
        deleted, or the Dask task that it is sent to ends.

    Raises
    ------
    OwnershipError
        If *proxy* is no owner, or is mutably borrowed.
    """
    made: RefProxy[T] = _borrow(RefProxy, proxy, False, populate_target)
    return made


def mut_borrow(proxy: OwnedProxy[T], *, populate_target: bool = True) -> RefMutProxy[T]:
    """Borrow an owned object, to change it.

    Parameters
    ----------
    proxy, populate_target
        See :func:`borrow`.

    Returns
    -------
    RefMutProxy
        As for :func:`borrow`. It can be sent to one task, which returns the changed
        object.

    Raises
    ------
    OwnershipError
        If *proxy* is no owner, or is borrowed.

    See Also
    --------
    update : Write the changes to the store.
    """
    made: RefMutProxy[T] = _borrow(RefMutProxy, proxy, True, populate_target)
    return made


def clone(proxy: OwnedProxy[T]) -> OwnedProxy[T]:
    """Make another object with the same content, and an owner of it.

    Parameters
    ----------
    proxy
        The owner. Changes in its local object that :func:`update` has not written are
        in the clone's local object, a deep copy, as well.

    Returns
    -------
    OwnedProxy
        Nothing is copied in a store that can give one object two keys.

    Raises
    ------
    OwnershipError
        If *proxy* is no owner, or is mutably borrowed.
    ResolveError
        If the object is not in the store any more.
    """
    ownership = _ownership(proxy, "cloned")
    # a borrow, so that the object stays as it is until it is copied
    borrowed = ownership.borrow(mutable=False)
    try:
        factory = ownership.factory
        reference = factory.reference
        with opened(reference.store) as store:
            key = store.connector.link(reference.key)
            if key is None:
                data = store.connector.get(reference.key)
                if data is None:
                    missing = MissingKeyError(reference.key, repr(store.connector))
                    raise ResolveError(repr(reference), str(missing)) from missing
                key = store.connector.put(data)
        made: OwnedProxy[T] = OwnedProxy(
            factory_of(Reference(key, reference.store, reference.metadata), factory)
        )
    finally:
        ownership.give_back(borrowed)
    if is_resolved(proxy):
        populate(made, copy.deepcopy(extract(proxy)))
    return made


def into_owned(proxy: Proxy[T], *, populate_target: bool = True) -> OwnedProxy[T]:
    """Make an owner of a plain proxy.

    Parameters
    ----------
    proxy
        A proxy that a store made. Copies of it, here or elsewhere, stay usable until
        the owner goes; only this process is searched for another owner. The owner of a
        single-use proxy is not single-use.
    populate_target
        If the proxy is resolved, so is the owner, to the same object.

    Raises
    ------
    OwnershipError
        If the object has an owner already, or this is a borrow of it.
    NotStoredError
        If no store made the proxy.
    """
    factory = get_factory(proxy)
    if isinstance(factory, OwnedFactory | BorrowFactory):
        refuse(proxy, "it has an owner already", ONE_OWNER)
    made: OwnedProxy[T] = OwnedProxy(cast("StoreFactory", factory))
    if populate_target:
        _populate(made, proxy)
    return made


def update(
    proxy: OwnedProxy[T] | RefMutProxy[T],
    *,
    serializer: Callable[[T], Any] | None = None,
) -> None:
    """Write the changes in the local object to the store.

    Parameters
    ----------
    proxy
        The owner, or a mutable borrow. If it is not resolved, nothing happens.
    serializer
        ``(object) -> buffer`` in place of the store's; the deserializer that the proxy
        was made with reads it then. Without one, the store's own are used from here on.

    Raises
    ------
    OwnershipError
        If *proxy* is neither; if it is the owner and is borrowed; if it is a borrow
        that has ended, or that has left its owner's process, as those in Dask's tasks
        have.
    NotProxiableError
        If the changed object does not serialize.
    ConnectorError
        If the store failed. It has the object as it was.

    Notes
    -----
    Works with every connector: puts a new object, points the owner at it, and deletes
    the one before.
    """
    factory = get_factory(proxy) if is_proxy(proxy) else None
    if isinstance(factory, OwnedFactory):
        ownership = factory.ownership
        ownership.check_unborrowed("updated", SHARED_OR_MUTABLE)
        if not is_resolved(proxy):
            return
        itself = ownership.borrow(mutable=True)  # keeps others from borrowing
        try:
            ownership.replace(_put(ownership.factory, extract(proxy), serializer))
        finally:
            ownership.give_back(itself)
    elif isinstance(factory, BorrowFactory) and factory.mutable:
        _update_borrow(proxy, factory, serializer)
    else:
        refuse(proxy, "this changes nothing in the store", MUTABLE_CHANGES)


def _update_borrow(proxy: Any, factory: BorrowFactory, serializer: Any) -> None:
    borrowed = factory.borrow
    if borrowed is None:
        refuse(
            proxy,
            "this borrow has left its owner's process: return the new value, and make "
            "an owner of it there with Store.owned_proxy()",
            MUTABLE_CHANGES,
        )
    borrowed.check()
    if not is_resolved(proxy):
        return
    target = extract(proxy)
    ownership = borrowed.ownership
    ownership.replace(_put(ownership.factory, target, serializer))
    factory.factory = ownership.factory
    ownership.renew_owner(target)


def _put(factory: StoreFactory, target: Any, serializer: Any) -> StoreFactory:
    with opened(factory.reference.store) as store:
        if serializer is None:
            return factory_of(store.put_reference(target), factory, alike=False)
        data = serializer(target)
        nbytes = memoryview(data).nbytes
        reference = store.refer(store.connector.put(data), describe(target, nbytes))
        return factory_of(reference, factory)


def drop(proxy: OwnedProxy[Any] | RefProxy[Any] | RefMutProxy[Any]) -> None:
    """Delete an owned object, or give a borrow back. A second call is silent.

    Parameters
    ----------
    proxy
        Cannot be used any more afterwards.

    Raises
    ------
    OwnershipError
        If *proxy* is an owner and is borrowed; if it is a plain proxy, or a borrow that
        is in another process than its owner: that ends with its task.
    ConnectorError
        If the object could not be deleted; it has no owner any more.
    """
    factory = get_factory(proxy) if is_proxy(proxy) else None
    if isinstance(factory, OwnedFactory):
        factory.ownership.drop()
        return
    if not isinstance(factory, BorrowFactory):
        refuse(proxy, "it is neither an owner nor a borrow", VALID)
    if factory.borrow is None:
        refuse(proxy, "it is given back when its task ends", ENDS)
    if not factory.borrow.out:
        factory.borrow.ownership.give_back(factory.borrow)
        forget(proxy)
