"""Settings, read through :mod:`dask.config` under the prefix ``daskref``.

Importing this module hands daskref's defaults to Dask; nothing is read before
:meth:`Settings.read` or :func:`threshold` is called. Every setting has its default in
``daskref.yaml`` and its description in ``daskref-schema.yaml``. A value under any other
name has no effect; :func:`tell_unknown` warns of it, once per process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import dask.config
import yaml

from daskref.exceptions import ConfigError
from daskref.units import (
    Reader,
    Share,
    one_of,
    parse_advertised,
    parse_count,
    parse_ports,
    parse_seconds,
    parse_share,
    parse_size,
)

#: The logger that users know.
logger = logging.getLogger("daskref")


@cache
def defaults() -> dict[str, Any]:
    """Return daskref's defaults, from ``daskref.yaml``; not to be changed."""
    text = files("daskref").joinpath("daskref.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def ensure_defaults() -> None:
    """Hand daskref's defaults to :mod:`dask.config`. A second call is silent.

    Values that the user has set already, in files or in the environment, stay.
    """
    ours = defaults()
    if not any(known is ours for known in dask.config.defaults):
        malformed = _malformed_sections()
        dask.config.update_defaults(ours)
        # Dask replaces a malformed section by ours; reading shall report it instead
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
    """Return the values that users have set in place of a section."""
    given = {name: dask.config.get(name, None) for name in sections()}
    return {
        name: value
        for name, value in given.items()
        if value is not None and not isinstance(value, Mapping)
    }


def _parse_latency(value: object, setting: str) -> float | str:
    if value == "dask":
        return "dask"
    try:
        return parse_seconds(value, setting, zero=True)
    except ConfigError as exc:
        raise ConfigError(setting, value, f'"dask", or {exc.expected}') from exc


def _parse_connector(value: object, setting: str) -> str | dict[str, Any]:
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


def _parse_path(value: object, setting: str) -> str | None:
    if isinstance(value, PurePath):
        return str(value)
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigError(setting, value, "the path of a directory, or null")


def _parse_interface(value: object, setting: str) -> str | None:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise ConfigError(
        setting, value, "the name or the address of a network interface, or null"
    )


def _parse_port(value: object, setting: str) -> int | str:
    parse_ports(value, setting)
    return value  # type: ignore[return-value]


def _parse_advertise(value: object, setting: str) -> str | None:
    if value is None:
        return None
    parse_advertised(value, setting)
    return str(value)


def _parse_switch(value: object, setting: str) -> str:
    text = str(value).lower() if isinstance(value, bool | str) else ""
    if text in ("auto", "true", "false"):
        return text
    raise ConfigError(setting, value, "'auto', true or false")


def _setting(name: str, reader: Reader, **options: Any) -> Any:
    """Return a field of :class:`Settings`: *name* is its setting below ``daskref.``."""
    return field(metadata={"name": name, "reader": reader}, **options)


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Immutable; pickles.

    See the page *Configuration* of the documentation for what each one does.
    """

    #: Bytes; values larger than this go by reference.
    threshold: int = _setting("threshold", parse_size)
    #: ``"auto"``, a spec such as ``"shm://"``, or a mapping with ``"class"``.
    #: May name a password, hence not in ``repr``.
    connector: str | dict[str, Any] = _setting(  # noqa: RUF009
        "connector", _parse_connector, repr=False
    )
    #: ``"inband"`` or ``"raise"``.
    on_failure: str = _setting("on-failure", one_of("inband", "raise"))
    #: ``"on-transfer"`` or ``"on-completion"``.
    results: str = _setting("results", one_of("on-transfer", "on-completion"))
    #: Seconds.
    timeout: float = _setting("timeout", parse_seconds)
    #: Seconds, or ``"dask"``.
    latency: float | str = _setting("latency", _parse_latency)
    #: Seconds.
    lease: float = _setting("lease", parse_seconds)
    #: Seconds.
    retry_interval: float = _setting("retry-interval", parse_seconds)
    #: Seconds.
    reconcile_interval: float = _setting("reconcile-interval", parse_seconds)
    #: Seconds.
    reconcile_grace: float = _setting("reconcile-grace", parse_seconds)
    #: Directory; ``None``: the one for temporary files.
    spill_directory: str | None = _setting("spill-directory", _parse_path)
    #: Directory on a tmpfs; ``None``: ``/dev/shm``.
    shm_root: str | None = _setting("shm.root", _parse_path)
    #: Fraction of the tmpfs (float), or bytes (int).
    shm_budget: Share = _setting("shm.budget", parse_share)  # noqa: RUF009
    #: Fraction of the budget (float), or bytes (int).
    shm_recycle: Share = _setting("shm.recycle", parse_share)  # noqa: RUF009
    #: Seconds.
    shm_recycle_idle: float = _setting("shm.recycle-idle", parse_seconds)
    #: Bytes; 0: off.
    prefetch: int = _setting("prefetch", parse_size)
    #: ``"auto"``, ``"tls"`` or ``"clear"``.
    security_transport: str = _setting(
        "security.transport", one_of("auto", "tls", "clear")
    )
    #: ``"auto"``, ``"true"`` or ``"false"``.
    security_sign: str = _setting("security.sign", _parse_switch)
    #: Name or address, of this process; ``None``: where Dask's server listens.
    zmq_interface: str | None = _setting("zmq.interface", _parse_interface)
    #: A port, or ``"first:last"``, of this process; 0: any.
    zmq_port: int | str = _setting("zmq.port", _parse_port)
    #: ``"address"`` or ``"address:port"``, of this process; ``None``: where it listens.
    zmq_advertise: str | None = _setting("zmq.advertise", _parse_advertise)
    #: Readers that one copy of an object serves at a time.
    zmq_fan_out: int = _setting("zmq.fan-out", parse_count)

    @classmethod
    def read(cls, **overrides: Any) -> Settings:
        """Read :mod:`dask.config` as it is now.

        Parameters
        ----------
        **overrides
            Values by the names of the fields, checked like configured ones, which they
            override. ``None`` means as configured.

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
            values[name] = parse(value, f"daskref.{setting}")
        return cls(**values)


#: Field of :class:`Settings` -> (setting below ``daskref.``, its reader).
_FIELDS: dict[str, tuple[str, Reader]] = {
    each.name: (each.metadata["name"], each.metadata["reader"])
    for each in fields(Settings)
}


def changed(**overrides: Any) -> dict[str, Any]:
    """Return the fields of :class:`Settings` that this process has set.

    *overrides*, as in :meth:`Settings.read`, are among them even if they equal the
    defaults. Raises ConfigError if a value is malformed.
    """
    plain = {
        name: parse(dask.config.get(setting, config=defaults()["daskref"]), setting)
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
    # our defaults hold even if a user has cleared the configuration
    default = dask.config.get(setting, config=defaults()["daskref"])
    return dask.config.get(f"daskref.{setting}", default)


#: The last raw value that :func:`threshold` saw, and its size in bytes. One tuple, so
#: that threads replace both at once.
_last_threshold: tuple[object, int] = (None, 0)


def threshold() -> int:
    """Return ``daskref.threshold`` in bytes, as configured now.

    Cheap enough to be called for every task: the text is parsed when it changes. Raises
    ConfigError if it is malformed.
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
    nbytes = parse_size(raw, "daskref.threshold")
    _last_threshold = (raw, nbytes)
    return nbytes


#: Unknown names that were warned of.
_told: set[str] = set()
#: Number of names under ``daskref`` at the last look.
_looked_at = 0


def look() -> None:
    """Warn of unknown names if some were set since the last look. Cheap."""
    ours = dask.config.config.get("daskref")
    if type(ours) is dict and len(ours) != _looked_at:
        tell_unknown()


def tell_unknown() -> None:
    """Warn of each name in Dask's configuration that looks like a setting of ours."""
    global _looked_at
    ours = dask.config.config.get("daskref")
    _looked_at = len(ours) if isinstance(ours, Mapping) else 0
    for name in _unknown():
        if name not in _told:
            _told.add(name)
            near = _nearest(name)
            hint = f"Did you mean {near}?" if near else "`daskref info` lists all."
            logger.warning(
                "There is no setting %s: what is set there changes nothing. %s",
                name,
                hint,
            )


def _unknown() -> Iterator[str]:
    for name in dask.config.config:
        if str(name).lower().startswith("daskref") and name != "daskref":
            yield name  # DASK_DASKREF_THRESHOLD in place of DASK_DASKREF__THRESHOLD
    known = sections()
    for section, names in known.items():
        plain = {_plain(name) for name in names}
        given = dask.config.get(section, None)
        if isinstance(given, Mapping):
            for name in given:
                if _plain(name) not in plain:
                    yield f"{section}.{name}"


def _nearest(name: str) -> str | None:
    full = [f"{section}.{name}" for section, names in sections().items()
            for name in names if f"{section}.{name}" not in sections()]  # fmt: skip
    # users leave out the section, or write a hyphen in place of its dot
    by_ending = {_plain(each.rpartition(".")[2]): each for each in full}
    by_name = {_plain(each).removeprefix("daskref-"): each for each in full}
    candidates = by_ending | by_name
    wanted = _plain(name).lower().removeprefix("daskref-")
    for asked in (wanted, wanted.rpartition("-")[2]):
        if near := get_close_matches(asked, candidates, 1, 0.7):
            return candidates[near[0]]
    return None


def _plain(name: object) -> str:
    """Return a name in the form to compare: Dask equates hyphens and underscores."""
    return str(name).replace("_", "-").replace(".", "-")


ensure_defaults()
