"""What the page makes of what it is told, without a browser."""

from __future__ import annotations

import re
from typing import Any

import pytest

from daskref.cluster.stats import summarize
from daskref.scheduler.dashboard.sampling import Rates, Sampler
from tests.support.board import Reports, counted, stored
from tests.support.requirements import require_module

EVIL = "<script>alert('&')</script>"


@pytest.fixture
def sampler() -> Sampler:
    require_module("bokeh")
    return Sampler(Reports())


def draw(sampler: Sampler) -> Any:
    from daskref.scheduler.dashboard._page import Page

    return Page(sampler)


def tell(sampler: Sampler, hosts: list[dict[str, Any]], **counts: int) -> None:
    host = hosts[0]["host"]
    sampler.stats = summarize(0, hosts, [counted("p", host, **counts)])
    sampler.turn += 1


def record(**fields: Any) -> dict[str, Any]:
    plain = {"key": "k", "type": "t", "shape": None, "nbytes": 1, "readers": 0}
    return {**plain, **lists([]), **fields}


def lists(names: list[str]) -> dict[str, Any]:
    return dict.fromkeys(("hosts", "prefixes", "keys", "clients"), names)


def html(page: Any) -> str:
    """Return the text of all tables."""
    from bokeh.models import Div

    return "".join(model.text for model in page.root.select({"type": Div}))


def chart(page: Any) -> Any:
    return page.root.select_one({"name": "hosts"})


def sent(page: Any) -> int:
    """Return how large the page is with all its numbers."""
    from bokeh.document import Document

    document = Document()
    document.add_root(page.root)
    return len(str(document.to_json()))


def test_numbers_of_the_cluster(sampler: Sampler) -> None:
    tell(sampler, [stored("a", objects=7, bytes=2048)], gets=1234, bytes_kept=2**30)
    page = draw(sampler)
    for shown in (">7<", "2.00 kiB", "1,234", "1.00 GiB"):
        assert shown in html(page)
    tell(sampler, [stored("a", objects=8)])
    assert ">8<" not in html(page)
    page.update()
    assert ">8<" in html(page)


def test_every_string_is_text(sampler: Sampler) -> None:
    tell(sampler, [stored(EVIL, budget=10)])
    sampler.objects = [(record(type=EVIL, **lists([EVIL])), 1)]
    sampler.transfers = {
        "hosts": [{"host": EVIL, "sent": 1, "received": 1, "fetched": 1}],
        "now": [{"key": EVIL, "nbytes": 1, "source": EVIL, "host": EVIL}],
        "moving": 1,
    }
    sampler.warnings = [
        (0.0, {"action": "fallback", "reason": EVIL, "worker": EVIL}),
        (0.0, {"action": "unreachable", "reason": EVIL, "client": EVIL}),
        (0.0, {"action": "remove-host", "host": EVIL, "lost": EVIL}),
    ]
    found = html(draw(sampler))
    assert "<script" not in found
    tags = set(re.findall(r"<\W*(\w+)", found))
    assert tags <= set("table thead tbody tr th td h3 b br".split())
    assert found.count("&lt;script&gt;") == 15


def test_events_of_users_that_lack_everything(sampler: Sampler) -> None:
    actions = ("fallback", "unreachable", "remove-host")
    sampler.warnings = [(0.0, {"action": action}) for action in actions]
    assert html(draw(sampler)).count("<tr>") == 1 + len(actions)


def test_the_fullest_of_many_hosts(sampler: Sampler) -> None:
    names = [f"host {number}" for number in range(400)]
    hosts = [
        stored(name, budget=1000, memory=number) for number, name in enumerate(names)
    ]
    tell(sampler, hosts)
    page = draw(sampler)
    assert set(chart(page).y_range.factors) == set(names[-40:])
    assert "the 40 fullest of 400 hosts" in chart(page).title.text


def test_a_host_that_left_is_drawn_no_more(sampler: Sampler) -> None:
    tell(sampler, [stored("a"), stored("b")])
    page = draw(sampler)
    assert set(chart(page).y_range.factors) == {"a", "b"}
    tell(sampler, [stored("b"), stored("c")])
    page.update()
    assert set(chart(page).y_range.factors) == {"b", "c"}


def test_a_page_is_small_whatever_it_shows(sampler: Sampler) -> None:
    long = "x" * 100_000
    tell(sampler, [stored(f"{long}{number}") for number in range(1000)])
    names = [f"{long}{number}" for number in range(1000)]
    sampler.objects = [(record(type=long, **lists(names)), 10**6)] * 20
    move = {"key": long, "nbytes": 1, "source": long, "host": long}
    of_host = {"host": long, "sent": 1, "received": 1, "fetched": 1}
    sampler.transfers = {"hosts": [of_host] * 20, "now": [move] * 20, "moving": 10**6}
    sampler.warnings = [(0.0, {"action": "fallback", "reason": long})] * 20
    page = draw(sampler)
    assert sent(page) < 200_000
    factors = chart(page).y_range.factors
    assert len(set(factors)) == len(factors) == 40


def test_rates_are_added_to_those_that_are_there(sampler: Sampler) -> None:
    page = draw(sampler)
    source = page.root.select_one({"name": "rates"}).renderers[0].data_source
    for number in range((sampler.rates.maxlen or 0) + 10):
        sampler.rates.append(Rates(number, 0, number, 0, 0, 0))
        sampler.turn += 1
        page.update()
        page.update()
    assert source.data["gets"] == [each.gets for each in sampler.rates]


def test_large_values_in_band_have_their_reasons(sampler: Sampler) -> None:
    tell(sampler, [stored("a")], gpu=3)
    found = html(draw(sampler))
    assert "which Dask moves by itself" in found
    assert "unpicklable" not in found


def test_a_page_says_that_daskref_was_switched_off(sampler: Sampler) -> None:
    tell(sampler, [stored("a", objects=5)])
    page = draw(sampler)
    sampler.ended = True
    page.update()
    assert "switched off" in html(page)
