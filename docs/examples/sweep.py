"""A parameter sweep: forty tasks over one table.

How late do flights from New York arrive, by carrier and by hour? Each task gets the
whole table; with daskref it is stored once, and every worker maps the same copy.
"""

from daskref import Client, stats
from daskref.bench.flights import CARRIERS, HOURS, load, score


def run(client):
    """Return the table of delays, a row for each carrier, and what it cost."""
    flights = load(copies=1)  # 336,776 rows, 60 MB
    futures = [
        [client.submit(score, flights, carrier, hour) for hour in HOURS]
        for carrier in CARRIERS
    ]
    return client.gather(futures), stats(client)


if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        delays, counts = run(client)
        late, carrier, hour = max(
            (late, carrier, hour)
            for carrier, row in zip(CARRIERS, delays, strict=True)
            for hour, late in zip(HOURS, row, strict=True)
        )
        print(f"latest: {carrier} at {hour}:00, {late:.0f} minutes")
        print(
            f"puts: {counts['puts']}, by reference: {counts['bytes_kept'] / 1e6:.0f} MB"
        )
