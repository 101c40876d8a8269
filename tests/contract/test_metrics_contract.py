"""The Metrics port over the real Prometheus and the built-in server, alone and with neighbours: one suite."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.queries import LOCAL, Dialect
from ipa.adapters.prometheus.scraper import Scraper
from ipa.control.ports import Signals
from ipa.model.observation import Attainment, LoadHistory, Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline, Sla, Stage, Variant, chain
from ipa.settings import Settings
from ipa.targets.seldon.metrics import EXECUTOR
from ipa.targets.seldon.section import SeldonTarget
from tests.fakes.answering import Answering
from tests.fakes.real_prometheus import RealPrometheus

# They scrape as often as the machine lets them. One worker starts the servers once.
pytestmark = [pytest.mark.live, pytest.mark.xdist_group("prometheus")]

KINDS = ("prometheus", "built-in")
MetricsServer = RealPrometheus | Scraper
SCRAPE_S = 0.25
RATE = 20.0
PATIENCE_S = 300.0
# Cumulative shares of requests by latency: the 99th percentile is 0.2 + 0.04/0.05 * 0.3 = 0.44 s.
SHARES = {"0.1": 0.5, "0.2": 0.95, "0.5": 1.0, "+Inf": 1.0}
P99_S = 0.44
OUTCOMES = {"answered": 1.0, "dropped": 0.1, "failed": 0.1, "refused": 0.1}
LOSSES = {
    ("one", "overload"): 0.05,
    ("two", "no_time_left"): 0.05,
    ("two", "model_error"): 0.1,
    ("one", "queue_full"): 0.0,
}
WILD = ('x"} or up{a="', "a\\", "new\nline", "a|b", ".*")


class Exporter(Answering):
    """A target whose counters grow linearly with time, so that every true rate is known."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        super().__init__(lambda path, body: (200, self.text()))

    def text(self) -> str:
        count = 1000 + RATE * (time.monotonic() - self.started_s)
        lines = ["# TYPE ipa_router_arrivals_total counter"]
        lines += [f'ipa_router_arrivals_total{{pipeline="busy"}} {count}']
        lines += ['ipa_router_arrivals_total{pipeline="idle"} 0']
        # Of ten answers one request is dropped, one fails, and one is refused, which is the client's fault.
        lines += ["# TYPE ipa_router_requests_total counter"]
        for outcome, share in OUTCOMES.items():
            labels = f'pipeline="busy",outcome="{outcome}"'
            lines += [f"ipa_router_requests_total{{{labels}}} {share * count}"]
        lines += ["# TYPE ipa_router_losses_total counter"]
        for (stage, cause), share in LOSSES.items():
            labels = f'pipeline="busy",stage="{stage}",cause="{cause}"'
            lines += [f"ipa_router_losses_total{{{labels}}} {share * count}"]
        lines += ["# TYPE ipa_router_request_seconds histogram"]
        lines += self._histogram("ipa_router_request_seconds", 'pipeline="busy"', count)
        lines += self._histogram("ipa_router_request_seconds", 'pipeline="idle"', 0)
        lines += ["# TYPE ipa_queue_arrivals_total counter"]
        lines += [f'ipa_queue_arrivals_total{{pipeline="busy",stage="one"}} {count}']
        lines += [f'ipa_queue_arrivals_total{{pipeline="busy",stage="two"}} {3 * count}']
        lines += [f'ipa_queue_arrivals_total{{pipeline="unrouted",stage="one"}} {count}']
        lines += ["# TYPE ipa_queue_stage_seconds histogram"]
        lines += self._histogram("ipa_queue_stage_seconds", 'pipeline="busy",stage="one"', count)
        # Every batch has 3 items and takes 0.15 s.
        lines += ["# TYPE ipa_queue_service_seconds histogram"]
        lines += self._histogram("ipa_queue_service_seconds", 'pipeline="busy",stage="one"', count / 3)
        lines += self._histogram("ipa_queue_service_seconds", 'pipeline="idle",stage="one"', 0)
        lines += ["# TYPE ipa_queue_batch_size histogram"]
        lines += [f'ipa_queue_batch_size_sum{{pipeline="busy",stage="one"}} {count}']
        lines += ['ipa_queue_batch_size_sum{pipeline="idle",stage="one"} 0']
        # Every fourth item is answered by another variant.
        lines += ["# TYPE ipa_queue_variant_items_total counter"]
        for variant, share in (("v1", 0.75), ("v2", 0.25)):
            labels = f'pipeline="busy",stage="one",variant="{variant}"'
            lines += [f"ipa_queue_variant_items_total{{{labels}}} {share * count}"]
        lines += ["# TYPE ipa_queue_length gauge"]
        lines += ['ipa_queue_length{pipeline="busy",stage="one"} 4']
        lines += ['ipa_queue_length{pipeline="busy",stage="two"} 0']
        lines += ["# TYPE seldon_api_executor_server_requests_seconds histogram"]
        served = 'deployment_name="busy",predictor_name="default",service="predictions",method="post"'
        lines += self._histogram(
            "seldon_api_executor_server_requests_seconds", f'{served},code="200"', 0.75 * count
        )
        lines += self._histogram(
            "seldon_api_executor_server_requests_seconds", f'{served},code="500"', 0.25 * count
        )
        for namespace, requests in (("here", count), ("there", 9 * count)):
            both = f'deployment_name="twice",namespace="{namespace}",predictor_name="default"'
            name = "seldon_api_executor_server_requests_seconds"
            lines += self._histogram(name, f'{both},service="predictions",code="200"', requests)
        # An executor that has had no request, and another one beside it.
        lines += ["# TYPE go_goroutines gauge", 'go_goroutines{pod="fresh-default-svc-orch-7c9d"} 12']
        lines += ['go_goroutines{pod="fresher-default-svc-orch-7c9d"} 12']
        return "\n".join(lines) + "\n"

    @staticmethod
    def _histogram(name: str, labels: str, count: float) -> list[str]:
        buckets = [f'{name}_bucket{{{labels},le="{le}"}} {share * count}' for le, share in SHARES.items()]
        return [*buckets, f"{name}_sum{{{labels}}} {0.15 * count}", f"{name}_count{{{labels}}} {count}"]

    def reset(self) -> None:
        """Start again from zero, as a restarted process does."""
        self.started_s = time.monotonic() + 1000 / RATE


