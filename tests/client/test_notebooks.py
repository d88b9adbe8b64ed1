"""What clients, stores and references show in notebooks."""

from __future__ import annotations

import numpy as np
from distributed import LocalCluster

from daskref import Client, Store
from daskref.objects.cards import card
from daskref.proxy import get_factory


def test_text_is_escaped() -> None:
    html = card("<i>", "a & b", {"<script>": "</td>", "none": None})
    assert "<i>" not in html
    assert "a &amp; b" in html
    assert "&lt;script&gt;:</strong> &lt;/td&gt;" in html
    assert "none" not in html


def test_clients() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, threshold="1 kiB") as client,
    ):
        future = client.scatter(np.ones(1000))
        html = client._repr_html_()
        assert "Cluster Info" in html  # Dask's own
        assert "values above the threshold go by reference" in html
        assert "<strong>Threshold:</strong> 1.00 kiB" in html
        assert "that this client holds:</strong> 1<" in html
        del future


def test_stores_and_references() -> None:
    with Store("<notebook>", "local://") as store:
        assert "&lt;notebook&gt;" in store._repr_html_()
        reference = get_factory(store.proxy(np.ones((3, 4)))).reference
        html = reference._repr_html_()
        assert "numpy.ndarray" in html
        assert "(3, 4)" in html
