"""Map-reduce over text: the most frequent names in Python's own library.

The text is one large string. Each map task gets all of it and counts a slice; tasks
that add the counts up, two by two, get the results of others.
"""

import re
import sysconfig
from collections import Counter
from itertools import pairwise
from pathlib import Path

from daskref import Client, stats

SLICES = 16
WORD = re.compile(r"[A-Za-z_]\w{3,}")


def read():
    """Return the source text of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = sorted(library.glob("*.py")) + sorted(library.glob("[a-r]*/*.py"))
    return "\n".join(path.read_text("utf-8", errors="replace") for path in paths)


def count(text, begin, end):
    """Count the words that begin in a slice of the text."""
    counts = Counter()
    for match in WORD.finditer(text, begin and begin - 1):
        if match.start() >= end:
            break
        if match.start() >= begin:
            counts[match[0]] += 1
    return counts


def run(client):
    """Return the text, the counts of its words, and what it cost."""
    text = read()
    bounds = [len(text) * n // SLICES for n in range(SLICES + 1)]
    counts = [client.submit(count, text, begin, end) for begin, end in pairwise(bounds)]
    while len(counts) > 1:
        pairs = zip(counts[::2], counts[1::2], strict=True)
        counts = [client.submit(lambda a, b: a + b, a, b) for a, b in pairs]
    return text, counts[0].result(), stats(client)


if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        text, words, counts = run(client)
        print(f"{len(text) / 1e6:.0f} MB, most frequent: {words.most_common(3)}")
        print(f"by reference: {counts['bytes_kept'] / 1e6:.0f} MB")