def pipeline(name: str) -> Pipeline:
    stages = chain([Stage(stage, (Variant("only"),)) for stage in ("one", "two")])
    return Pipeline(name, stages, Sla(1.0, 99.0), {})


def eventually(
    read: Callable[[], Signals], holds: Callable[[Signals], bool], patience_s: float = PATIENCE_S
) -> Signals:
    """The first reading that holds; the last one where none did in time."""
    deadline_s = time.monotonic() + patience_s
    pause = threading.Event()
    signals = read()
    while not holds(signals) and time.monotonic() < deadline_s:
        pause.wait(0.1)
        signals = read()
    return signals


def started(kind: str, targets: list[str], interval_s: float, folder: Path) -> MetricsServer:
    if kind == "built-in":
        return Scraper(targets, interval_s)
    return RealPrometheus(targets, interval_s, folder)


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    with Exporter() as exporter:
        yield exporter


@pytest.fixture(scope="module")
def servers(
    exporter: Exporter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, MetricsServer]]:
    """Every kind there is, started together so that they fill at the same time."""
    servers: dict[str, MetricsServer] = {}
    try:
        for kind in KINDS:
            if kind == "built-in" or shutil.which("prometheus"):
                servers[kind] = started(kind, [exporter.target], SCRAPE_S, tmp_path_factory.mktemp(kind))
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, servers: dict[str, MetricsServer]) -> MetricsServer:
    if request.param not in servers:
        pytest.skip("needs the prometheus binary, which is not installed")
    return servers[request.param]


Reader = Callable[..., PrometheusMetrics]


@pytest.fixture(scope="module", params=("alone", "together"))
def reader(server: MetricsServer, request: pytest.FixtureRequest) -> Reader:
    """Makes what reads that server; `together` with neighbours, whose names try to be taken for others."""
    named = [pipeline(name) for name in ("busy", "idle", "nobody", "busy-2", *WILD)]
    placed = [
        replace(pipeline("twice"), targets={"seldon": SeldonTarget("twice", space)})
        for space in ("here", "there")
    ]
    neighbours = (*named, *placed) if request.param == "together" else ()

    def made(dialect: Dialect = LOCAL, **settings: float) -> PrometheusMetrics:
        return metrics_of(server, dialect, settings, pipelines=lambda: neighbours, share_s=0.0)

    return made


