"""Checks of Prometheus for `ipa doctor`: its answer, its clock, and the series that decisions need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from ipa.adapters.prometheus.connection import PrometheusConnection, connection_of
from ipa.adapters.prometheus.dialects import Dialect, queries
from ipa.adapters.prometheus.queries import NOW, Age, Query, Selector
from ipa.adapters.prometheus.transport import PrometheusHttp
from ipa.model.errors import ConfigurationError, InputError, IpaError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, skew_finding, warn
from ipa.model.masking import mask_url
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings


class Asker:
    """The client of these checks. Errors: UnavailableError (no answer), InputError (invalid answer)."""

    def __init__(self, connection: PrometheusConnection) -> None:
        self._http = PrometheusHttp(connection)

    def skew_s(self) -> float:
        """Return the seconds by which its clock is ahead of ours, exact to half of the round trip."""
        sent_s = time.time()
        result = self._http.fetch(NOW)
        middle_s = (sent_s + time.time()) / 2
        try:
            return float(result[0]) - middle_s
        except (IndexError, TypeError, ValueError) as error:
            raise InputError("its answer to the query time() is not a number") from error

    def ages_s(self, selector: Selector, by: str = "") -> dict[str, float]:
        """Return the age in s of the oldest of the newest samples by one label, or of all under ""."""
        try:
            return {
                str(series["metric"].get(by, "") if by else ""): float(series["value"][1])
                for series in self._http.fetch(Age(selector, (by,) if by else ()))
            }
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError("a series that is not a label, a time and a number") from error

    def absence(self, selector: Selector) -> str:
        """Return what there is in place of the series of the selector, of which there are none."""
        label = next(iter(selector.labels), "")
        others = sorted(self.ages_s(Selector(selector.metric, {}), label)) if label else []
        if not others:
            return f"there is no series {selector.metric} at all"
        if others == [""]:
            return f"the series {selector.metric} have no label {label}, which their scrape must add"
        few = ", ".join(repr(value) for value in others[:5])
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        named = {**selector.labels, **selector.where_said}
        wanted = ", ".join(f"{name} {value!r}" for name, value in named.items())
        return f"no series {selector.metric} has {wanted}; there is {label} {few}{more}"


SERVER = "prometheus"
OWN_RUNTIME = (
    "build the images on ipa.dataplane.runtime.StageRuntime, or count ipa_replica_* as it does "
    "(docs/reference/metrics.md)"
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class SeriesOf(StrEnum):
    """The process that has a series: what takes the requests, what calls the stages, or their replicas."""

    WHOLE = "whole"
    STAGES = "stages"
    REPLICAS = "replicas"


# The command that has those series of a pipeline scraped.
Scrape = Callable[[Pipeline, SeriesOf], str]


def metrics_checks(
    settings: Settings, pipelines: Mapping[str, tuple[Pipeline, Dialect]], scrape: Scrape
) -> list[DoctorCheck]:
    """Checks of the server, its clock, and the series of each pipeline in its dialect."""
    try:
        connection = connection_of(settings)
    except ConfigurationError as error:
        wrong = [failed(SERVER, error)]
        return [DoctorCheck(SERVER, lambda: wrong)]
    asker = Asker(connection)
    return [
        DoctorCheck(SERVER, lambda: _server(connection, asker)),
        *(
            DoctorCheck(
                f"series of {name}", _Series(settings, asker, pipeline, dialect, scrape), after=SERVER
            )
            for name, (pipeline, dialect) in pipelines.items()
        ),
    ]


def _server(connection: PrometheusConnection, asker: Asker) -> Iterator[Finding]:
    url = mask_url(connection.url)
    try:
        skew_s = asker.skew_s()
    except IpaError as error:
        yield fail(
            SERVER, f"{url} cannot be used: {error.message}", "export IPA_PROMETHEUS_URL=http://HOST:9090"
        )
        return
    yield ok(SERVER, f"{url} answers")
    place, has_token = urlsplit(url), bool(connection.token or connection.token_file)
    if has_token and place.scheme != "https" and place.hostname not in LOOPBACK:
        seen = "the token goes over the network without encryption"
        yield warn("credentials of prometheus", seen, "export IPA_PROMETHEUS_URL=https://HOST:9090")
    yield skew_finding("clock of prometheus", "Prometheus'", skew_s)


@dataclass(frozen=True, slots=True)
class _Series:
    """Checks the series of one pipeline."""

    settings: Settings
    asker: Asker
    pipeline: Pipeline
    dialect: Dialect
    scrape: Scrape

    def __call__(self) -> Iterator[Finding]:
        asked = queries(self.pipeline, self.dialect, self.settings.prometheus_namespace_label)
        if not self._is_idle(asked):
            yield self._whole("load", asked["arrivals"].selector, is_needed=True)
            yield self._whole("latency", asked["latency"].selector)
            yield self._stages("load of stages", asked["stage_arrivals"].selector)
            yield self._stages("latency of stages", asked["stage_latency"].selector)
        else:
            scraped = asked["alive"].selector.metric
            yield ok(self._name("load"), f"no request yet: what counts them is scraped ({scraped})")
        if "stage_queue" in asked:
            yield self._stages("queues of stages", asked["stage_queue"].selector)
        if "held" in asked:
            yield from self._replicas(asked["held"].selector, asked["batches"].selector)

    def _is_idle(self, asked: Mapping[str, Query]) -> bool:
        """True if what counts the requests is scraped, and there are none."""
        if "alive" not in asked or self.asker.ages_s(asked["arrivals"].selector):
            return False
        return bool(self.asker.ages_s(asked["alive"].selector))

    def _replicas(self, requests: Selector, batches: Selector) -> Iterator[Finding]:
        """Series of replicas that batch for themselves: requests, and batches if the runtime is ours."""
        name, of = "requests in replicas", SeriesOf.REPLICAS
        found = self._stages(name, requests, of, self.dialect.held_label)
        timed = self._stages("batches of stages", batches, of)
        if found.state is not Severity.OK and timed.state is Severity.OK:
            # They have no series of requests before the first one.
            found = ok(self._name(name), "no request yet: their batches are scraped")
        yield found
        if found.state is Severity.OK and timed.state is not Severity.OK:
            seen = f"{timed.seen}, though they are scraped: their runtime is not ours"
            less = "service times and waiting requests are not seen, and profiles are not corrected"
            yield warn(timed.name, f"{seen}; {less}", OWN_RUNTIME)
        else:
            yield timed

    def _name(self, what: str) -> str:
        return f"series of {self.pipeline.name}: {what}"

    def _whole(self, what: str, selector: Selector, *, is_needed: bool = False) -> Finding:
        """Series that are summed up; without the load nothing is decided, without the others less is seen."""
        name, ages_s = self._name(what), self.asker.ages_s(selector)
        if not ages_s:
            missing = fail if is_needed else warn
            return missing(name, self.asker.absence(selector), self._remedy(selector, SeriesOf.WHOLE))
        return self._aged(name, selector, max(ages_s.values()), is_needed=is_needed)

    def _stages(
        self, what: str, selector: Selector, of: SeriesOf = SeriesOf.STAGES, label: str = ""
    ) -> Finding:
        dialect, name = self.dialect, self._name(what)
        ages_s = self.asker.ages_s(selector, label or dialect.stage_label)
        wanted = {dialect.stage_value(stage): stage.name for stage in self.pipeline.served}
        missing = [stage for value, stage in wanted.items() if value not in ages_s]
        if not missing:
            return self._aged(name, selector, max(ages_s[value] for value in wanted), is_needed=False)
        seen = f"{selector.metric} has no series of {', '.join(missing)}"
        return warn(name, seen if ages_s else self.asker.absence(selector), self._remedy(selector, of))

    def _aged(self, name: str, selector: Selector, age_s: float, *, is_needed: bool) -> Finding:
        limit_s = self.settings.stale_after_s
        if age_s <= limit_s:
            return ok(name, f"{selector.metric}, {max(age_s, 0.0):.0f} s old")
        seen = f"the newest sample of {selector.metric} is {age_s:.0f} s old, the limit is {limit_s:g} s"
        remedy = "scrape every 5 s (scrape_interval: 5s), or export IPA_STALE_AFTER_S=60"
        return (fail if is_needed else warn)(name, seen, remedy)

    def _remedy(self, selector: Selector, of: SeriesOf) -> str:
        """Commands that add the scrape, and that tell a missing scrape, request and label apart."""
        url = mask_url(self.settings.prometheus_url.rstrip("/"))
        return (
            f"{self.scrape(self.pipeline, of)}; send the pipeline a request, then see {url}/targets; "
            f"curl -G {url}/api/v1/series --data-urlencode 'match[]={selector}'"
        )
