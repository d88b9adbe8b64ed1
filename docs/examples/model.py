"""Broadcast: one trained model scores many partitions.

A random forest is trained here, on handwritten digits. Each task gets the forest and a
partition of the test data, with more noise from one to the next. The forest is stored
once, for all tasks and workers.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from daskref import Client, stats

NOISE = np.linspace(0, 12, 12)


def accuracy(model, images, labels):
    """Return the share of images that the model knows."""
    return float((model.predict(images) == labels).mean())


def run(client):
    """Return the accuracy at each level of noise, and what it cost."""
    images, labels = load_digits(return_X_y=True)
    model = RandomForestClassifier(n_estimators=200, random_state=0)
    model.fit(images[:1000], labels[:1000])
    images, labels = images[1000:], labels[1000:]
    random = np.random.default_rng(0)
    partitions = [images + random.normal(0, noise, images.shape) for noise in NOISE]

    futures = client.map(
        accuracy, [model] * len(NOISE), partitions, [labels] * len(NOISE)
    )
    return client.gather(futures), stats(client)


if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        known, counts = run(client)
        print(f"without noise: {known[0]:.0%}, with the most: {known[-1]:.0%}")
        print(
            f"puts: {counts['puts']}, by reference: {counts['bytes_kept'] / 1e6:.0f} MB"
        )
