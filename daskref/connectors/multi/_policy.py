"""The policies that select a connector for an object."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from daskref.exceptions import ConfigError
from daskref.units import parse_size

_SETTING = "daskref.connector: policy"


@dataclass
class Policy:
    """The rule by which a ``MultiConnector`` selects a connector for an object.

    Parameters
    ----------
    priority
        Of several policies that take an object, the one with the highest priority is
        used; of equal ones, the first.
    host_pattern
        One or several regular expressions, one of which must match this host's whole
        name to put objects. Reading works on every host that reaches the store.
    min_size_bytes, max_size_bytes
        Smallest and largest object in bytes, both included; text such as "1 MiB" also.
    subset_tags
        An object's ``subset_tags`` must all be among these.
    superset_tags
        These must all be among an object's ``superset_tags``.
    type_names
        Patterns such as ``"pandas.*"`` (as for file names), one of which must match the
        name of the object's type. Empty: any type.

    Raises
    ------
    ConfigError
        If a field is malformed.

    Examples
    --------
    >>> Policy(max_size_bytes="1 MiB").is_valid(size_bytes=1000)
    True
    >>> Policy(type_names=["numpy.*"]).is_valid(type_name="builtins.list")
    False
    """

    priority: int = 0
    host_pattern: Iterable[str] | str | None = None
    min_size_bytes: int = 0
    max_size_bytes: int = sys.maxsize
    subset_tags: list[str] = field(default_factory=list)
    superset_tags: list[str] = field(default_factory=list)
    type_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise ConfigError(f"{_SETTING}: priority", self.priority, "a whole number")
        for name in ("min_size_bytes", "max_size_bytes"):
            value = parse_size(getattr(self, name), f"{_SETTING}: {name}")
            setattr(self, name, value)
        if self.min_size_bytes > self.max_size_bytes:
            raise ConfigError(
                f"{_SETTING}: min_size_bytes",
                self.min_size_bytes,
                f"at most max_size_bytes, which is {self.max_size_bytes}",
            )
        for name in ("subset_tags", "superset_tags", "type_names"):
            setattr(self, name, _texts(name, getattr(self, name)))
        if self.host_pattern is not None:
            patterns = _texts("host_pattern", self.host_pattern, one=True)
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as exc:
                    raise ConfigError(
                        f"{_SETTING}: host_pattern", pattern, f"a pattern ({exc})"
                    ) from exc
            if not isinstance(self.host_pattern, str):
                self.host_pattern = patterns

    @classmethod
    def read(cls, value: object) -> Policy:
        """Return the policy that a user wrote.

        Parameters
        ----------
        value
            A policy, ProxyStore's included; a mapping of fields, with hyphens or
            underscores; ``None`` for a policy that takes everything.
        """
        if isinstance(value, Policy):
            return value
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            as_dict = getattr(value, "as_dict", None)
            value = as_dict() if callable(as_dict) else value
        known = [each.name for each in fields(cls)]
        if not isinstance(value, Mapping):
            raise ConfigError(
                _SETTING, value, f"a Policy, or a mapping with {', '.join(known)}"
            )
        named = {str(name).replace("-", "_"): given for name, given in value.items()}
        for name, given in named.items():
            if name not in known:
                raise ConfigError(
                    f"{_SETTING}: {name}", given, f"one of {', '.join(known)}"
                )
        return cls(**named)

    def is_valid(
        self,
        *,
        size_bytes: int | None = None,
        subset_tags: Iterable[str] | None = None,
        superset_tags: Iterable[str] | None = None,
        type_name: str | None = None,
    ) -> bool:
        """Tell whether the policy takes an object, on this host.

        Parameters
        ----------
        size_bytes, subset_tags, superset_tags, type_name
            Properties of the object; ``None``: not checked.
        """
        if size_bytes is not None and not (
            self.min_size_bytes <= size_bytes <= self.max_size_bytes
        ):
            return False
        if subset_tags is not None and not set(subset_tags) <= set(self.subset_tags):
            return False
        if superset_tags is not None and not (
            set(superset_tags) >= set(self.superset_tags)
        ):
            return False
        if type_name is not None and self.type_names:
            return self.is_valid_on_host() and any(
                fnmatchcase(type_name, each) for each in self.type_names
            )
        return self.is_valid_on_host()

    def is_valid_on_host(self) -> bool:
        """Tell whether the policy takes objects on this host."""
        if self.host_pattern is None:
            return True
        name = socket.gethostname()
        patterns = self.host_pattern
        if isinstance(patterns, str):
            patterns = [patterns]
        return any(re.fullmatch(pattern, name) for pattern in patterns)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, which :class:`Policy` takes."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _texts(name: str, value: object, one: bool = False) -> list[str]:
    if isinstance(value, str) and one:
        return [value]
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        texts = [each for each in value if isinstance(each, str)]
        if len(texts) == len(value):
            return texts
    raise ConfigError(f"{_SETTING}: {name}", value, "a list of texts")