def metrics_of(
    server: MetricsServer, dialect: Dialect, settings: Mapping[str, Any], **options: Any
) -> PrometheusMetrics:
    url = server.url if isinstance(server, RealPrometheus) else "http://127.0.0.1:1"
    ask = server.ask if isinstance(server, Scraper) else None
    return PrometheusMetrics(Settings(prometheus_url=url, **settings), dialect, ask=ask, **options)


@pytest.fixture(scope="module")
def busy(reader: Reader) -> Signals:
    """A reading after a rate window has filled."""
    metrics = reader()

    def filled(signals: Signals) -> bool:
        rates = (signals.arrival_rate_rps, signals.stages["one"].arrival_rate_rps)
        return all(isinstance(it, Measured) and abs(it.value / RATE - 1) < 0.03 for it in rates)

    return eventually(lambda: metrics.read(pipeline("busy"), 30.0), filled)


def value(measured: Measured[float] | Missing) -> float:
    assert isinstance(measured, Measured), measured
    return measured.value


def test_a_new_reader_has_the_load_from_before_it_was_made(reader: Reader, busy: Signals) -> None:
    """As after a restart: what the server scraped meanwhile is read back over the window."""
    # Of the first window, and where the exporter began again, there are too few samples.
    signals = eventually(
        lambda: reader().read(pipeline("busy"), 20.0),
        lambda it: len(rates_of(it)) > 12 and median(rates_of(it)) > 0.9 * RATE,
    )
    assert len(rates_of(signals)) > 12
    assert median(rates_of(signals)) == pytest.approx(RATE, rel=0.2)


def lately(load: LoadHistory) -> float:
    """The median rate of the last five seconds: a scrape that waits for its turn moves two of them."""
    return median(rate for rate in load.rates_rps[-5:] if rate is not None)


def rates_of(signals: Signals) -> list[float]:
    """The rates of the load that are no gaps."""
    rates = signals.load.value.rates_rps if isinstance(signals.load, Measured) else ()
    return [rate for rate in rates if rate is not None]


def test_arrival_rates_are_those_of_the_counters(busy: Signals) -> None:
    assert value(busy.arrival_rate_rps) == pytest.approx(RATE, rel=0.05)
    assert value(busy.stages["one"].arrival_rate_rps) == pytest.approx(RATE, rel=0.1)
    assert value(busy.stages["two"].arrival_rate_rps) == pytest.approx(3 * RATE, rel=0.1)


def test_the_entry_queue_stands_in_for_a_router_that_is_not_seen(reader: Reader, busy: Signals) -> None:
    signals = reader().read(pipeline("unrouted"), 10.0)
    assert value(signals.arrival_rate_rps) == pytest.approx(RATE, rel=0.1)
    assert isinstance(signals.load, Measured) and lately(signals.load.value) == pytest.approx(RATE, rel=0.1)
    assert isinstance(signals.latency_s, Missing) and isinstance(signals.attainment, Missing)


def test_latency_is_the_percentile_of_the_histogram(busy: Signals) -> None:
    assert value(busy.latency_s) == pytest.approx(P99_S, rel=0.02)
    assert value(busy.stages["one"].latency_s) == pytest.approx(P99_S, rel=0.02)


def test_attainment_counts_the_lost_and_interpolates_in_the_bucket_of_the_sla(
    busy: Signals, reader: Reader
) -> None:
    """Of an SLA of 0.35 s the histogram has 0.95 + 0.05/2; of 1.2 requests 0.2 are lost."""
    strict = replace(pipeline("busy"), sla=Sla(0.35, 99.0))

    def filled(signals: Signals) -> bool:
        counted = value_of(signals)
        return counted is not None and counted.count > 1.15 * RATE * counted.window_s

    counted = eventually(lambda: reader().read(strict, 30.0), filled)
    attainment = value_of(counted)
    assert attainment is not None
    assert attainment.in_time_ratio == pytest.approx(0.975 / 1.2, rel=0.02)
    assert attainment.count == pytest.approx(1.2 * RATE * attainment.window_s, rel=0.05)
    lost = {(loss.stage, loss.cause): loss.count / attainment.window_s for loss in attainment.losses}
    assert lost == pytest.approx({key: share * RATE for key, share in LOSSES.items() if share}, rel=0.1)
    assert (attainment.losses[0].stage, attainment.losses[0].cause) == ("two", "model_error")
    assert isinstance(reader().read(pipeline("idle"), 30.0).attainment, Missing)


