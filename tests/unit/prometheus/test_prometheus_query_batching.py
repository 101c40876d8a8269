"""Many pipelines over one metrics server: how often it is asked, and whose trouble is whose."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.queries import Rate
from ipa.adapters.prometheus.query_batching import GROUP
from ipa.control.ports import Signals
from ipa.model.observation import Measured, Missing, MissingReason
from tests.fakes.clock import VirtualClock
from tests.fakes.promql import parse
from tests.unit.prometheus.test_prometheus_client import NOW_S, PIPELINE, Answer, Scripted, success

PIPELINES = tuple(replace(PIPELINE, name=f"p{number:03}") for number in range(2 * GROUP))
# Of one pipeline alone: ages, rates and latencies of itself and of its stages, its load and its queues.
QUERIES = 13


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as server:
        server.script = everyone
        yield server


def everyone(path: str, parameters: Mapping[str, str]) -> Answer:
    """Each that is asked for has its number as its rate, and a second as its age and its latency."""
    query = parse(parameters["query"])
    assert query is not None
    ((label, names),) = query.selector.among.items()
    is_age = parameters["query"].startswith("time()")
    result: list[Any] = []
    for name in names:
        metric = {each: "+Inf" if each == "le" else "s" for each in query.by} | {label: name}
        text = "1" if is_age else str(int(name[1:]))
        if path.endswith("query_range"):
            times = range(int(parameters["start"]), int(parameters["end"]) + 1)
            result.append({"metric": metric, "values": [[second, text] for second in times]})
        else:
            result.append({"metric": metric, "value": [NOW_S, text]})
    return success(result)


def metrics_of(server: Scripted, clock: VirtualClock | None = None) -> PrometheusMetrics:
    clock = clock or VirtualClock()
    return PrometheusMetrics(server.url, pipelines=lambda: PIPELINES, monotonic_s=clock.monotonic_s)


def reasons(signals: Signals) -> set[MissingReason | None]:
    found = (signals.arrival_rate_rps, signals.load)
    return {each.reason if isinstance(each, Missing) else None for each in found}


def test_neighbours_share_their_queries_and_each_has_its_own_numbers(server: Scripted) -> None:
    metrics = metrics_of(server)
    for number, pipeline in enumerate(PIPELINES):
        signals = metrics.read(pipeline, 10.0)
        assert signals.arrival_rate_rps == Measured(float(number), 1.0)
        assert isinstance(signals.load, Measured)
        assert signals.load.value.rates_rps == (float(number),) * 10
        assert signals.stages["s"].arrival_rate_rps == Measured(float(number), 1.0)
    assert len(server.asked) == len(PIPELINES) / GROUP * QUERIES


def test_what_is_shared_is_as_old_as_it_is(server: Scripted) -> None:
    clock = VirtualClock()
    metrics = metrics_of(server, clock)
    ages = []
    for pipeline, pause_s in zip(PIPELINES, (0.0, 0.75, 0.5), strict=False):
        clock.wait(pause_s)
        rate = metrics.read(pipeline, 10.0).arrival_rate_rps
        assert isinstance(rate, Measured)
        ages.append(rate.age_s)
    # The last is asked for anew, and the server still says the same time.
    assert ages == [1.0, 1.75, 1.0]
    assert len(server.asked) == 2 * QUERIES


def test_a_server_that_does_not_answer_is_waited_for_once(server: Scripted) -> None:
    server.script = lambda path, parameters: (503, b"busy")
    metrics = metrics_of(server)
    found = [reasons(metrics.read(pipeline, 10.0)) for pipeline in PIPELINES[:GROUP]]
    assert found == [{MissingReason.UNREACHABLE}] * GROUP
    assert len(server.asked) == 1


def test_a_number_that_is_none_is_the_trouble_of_its_pipeline_alone(server: Scripted) -> None:
    def broken(path: str, parameters: Mapping[str, str]) -> Answer:
        status, body = everyone(path, parameters)
        query = parse(parameters["query"])
        if isinstance(query, Rate) and "le" not in query.by:
            body = body.replace(b'"7"', b'"seven"')
        return status, body

    server.script = broken
    metrics = metrics_of(server)
    assert reasons(metrics.read(PIPELINES[7], 10.0)) == {MissingReason.INVALID}
    assert reasons(metrics.read(PIPELINES[8], 10.0)) == {None}


@pytest.mark.parametrize("series", ["no object", {"metric": []}, {"metric": {}}])
def test_a_series_that_is_nobodys_makes_the_answer_useless(server: Scripted, series: Any) -> None:
    def strange(path: str, parameters: Mapping[str, str]) -> Answer:
        answer = json.loads(everyone(path, parameters)[1])
        return success([*answer["data"]["result"], series])

    server.script = strange
    assert reasons(metrics_of(server).read(PIPELINES[0], 10.0)) == {MissingReason.INVALID}


def test_one_series_twice_is_refused(server: Scripted) -> None:
    def twice(path: str, parameters: Mapping[str, str]) -> Answer:
        answer = json.loads(everyone(path, parameters)[1])
        return success([*answer["data"]["result"], answer["data"]["result"][0]])

    server.script = twice
    metrics = metrics_of(server)
    assert reasons(metrics.read(PIPELINES[0], 10.0)) == {MissingReason.INVALID}
    assert reasons(metrics.read(PIPELINES[1], 10.0)) == {None}


def test_pipelines_that_come_and_go_are_asked_for_with_those_that_are_there(server: Scripted) -> None:
    there = list(PIPELINES[:2])
    metrics = PrometheusMetrics(server.url, pipelines=lambda: there)
    metrics.load(PIPELINES[0], 10.0)
    there.append(PIPELINES[2])
    metrics.load(PIPELINES[2], 10.0)
    found = [parse(query) for query in server.asked]
    asked = [query.selector.among["pipeline"] for query in found if query is not None]
    assert asked == [("p000", "p001")] * 2 + [("p000", "p001", "p002")] * 2
