"""The built-in metrics server: scrapes targets and answers the project's own queries like Prometheus does.

It stands in for Prometheus on a machine that has none. It knows the four query shapes of queries.py and no
other PromQL: anything else is a 400 that says so.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from ipa.adapters.prometheus.queries import NOW, Query, parse
from ipa.adapters.prometheus.series import Key, SeriesStore
from ipa.model.errors import InputError, NotFoundError

log = logging.getLogger(__name__)

# Prometheus' own limit on the points of one series.
MAX_STEPS = 11_000
# More targets than this are scraped one after the other.
SCRAPERS = 8


class Scraper:
    """Scrapes /metrics of every target each interval into a store, until closed."""

    def __init__(self, store: SeriesStore, targets: Iterable[str], interval_s: float) -> None:
        self._store = store
        self._targets = tuple(targets)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._client = httpx.Client(timeout=interval_s, trust_env=False)
        self._pool = ThreadPoolExecutor(SCRAPERS, thread_name_prefix="ipa-scrape")
        self._thread = threading.Thread(target=self._run, name="ipa-scraper", daemon=True)
        self._thread.start()

    def set_targets(self, targets: Iterable[str]) -> None:
        """Scrape these from now on; the series of those left out are gone."""
        before, self._targets = self._targets, tuple(targets)
        for target in set(before) - set(self._targets):
            self._store.add(target, time.time(), ())

    def close(self) -> None:
        """Stop scraping."""
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()
        self._client.close()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            targets = self._targets
            for target, (at_s, samples) in zip(targets, self._pool.map(self._scrape, targets), strict=True):
                if target in self._targets:
                    self._store.add(target, at_s, samples)
            # A scrape that took longer than the interval is not made up for.
            due_s = max(due_s + self._interval_s, time.monotonic())

    def _scrape(self, target: str) -> tuple[float, list[tuple[str, Mapping[str, str], float]]]:
        """The time and the samples of one scrape; none where the target does not answer properly."""
        at_s = time.time()
        try:
            response = self._client.get(f"http://{target}/metrics")
            response.raise_for_status()
            return at_s, list(_samples(response.text))
        except Exception as error:
            # Whatever a target sends (the parser raises many things on text that is none), the others go on.
            log.warning("scrape of %s failed: %s", target, type(error).__name__)
            return at_s, []


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, float(sample.value)


class BuiltInServer:
    """The scraper with Prometheus' HTTP API (/api/v1/query, /api/v1/query_range, /-/ready) on 127.0.0.1."""

    def __init__(self, targets: Iterable[str], interval_s: float) -> None:
        self._store = SeriesStore()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._store))
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="ipa-metrics", daemon=True
        )
        self._thread.start()
        self._scraper = Scraper(self._store, targets, interval_s)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def set_targets(self, targets: Iterable[str]) -> None:
        """Scrape these from now on."""
        self._scraper.set_targets(targets)

    def close(self) -> None:
        """Stop scraping and answering."""
        self._scraper.close()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def respond(store: SeriesStore, path: str, parameters: Mapping[str, str], now_s: float) -> dict[str, Any]:
    """The `data` of the answer to a request of the API.

    InputError for parameters or queries that are not understood, NotFoundError for another path.
    """
    if path == "/api/v1/query" and parameters.get("query") == NOW:
        return {"resultType": "scalar", "result": [now_s, _text(now_s)]}
    if path == "/api/v1/query":
        query, at_s = _query(parameters), _seconds(parameters, "time", now_s)
        answers = store.answer(query, at_s).items()
        result = [{"metric": _metric(query, key), "value": [at_s, _text(value)]} for key, value in answers]
        return {"resultType": "vector", "result": result}
    if path == "/api/v1/query_range":
        query = _query(parameters)
        start_s, end_s, step_s = (_seconds(parameters, name) for name in ("start", "end", "step"))
        if step_s <= 0 or end_s < start_s or (end_s - start_s) / step_s > MAX_STEPS:
            raise InputError(
                f"a range needs a step above 0, an end after its start, at most {MAX_STEPS} steps"
            )
        series: dict[Key, list[list[Any]]] = {}
        for step in range(math.floor((end_s - start_s) / step_s) + 1):
            at_s = start_s + step * step_s
            for key, value in store.answer(query, at_s).items():
                series.setdefault(key, []).append([at_s, _text(value)])
        result = [{"metric": _metric(query, key), "values": values} for key, values in series.items()]
        return {"resultType": "matrix", "result": result}
    raise NotFoundError(f"{path} is not answered by the built-in metrics server")


def _query(parameters: Mapping[str, str]) -> Query:
    text = parameters.get("query", "")
    query = parse(text)
    if query is None:
        raise InputError(
            f"the built-in metrics server does not know the query {text!r}",
            hint="It answers the project's own queries only; install Prometheus for all of PromQL.",
        )
    return query


def _seconds(parameters: Mapping[str, str], name: str, default: float | None = None) -> float:
    text = parameters.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{name}={text!r} is not a number of seconds")
    return value


def _metric(query: Query, key: Key) -> dict[str, str]:
    return {name: value for name, value in zip(query.by, key, strict=True) if value}


def _text(value: float) -> str:
    """A value as Prometheus writes it."""
    if math.isnan(value):
        return "NaN"
    return f"{'+' if value > 0 else '-'}Inf" if math.isinf(value) else repr(value)


def _handler(store: SeriesStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            split = urlsplit(self.path)
            if split.path == "/-/ready":
                self._send(200, "text/plain", b"ready\n")
                return
            parameters = {name: values[-1] for name, values in parse_qs(split.query).items()}
            try:
                data = respond(store, split.path, parameters, time.time())
                status, body = 200, {"status": "success", "data": data}
            except (InputError, NotFoundError) as error:
                status = 404 if isinstance(error, NotFoundError) else 400
                body = {"status": "error", "errorType": "bad_data", "error": str(error)}
            self._send(status, "application/json", json.dumps(body).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            log.debug(format, *args)

    return Handler
