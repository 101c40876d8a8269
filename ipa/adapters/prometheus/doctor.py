"""Checks of Prometheus for `ipa doctor`: its answer, its clock, and the series that decisions need."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ipa.adapters.prometheus.queries import NOW, OPTIONAL, Dialect, Query, QueryShape, Selector, queries
from ipa.adapters.prometheus.server import PrometheusHttp, check_connection
from ipa.model.errors import ConfigurationError, IpaError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, skew_finding, warn
from ipa.model.masking import mask_url
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings

SERVER = "prometheus"
OWN_RUNTIME = (
    "build the images on ipa.dataplane.runtime.StageRuntime, or count ipa_replica_* as it does "
    "(docs/reference/metrics.md)"
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def metrics_checks(
    settings: Settings, pipelines: Mapping[str, tuple[Pipeline, Dialect]], scrape: str
) -> list[DoctorCheck]:
    """Checks of Prometheus, its clock, and the series of each pipeline by the names of its `Dialect`.

    `scrape` is the command that makes Prometheus scrape these series.
    """
    try:
        http = PrometheusHttp(check_connection(settings))
    except ConfigurationError as error:
        wrong = [failed(SERVER, error)]
        return [DoctorCheck(SERVER, lambda: wrong)]
    server = DoctorCheck(SERVER, lambda: _server(settings, http))
    return [
        server,
        *(
            DoctorCheck(f"series of {name}", _Series(settings, http, pipeline, dialect, scrape), after=SERVER)
            for name, (pipeline, dialect) in pipelines.items()
        ),
    ]


def _server(settings: Settings, http: PrometheusHttp) -> Iterator[Finding]:
    url = mask_url(settings.prometheus_url.rstrip("/"))
    sent_s = time.time()
    try:
        ((_, ((_, server_s),)),) = http.fetch(NOW)
    except IpaError as error:
        words = f"{url} cannot be used: {error.message}"
        yield fail(SERVER, words, "export IPA_PROMETHEUS_URL=http://HOST:9090")
        return
    except ValueError:
        yield fail(SERVER, f"{url} does not say its time", "export IPA_PROMETHEUS_URL=http://HOST:9090")
        return
    # Exact to half of the round trip.
    skew_s = server_s - (sent_s + time.time()) / 2
    yield ok(SERVER, f"{url} answers")
    place, has_token = urlsplit(url), bool(settings.prometheus_token or settings.prometheus_token_file)
    if has_token and place.scheme != "https" and place.hostname not in LOOPBACK:
        problem = "the token goes over the network without encryption"
        yield warn("credentials of prometheus", problem, "export IPA_PROMETHEUS_URL=https://HOST:9090")
    yield skew_finding("clock of prometheus", "Prometheus'", skew_s)


@dataclass(frozen=True, slots=True)
class _Series:
    """Checks the series of one pipeline."""

    settings: Settings
    http: PrometheusHttp
    pipeline: Pipeline
    dialect: Dialect
    scrape: str

    def __call__(self) -> Iterator[Finding]:
        by_name = queries(self.pipeline, self.dialect, self.settings.prometheus_namespace_label)
        alive = by_name["alive"].selector if "alive" in by_name else None
        if alive is None or self._ages_s(by_name["arrivals"].selector) or not self._ages_s(alive):
            yield self._whole("load", by_name["arrivals"].selector, is_needed=True)
            if "latency" in by_name:
                yield self._whole("latency", by_name["latency"].selector)
            of_stages = {"load": "stage_arrivals", "latency": "stage_latency", "queues": "stage_queue"}
            for what, name in of_stages.items():
                if name in by_name:
                    yield self._stages(f"{what} of stages", by_name[name].selector)
        else:
            yield ok(self._name("load"), f"no request yet: what counts them is scraped ({alive.metric})")
        if "held" in by_name:
            name = "requests in replicas"
            counted = self._stages(name, by_name["held"].selector, self.dialect.held_label)
            timed = self._stages("batches of stages", by_name["batches"].selector)
            if counted.state is not Severity.OK and timed.state is Severity.OK:
                # Replicas have no series of requests before the first request.
                counted = ok(self._name(name), "no request yet: their batches are scraped")
            yield counted
            if counted.state is Severity.OK and timed.state is not Severity.OK:
                problem = f"{timed.seen}, though they are scraped: their runtime is not ours"
                less = "service times and waiting requests are not seen, and profiles are not corrected"
                yield warn(timed.name, f"{problem}; {less}", OWN_RUNTIME)
            else:
                yield timed

    def _ages_s(self, selector: Selector, by: str = "") -> dict[str, float]:
        """The age in s of the least recent newest sample by one label, or over all series under ""."""
        query = Query(QueryShape.AGE, selector, (by,) if by else ())
        return {labels.get(by, ""): samples[-1][1] for labels, samples in self.http.fetch(query)}

    def _absence(self, selector: Selector) -> str:
        """The reason why the selector has no series: the metric, its label or that value is missing."""
        named = [each for each in selector.matchers if each.ending in ("", OPTIONAL)]
        label = self.dialect.identity_label
        if selector.matcher(label) is None:
            return f"there is no series {selector}"
        others = sorted(self._ages_s(Selector(selector.metric), label))
        if not others:
            return f"there is no series {selector.metric}"
        if others == [""]:
            return f"the series {selector.metric} have no label {label}, which their scrape must add"
        few = ", ".join(repr(value) for value in others[:5])
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        wanted = ", ".join(f"{each.label} {each.values[0]!r}" for each in named if len(each.values) == 1)
        return f"no series {selector.metric} has {wanted}; there is {label} {few}{more}"

    def _name(self, what: str) -> str:
        return f"series of {self.pipeline.name}: {what}"

    def _whole(self, what: str, selector: Selector, *, is_needed: bool = False) -> Finding:
        """Check series that are summed; decisions need the load, other series only refine them."""
        name, ages_s = self._name(what), self._ages_s(selector)
        if not ages_s:
            return (fail if is_needed else warn)(name, self._absence(selector), self._remedy(selector))
        return self._aged(name, selector, max(ages_s.values()), is_needed=is_needed)

    def _stages(self, what: str, selector: Selector, label: str = "") -> Finding:
        dialect, name = self.dialect, self._name(what)
        ages_s = self._ages_s(selector, label or dialect.stage_label)
        wanted = {dialect.stage_value(stage): stage.name for stage in self.pipeline.served}
        missing = [stage for value, stage in wanted.items() if value not in ages_s]
        if not missing:
            return self._aged(name, selector, max(ages_s[value] for value in wanted), is_needed=False)
        problem = f"{selector.metric} has no series of {', '.join(missing)}"
        return warn(name, problem if ages_s else self._absence(selector), self._remedy(selector))

    def _aged(self, name: str, selector: Selector, age_s: float, *, is_needed: bool) -> Finding:
        limit_s = self.settings.stale_after_s
        if age_s <= limit_s:
            return ok(name, f"{selector.metric}, {max(age_s, 0.0):.0f} s old")
        problem = f"the newest sample of {selector.metric} is {age_s:.0f} s old, the limit is {limit_s:g} s"
        remedy = "scrape every 5 s (scrape_interval: 5s), or export IPA_STALE_AFTER_S=60"
        return (fail if is_needed else warn)(name, problem, remedy)

    def _remedy(self, selector: Selector) -> str:
        """Commands that add the scrape, and that tell which is missing: scrape, requests or label."""
        url = mask_url(self.settings.prometheus_url.rstrip("/"))
        return (
            f"{self.scrape}; send the pipeline a request, then see {url}/targets; "
            f"curl -G {url}/api/v1/series --data-urlencode 'match[]={selector}'"
        )
