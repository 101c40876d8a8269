"""The metrics server of this machine: it scrapes targets and answers queries with Prometheus' own arithmetic.

It runs in threads of this process, which needs no Prometheus.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client.parser import text_string_to_metric_families

from ipa.adapters.prometheus.queries import Query
from ipa.adapters.prometheus.query_batching import Answered, Ask, Span
from ipa.adapters.prometheus.series import SeriesStore
from ipa.model.errors import UnavailableError

log = logging.getLogger(__name__)

# The number of concurrent scrapes.
SCRAPERS = 8


class Scraper:
    """A scraper of the /metrics of every target, each interval until stopped, that answers queries."""

    def __init__(self, targets: Iterable[str], interval_s: float) -> None:
        self._store = SeriesStore()
        self._targets = tuple(targets)
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._client = httpx.Client(timeout=interval_s, trust_env=False)
        self._pool = ThreadPoolExecutor(SCRAPERS, thread_name_prefix="ipa-scrape")
        self._thread = threading.Thread(target=self._run, name="ipa-scraper", daemon=True)
        self._thread.start()

    @property
    def source(self) -> Ask:
        """The source for `PrometheusMetrics`, without HTTP."""
        return self._ask

    def _ask(self, query: Query, span: Span = None) -> Answered:
        if self._stopping.is_set():
            raise UnavailableError("the built-in metrics server has ended")
        return Answered(self._store.series(query, time.time(), span), time.monotonic())

    def stop(self) -> None:
        """Stop scraping."""
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown()
        self._client.close()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            scraped = self._pool.map(self._scrape, self._targets)
            for target, (at_s, samples) in zip(self._targets, scraped, strict=True):
                self._store.add(target, at_s, samples)
            # A scrape that took longer than the interval is not caught up.
            due_s = max(due_s + self._interval_s, time.monotonic())

    def _scrape(self, target: str) -> tuple[float, list[tuple[str, Mapping[str, str], float]]]:
        """The time and the samples of one scrape; no samples if the target does not answer properly."""
        at_s = time.time()
        try:
            response = self._client.get(f"http://{target}/metrics")
            response.raise_for_status()
            return at_s, list(_samples(response.text))
        except Exception as error:
            # Whatever a target sends (the parser raises many errors on invalid text), other scrapes continue.
            log.warning("scrape of %s failed: %s", target, type(error).__name__)
            return at_s, []


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, float(sample.value)
