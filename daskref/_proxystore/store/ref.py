"""Owners and borrows of stored objects."""

from daskref.exceptions import MutableBorrowError as MutableBorrowError
from daskref.exceptions import OwnershipError as BaseRefProxyError
from daskref.exceptions import ReferenceInvalidError as ReferenceInvalidError
from daskref.exceptions import ReferenceNotOwnedError as ReferenceNotOwnedError
from daskref.ownership import OwnedProxy as OwnedProxy
from daskref.ownership import RefMutProxy as RefMutProxy
from daskref.ownership import RefProxy as RefProxy
from daskref.ownership import borrow as borrow
from daskref.ownership import clone as clone
from daskref.ownership import into_owned as into_owned
from daskref.ownership import mut_borrow as mut_borrow
from daskref.ownership import update as update

__all__ = [
    "BaseRefProxyError",
    "MutableBorrowError",
    "OwnedProxy",
    "RefMutProxy",
    "RefProxy",
    "ReferenceInvalidError",
    "ReferenceNotOwnedError",
    "borrow",
    "clone",
    "into_owned",
    "mut_borrow",
    "update",
]
