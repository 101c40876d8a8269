"""The metrics server of this machine beside targets that do not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ipa.adapters.prometheus.queries import Query, QueryShape, Selector, exact
from ipa.adapters.prometheus.scraper import Scraper
from tests.fakes.answering import Answering
from tests.fakes.waiting import until

PATIENCE_S = 300.0


@pytest.fixture
def serve() -> Iterator[Callable[[str], str]]:
    """Serves a text until the end; returns its target."""
    with ExitStack() as servers:
        yield lambda text: servers.enter_context(Answering(lambda path, body: (200, text))).target


def test_it_goes_on_past_targets_that_are_none(serve: Callable[[str], str]) -> None:
    web_page = serve("<html>{{{ no metrics }}}</html>\n")
    target = serve('# TYPE length gauge\nlength{pipeline="p"} 4\n')
    scraper = Scraper([web_page, "127.0.0.1:1", "no host", target], 0.1)
    try:
        values: list[float] = []

        def length() -> bool:
            query = Query(QueryShape.GAUGE, Selector("length", exact({"pipeline": "p"})))
            values.extend(samples[-1][1] for samples in scraper.ask(query)[0].values())
            return bool(values)

        until(length, PATIENCE_S)
        assert values[0] == 4.0
    finally:
        scraper.stop()