def value_of(signals: Signals) -> Attainment | None:
    return signals.attainment.value if isinstance(signals.attainment, Measured) else None


def test_queue_length_zero_is_seen_not_missing(busy: Signals) -> None:
    assert value(busy.stages["one"].queue_length) == 4
    assert value(busy.stages["two"].queue_length) == 0


def test_items_are_told_by_variant_where_a_replica_keeps_several(busy: Signals, reader: Reader) -> None:
    assert busy.stages["one"].served == {}
    first, second = pipeline("busy").stages
    variants = (first.variants[0], replace(first.variants[0], name="v2"))
    several = replace(pipeline("busy"), stages=(replace(first, variants=variants, resident="all"), second))
    # Their window is that of batches, which is longer than the one that filled.
    signals = eventually(
        lambda: reader().read(several, 30.0),
        lambda it: sum(it.stages["one"].served.values()) > 0.95 * RATE,
    )
    served = signals.stages["one"].served
    assert served == pytest.approx({"v1": 0.75 * RATE, "v2": 0.25 * RATE}, rel=0.1)
    assert signals.stages["two"].served == {}


def test_batches_are_those_of_their_window(busy: Signals, reader: Reader) -> None:
    assert isinstance(busy.stages["one"].batches, Measured)
    batches = busy.stages["one"].batches.value
    assert batches.service_s == pytest.approx(0.15, rel=0.05)
    assert batches.items == pytest.approx(3.0, rel=0.05)
    assert batches.window_s == 10.0
    # The window is not yet full: some are there, and at most what a full one has.
    assert 0 < batches.count <= 1.05 * RATE / 3 * 10.0
    idle = reader().read(pipeline("idle"), 30.0).stages
    for stage in (busy.stages["two"], idle["one"], idle["two"]):
        assert isinstance(stage.batches, Missing)
        assert stage.batches.reason is MissingReason.ABSENT


def test_ages_are_those_of_the_samples(busy: Signals) -> None:
    assert isinstance(busy.arrival_rate_rps, Measured)
    assert 0 <= busy.arrival_rate_rps.age_s < 5


def test_load_has_one_rate_a_second_and_gaps_before_the_first(busy: Signals, reader: Reader) -> None:
    # Longer than the servers have run.
    measured = reader().load(pipeline("busy"), 300.0)
    assert isinstance(measured, Measured), measured
    load = measured.value
    assert (load.step_s, load.averaged_s, len(load.rates_rps)) == (1.0, 0.0, 300)
    assert load.rates_rps[0] is None
    assert lately(load) == pytest.approx(RATE, rel=0.1)


def test_the_load_alone_is_the_load_of_a_reading(busy: Signals, reader: Reader) -> None:
    assert isinstance(busy.load, Measured)
    alone = reader().load(pipeline("busy"), 10.0)
    assert isinstance(alone, Measured), alone
    assert (alone.value.step_s, alone.value.averaged_s, len(alone.value.rates_rps)) == (1.0, 0.0, 10)
    assert lately(alone.value) == pytest.approx(RATE, rel=0.1)
    nobody = reader().load(pipeline("nobody"), 10.0)
    assert isinstance(nobody, Missing) and nobody.reason is MissingReason.ABSENT


def test_series_that_are_not_there_are_absent(busy: Signals, reader: Reader) -> None:
    assert isinstance(busy.stages["two"].latency_s, Missing)
    assert busy.stages["two"].latency_s.reason is MissingReason.ABSENT
    for name in ("nobody", *WILD):
        signals = reader().read(pipeline(name), 30.0)
        for signal in (signals.arrival_rate_rps, signals.load, signals.latency_s):
            assert isinstance(signal, Missing)
            assert signal.reason is MissingReason.ABSENT


