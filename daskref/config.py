"""Settings, read through :mod:`dask.config` under the prefix ``daskref``.

Importing this module hands daskref's defaults to Dask; nothing is read before
:meth:`Settings.read` or :func:`threshold` is called. Every setting has its default in
``daskref.yaml`` and its description in ``daskref-schema.yaml``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from numbers import Real
from pathlib import PurePath
from threading import TIMEOUT_MAX
from typing import Any, TypeAlias

import dask.config
import yaml
from dask.utils import parse_bytes, parse_timedelta

from daskref.exceptions import ConfigError
from daskref.units import parse_advertised, parse_ports

#: A number of bytes (int), or a fraction from 0 to 1 (float).
Share: TypeAlias = int | float

_SIZE = 'a size such as "1 MiB" or 1048576, not negative'
_SHARE = 'a fraction from 0 to 1, or a size such as "8 GiB", of 1 MiB or more'
#: Numbers below it are no sizes: 1.5 is not meant to be one byte.
_LEAST_SHARE = 2**20
_COUNT = "a whole number above 0"
_LATENCY = '"dask", or a duration such as "1ms" or 0.001, not negative'
_SECONDS = 'a positive duration such as "30s" or 30'


@cache
def defaults() -> dict[str, Any]:
    """Return daskref's defaults, as ``daskref.yaml`` has them; not to be changed."""
    text = files("daskref").joinpath("daskref.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def ensure_defaults() -> None:
    """Hand daskref's defaults to :mod:`dask.config`. A second call is silent.

    What the user has set already, in files or in the environment, stays.
    """
    ours = defaults()
    if not any(known is ours for known in dask.config.defaults):
        malformed = _malformed_sections()
        dask.config.update_defaults(ours)
        # Dask puts our section in the place of what is none; reading says so instead
        dask.config.set(malformed)


def sections() -> dict[str, list[str]]:
    """Return the sections, ``daskref`` and those in it, and the names in each."""
    found: dict[str, list[str]] = {}
    waiting: list[tuple[str, dict[str, Any]]] = [("daskref", defaults()["daskref"])]
    for section, tree in waiting:
        found[section] = list(tree)
        waiting += [
            (f"{section}.{name}", below)
            for name, below in tree.items()
            if isinstance(below, dict)
        ]
    return found


def _malformed_sections() -> dict[str, Any]:
    """Return what somebody has put in the place of a section."""
    given = {name: dask.config.get(name, None) for name in sections()}
    return {
        name: value
        for name, value in given.items()
        if value is not None and not isinstance(value, Mapping)
    }


def parse_size(setting: str, value: object) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    setting
        Name to complain about.
    value
        Number of bytes, or text such as ``"1 MiB"``.

    Raises
    ------
    ConfigError
        If it is neither, negative, or not finite.
    """
    given: object = value
    if isinstance(value, str) and value.strip():
        try:
            given = parse_bytes(value)
        except (ValueError, OverflowError) as exc:
            raise ConfigError(setting, value, _SIZE) from exc
    number = _number(given)
    if number is None or number < 0:
        raise ConfigError(setting, value, _SIZE)
    return int(number)


def parse_share(setting: str, value: object) -> Share:
    """Return a fraction (float) for a number from 0 to 1, else a size (int)."""
    number = _number(value)
    if number is not None and 0 <= number <= 1:
        return float(number)
    try:
        size = parse_size(setting, value)
    except ConfigError as exc:
        raise ConfigError(setting, value, _SHARE) from exc
    bare = number is not None or (
        isinstance(value, str) and value.strip()[-1].isdigit()
    )
    if bare and 0 < size < _LEAST_SHARE:
        raise ConfigError(setting, value, _SHARE)
    return size


def parse_seconds(setting: str, value: object) -> float:
    """Return a duration in seconds.

    Parameters
    ----------
    setting
        Name to complain about.
    value
        Number of seconds, or text such as ``"10 minutes"``.

    Raises
    ------
    ConfigError
        If it is neither, not positive, or not finite.
    """
    given = value
    if isinstance(value, str):
        try:
            given = parse_timedelta(value)
        # parse_timedelta raises KeyError for unknown units and IndexError for ""
        except (ValueError, LookupError, OverflowError) as exc:
            raise ConfigError(setting, value, _SECONDS) from exc
    number = _number(given)
    # what the waiting functions of Python take
    if number is None or not 0 < number <= TIMEOUT_MAX:
        raise ConfigError(setting, value, _SECONDS)
    return float(number)


def _parse_latency(setting: str, value: object) -> float | str:
    if isinstance(value, str) and value == "dask":
        return value
    if _number(value) == 0:
        return 0.0
    try:
        return parse_seconds(setting, value)
    except ConfigError as exc:
        raise ConfigError(setting, value, _LATENCY) from exc


def _number(value: object) -> int | float | None:
    # bool is an int, but `threshold: yes` is a mistake; NumPy's numbers are Real
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return value if math.isfinite(value) else None  # type: ignore[return-value]
    except OverflowError:  # a whole number that nothing here can be
        return None


def _parse_connector(setting: str, value: object) -> str | dict[str, Any]:
    if isinstance(value, str) and (value == "auto" or "://" in value):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("class"), str):
        return dict(value)
    raise ConfigError(
        setting,
        value,
        '"auto", a spec such as "shm://" or "file:///directory", or a mapping with '
        'the key "class"',
    )


def _parse_path(setting: str, value: object) -> str | None:
    if isinstance(value, PurePath):
        return str(value)
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigError(setting, value, "the path of a directory, or null")


def _parse_interface(setting: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise ConfigError(
        setting, value, "the name or the address of a network interface, or null"
    )


def _parse_port(setting: str, value: object) -> int | str:
    parse_ports(value, setting)
    return value  # type: ignore[return-value]


def _parse_advertise(setting: str, value: object) -> str | None:
    if value is None:
        return None
    parse_advertised(value, setting)
    return str(value)


def _parse_count(setting: str, value: object) -> int:
    number = _number(value)
    if isinstance(value, str) and value.strip().isdecimal():  # of the environment
        number = int(value)
    if number is None or number < 1 or number != int(number):
        raise ConfigError(setting, value, _COUNT)
    return int(number)


def _one_of(*choices: str) -> Callable[[str, object], str]:
    def parse(setting: str, value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ConfigError(setting, value, " or ".join(map(repr, choices)))

    return parse


def _parse_switch(setting: str, value: object) -> str:
    text = str(value).lower() if isinstance(value, bool | str) else ""
    if text in ("auto", "true", "false"):
        return text
    raise ConfigError(setting, value, "'auto', true or false")


#: Field of :class:`Settings` -> (setting below ``daskref.``, its parser:
#: ``(name, value) -> value``).
_FIELDS: dict[str, tuple[str, Callable[[str, object], Any]]] = {
    "threshold": ("threshold", parse_size),
    "connector": ("connector", _parse_connector),
    "on_failure": ("on-failure", _one_of("inband", "raise")),
    "results": ("results", _one_of("on-transfer", "on-completion")),
    "timeout": ("timeout", parse_seconds),
    "latency": ("latency", _parse_latency),
    "lease": ("lease", parse_seconds),
    "retry_interval": ("retry-interval", parse_seconds),
    "reconcile_interval": ("reconcile-interval", parse_seconds),
    "reconcile_grace": ("reconcile-grace", parse_seconds),
    "spill_directory": ("spill-directory", _parse_path),
    "shm_root": ("shm.root", _parse_path),
    "shm_budget": ("shm.budget", parse_share),
    "shm_recycle": ("shm.recycle", parse_share),
    "shm_recycle_idle": ("shm.recycle-idle", parse_seconds),
    "prefetch": ("prefetch", parse_size),
    "security_transport": ("security.transport", _one_of("auto", "tls", "clear")),
    "security_sign": ("security.sign", _parse_switch),
    "zmq_interface": ("zmq.interface", _parse_interface),
    "zmq_port": ("zmq.port", _parse_port),
    "zmq_advertise": ("zmq.advertise", _parse_advertise),
    "zmq_fan_out": ("zmq.fan-out", _parse_count),
}


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Immutable; pickles.

    See the page *Configuration* of the documentation for what each one does.
    """

    #: Bytes; values larger than this go by reference.
    threshold: int
    #: ``"auto"``, a spec such as ``"shm://"``, or a mapping with ``"class"``.
    #: May name a password, hence not in ``repr``.
    connector: str | dict[str, Any] = field(repr=False)
    #: ``"inband"`` or ``"raise"``.
    on_failure: str
    #: ``"on-transfer"`` or ``"on-completion"``.
    results: str
    #: Seconds.
    timeout: float
    #: Seconds, or ``"dask"``.
    latency: float | str
    #: Seconds.
    lease: float
    #: Seconds.
    retry_interval: float
    #: Seconds.
    reconcile_interval: float
    #: Seconds.
    reconcile_grace: float
    #: Directory; ``None``: the one for temporary files.
    spill_directory: str | None
    #: Directory on a tmpfs; ``None``: ``/dev/shm``.
    shm_root: str | None
    #: Fraction of the tmpfs (float), or bytes (int).
    shm_budget: Share
    #: Fraction of the budget (float), or bytes (int).
    shm_recycle: Share
    #: Seconds.
    shm_recycle_idle: float
    #: Bytes; 0: off.
    prefetch: int
    #: ``"auto"``, ``"tls"`` or ``"clear"``.
    security_transport: str
    #: ``"auto"``, ``"true"`` or ``"false"``.
    security_sign: str
    #: Name or address, of this process; ``None``: where Dask's server listens.
    zmq_interface: str | None
    #: A port, or ``"first:last"``, of this process; 0: any.
    zmq_port: int | str
    #: ``"address"`` or ``"address:port"``, of this process; ``None``: where it listens.
    zmq_advertise: str | None
    #: Readers that one copy of an object serves at a time.
    zmq_fan_out: int

    @classmethod
    def read(cls, **overrides: Any) -> Settings:
        """Read :mod:`dask.config` as it is now.

        Parameters
        ----------
        **overrides
            Values, by the names of the fields, that go before those configured and
            are checked like them. ``None`` means as configured.

        Raises
        ------
        ConfigError
            If a value is malformed; it names the setting and what is valid.
        TypeError
            If there is no such field.

        Examples
        --------
        >>> Settings.read(threshold="2 MiB").threshold
        2097152
        """
        if unknown := overrides.keys() - _FIELDS.keys():
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
        for section, given in _malformed_sections().items():
            names = ", ".join(sections()[section])
            raise ConfigError(section, given, f"a mapping with any of {names}")
        values = {}
        for name, (setting, parse) in _FIELDS.items():
            value = overrides.get(name)
            if value is None:
                value = _get(setting)
            values[name] = parse(f"daskref.{setting}", value)
        return cls(**values)


def changed(**overrides: Any) -> dict[str, Any]:
    """Return the fields of :class:`Settings` that this process has set.

    Parameters
    ----------
    **overrides
        See :meth:`Settings.read`. Those given are in it, even as they are by default.

    Raises
    ------
    ConfigError
        If a value is malformed.
    """
    plain = {
        name: parse(setting, dask.config.get(setting, config=defaults()["daskref"]))
        for name, (setting, parse) in _FIELDS.items()
    }
    ours = vars(Settings.read(**overrides))
    return {
        name: value
        for name, value in ours.items()
        if value != plain[name] or overrides.get(name) is not None
    }


def setting_name(field: str) -> str:
    """Return the full name of a setting, as in ``daskref.shm.budget``."""
    return f"daskref.{_FIELDS[field][0]}"


def is_size(field: str) -> bool:
    """Tell whether whole numbers of a field are bytes."""
    return _FIELDS[field][1] in (parse_size, parse_share)


def _get(setting: str) -> object:
    # somebody may have cleared the configuration: then our defaults still hold
    default = dask.config.get(setting, config=defaults()["daskref"])
    return dask.config.get(f"daskref.{setting}", default)


#: The last raw value that :func:`threshold` saw, and its size in bytes. One tuple, so
#: that threads replace both at once.
_last_threshold: tuple[object, int] = (None, 0)


def threshold() -> int:
    """Return ``daskref.threshold`` in bytes, as configured now.

    Cheap enough to be called for every task: the text is parsed when it changes.

    Raises
    ------
    ConfigError
        If it is malformed.
    """
    global _last_threshold
    try:
        raw = dask.config.config["daskref"]["threshold"]
    except (KeyError, TypeError):
        raw = _get("threshold")
    known, nbytes = _last_threshold
    # identity, not equality: True == 1, but only one of them is a size
    if raw is known and raw is not None:
        return nbytes
    nbytes = parse_size("daskref.threshold", raw)
    _last_threshold = (raw, nbytes)
    return nbytes


ensure_defaults()
