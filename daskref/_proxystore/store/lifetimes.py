"""Lifetimes of objects."""

from daskref.lifetimes import ContextLifetime as ContextLifetime
from daskref.lifetimes import LeaseLifetime as LeaseLifetime
from daskref.lifetimes import Lifetime as Lifetime
from daskref.lifetimes import StaticLifetime as StaticLifetime
from daskref.lifetimes import register_lifetime_atexit as register_lifetime_atexit

__all__ = [
    "ContextLifetime",
    "LeaseLifetime",
    "Lifetime",
    "StaticLifetime",
    "register_lifetime_atexit",
]
