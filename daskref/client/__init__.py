"""The client, and what it holds."""

from daskref.client.client import Client as Client
from daskref.client.client import stats as stats
from daskref.client.enabling import disable as disable
from daskref.client.enabling import enable as enable

__all__ = [
    "Client",
    "disable",
    "enable",
    "stats",
]