def test_no_traffic_is_a_rate_of_zero_and_no_latency(reader: Reader, busy: Signals) -> None:
    signals = reader().read(pipeline("idle"), 30.0)
    assert value(signals.arrival_rate_rps) == 0
    assert isinstance(signals.latency_s, Missing)
    assert signals.latency_s.reason is MissingReason.ABSENT


def test_seldon_dialect_counts_all_codes_and_times_the_answered(reader: Reader, busy: Signals) -> None:
    metrics = reader(dialect=EXECUTOR)
    signals = metrics.read(pipeline("busy"), 60.0)
    # The window of 30 s is not yet full: a rate is there, and at most the true one.
    assert 0 < value(signals.arrival_rate_rps) <= 1.05 * RATE
    assert value(signals.latency_s) == pytest.approx(P99_S, rel=0.02)
    # A quarter of the requests fails.
    attainment = value_of(signals)
    assert attainment is not None and attainment.in_time_ratio == pytest.approx(0.75, rel=0.02)
    for signal in (signals.stages["one"].queue_length, signals.stages["one"].batches):
        assert isinstance(signal, Missing)
        assert signal.reason is MissingReason.ABSENT


def test_an_executor_without_a_request_is_idle_and_one_that_is_not_scraped_is_missing(
    reader: Reader, busy: Signals
) -> None:
    metrics = reader(dialect=EXECUTOR)
    signals = eventually(
        lambda: metrics.read(pipeline("fresh"), 20.0), lambda it: set(rates_of(it)[-3:]) == {0.0}
    )
    assert value(signals.arrival_rate_rps) == 0
    assert rates_of(signals)[-3:] == [0.0] * 3
    load = metrics.load(pipeline("fresh"), 20.0)
    assert isinstance(load, Measured) and load.value.rates_rps[-1] == 0
    for name in ("fres", "nobody"):
        missing_load = metrics.read(pipeline(name), 20.0).load
        assert isinstance(missing_load, Missing)
        assert missing_load.reason is MissingReason.ABSENT


def test_deployments_of_one_name_are_told_apart_by_namespace(reader: Reader, busy: Signals) -> None:
    metrics = reader(dialect=EXECUTOR)

    def rate(name: str, namespace: str) -> float:
        there = replace(pipeline(name), targets={"seldon": SeldonTarget(name, namespace)})
        return value(metrics.read(there, 60.0).arrival_rate_rps)

    here, there = rate("twice", "here"), rate("twice", "there")
    assert 0 < here < 1.05 * RATE
    assert there / here == pytest.approx(9.0, rel=0.3)
    # Series that do not say their namespace count for any.
    assert rate("busy", "here") > 0


def test_a_range_of_old_samples_is_refused_as_stale(reader: Reader, busy: Signals) -> None:
    signals = reader(stale_after_s=-1.0).read(pipeline("busy"), 30.0)
    for signal in (signals.arrival_rate_rps, signals.load, signals.latency_s):
        assert isinstance(signal, Missing)
        assert signal.reason is MissingReason.STALE


def test_counter_reset_is_not_a_negative_rate(reader: Reader, exporter: Exporter, busy: Signals) -> None:
    metrics = reader()
    exporter.reset()
    readings: list[float] = []

    def settled(signals: Signals) -> bool:
        readings.append(value(signals.arrival_rate_rps))
        return len(readings) > 15

    eventually(lambda: metrics.read(pipeline("busy"), 30.0), settled)
    # A reset loses at most what arrived between two scrapes.
    assert min(readings) > 0.8 * RATE
    assert max(readings) < 1.2 * RATE


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_server_is_unreachable_and_leaves_nothing(kind: Any, tmp_path: Path) -> None:
    if kind == "prometheus" and not shutil.which("prometheus"):
        pytest.skip("needs the prometheus binary, which is not installed")
    server = started(kind, [], 1.0, tmp_path)
    server.stop()
    signals = metrics_of(server, LOCAL, {}).read(pipeline("busy"), 30.0)
    assert isinstance(signals.arrival_rate_rps, Missing)
    assert signals.arrival_rate_rps.reason is MissingReason.UNREACHABLE
