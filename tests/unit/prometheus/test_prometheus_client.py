"""Answers of the metrics server, and the readings of them: Missing with its reason, never an exception."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.queries import LOCAL, Dialect, Matcher, QueryShape
from ipa.adapters.prometheus.server import GROUP
from ipa.control.loop.scheduler import WORKERS
from ipa.model.observation import Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline, Sla, Stage, Variant
from ipa.settings import Settings
from ipa.targets.seldon.metrics import EXECUTOR
from tests.fakes.clock import VirtualClock
from tests.fakes.promql import parse
from tests.faults.prometheus import FakePrometheus

NOW_S = 1_000_000.25
PIPELINE = Pipeline("p", (Stage("s", (Variant("v"),)),), Sla(1.0, 99.0), {})

Answer = tuple[int, bytes]
Script = Callable[[str, Mapping[str, str]], Answer]


class Scripted(FakePrometheus):
    """A metrics server that answers what the test's script says."""

    def __init__(self) -> None:
        super().__init__(VirtualClock(), lambda _: 0.0)
        self.script: Script = healthy
        self.asked: list[str] = []

    def answer(self, path: str, parameters: Mapping[str, str]) -> Answer:
        """What the script says."""
        self.asked.append(parameters.get("query", ""))
        return self.script(path, parameters)


def success(result: Any, **extra: Any) -> Answer:
    data = {"resultType": "vector", "result": result}
    return 200, json.dumps({"status": "success", "data": data, **extra}).encode()


def healthy(path: str, parameters: Mapping[str, str], text: str = "7") -> Answer:
    """Each pipeline that is asked for by number has it as its rate, any other 7; ages are 2 s."""
    query = parse(parameters["query"])
    assert query is not None
    several = query.selector.matcher("pipeline") or Matcher("pipeline", ("p",))
    result: list[Any] = []
    for name in several.values:
        number = "2" if query.shape is QueryShape.AGE else name[1:] or text
        own = {"stage": "s", "le": "+Inf", "pipeline": name}
        metric = {label: own.get(label, "s") for label in query.by}
        if query.shape is QueryShape.SAMPLES:
            times = range(int(NOW_S - query.window_s) + 1, int(NOW_S) + 1)
            counts = [[second, str(int(number) * (second - 990_000))] for second in times]
            result.append({"metric": own, "values": counts})
        else:
            result += [{"metric": metric, "value": [NOW_S, number]}]
            if "le" in query.by:
                result.append({"metric": metric | {"le": "0.5"}, "value": [NOW_S, number]})
    return success(result)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as server:
        yield server


def reader(
    server: Scripted, dialect: Dialect = LOCAL, clock: VirtualClock | None = None, **options: Any
) -> PrometheusMetrics:
    named = {"prometheus_url": server.url, **options}
    pipelines = named.pop("pipelines", tuple)
    monotonic_s = (clock or VirtualClock()).monotonic_s
    return PrometheusMetrics(Settings(**named), dialect, pipelines=pipelines, monotonic_s=monotonic_s)


def read(server: Scripted, **options: float) -> tuple[Any, ...]:
    """Arrival rate, load, latency and the stage's rate, as read."""
    signals = reader(server, **options).read(PIPELINE, 10.0)
    return signals.arrival_rate_rps, signals.load, signals.latency_s, signals.stages["s"].arrival_rate_rps


def reasons(signals: tuple[Any, ...]) -> list[MissingReason | None]:
    return [signal.reason if isinstance(signal, Missing) else None for signal in signals]


def test_whole_reading(server: Scripted) -> None:
    rate, load, latency, stage = read(server)
    assert rate == Measured(7.0, 2.0)
    assert latency == Measured(pytest.approx(0.495), 2.0)
    assert stage == Measured(7.0, 2.0)
    assert load.age_s == 2.0
    assert load.value.rates_rps == (7.0,) * 10


def counts(*samples: tuple[float, str]) -> Answer:
    return success([{"metric": {"pipeline": "p"}, "values": [list(each) for each in samples]}])


@pytest.mark.parametrize("window_s", [10.0, 60.0])
def test_a_load_is_missing_until_the_second_sample_of_its_counter(server: Scripted, window_s: float) -> None:
    samples = [(999_985.0, "700")]

    def begun(path: str, parameters: Mapping[str, str]) -> Answer:
        is_count = "requests_seconds_count" in parameters["query"] and "rate(" not in parameters["query"]
        if is_count and "timestamp" not in parameters["query"]:
            return counts(*samples)
        return success([]) if "go_goroutines" in parameters["query"] else healthy(path, parameters)

    server.script = begun
    metrics = reader(server, EXECUTOR)
    load = metrics.load(PIPELINE, window_s)
    assert isinstance(load, Missing) and "the next scrape tells the first rate" in load.detail
    samples.append((1_000_000.0, "730"))
    load = metrics.load(PIPELINE, window_s)
    assert isinstance(load, Measured)
    assert load.value.rates_rps[-10:] == (2.0,) * 10


def test_a_counter_is_followed_and_read_whole_again_after_a_while(server: Scripted) -> None:
    metrics = reader(server)
    for window_s in (10.0, 10.0, 300.0, 10.0):
        load = metrics.load(PIPELINE, window_s)
        assert isinstance(load, Measured)
        assert load.value.rates_rps == (7.0,) * int(window_s)
    asked = [query for query in server.asked if "[" in query]
    assert [query[query.index("[") :] for query in asked] == ["[70s]", "[60s]", "[360s]", "[60s]"]


def test_as_many_loops_as_have_their_turns_at_once_keep_their_connections(
    server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, together = reader(server, prometheus_timeout_s=60.0), threading.Barrier(WORKERS, timeout=60.0)

    def crowded(path: str, parameters: Mapping[str, str]) -> Answer:
        if "timestamp" in parameters["query"]:
            together.wait()
        return healthy(path, parameters)

    server.script = crowded
    with caplog.at_level("WARNING", "urllib3"), ThreadPoolExecutor(WORKERS) as pool:
        loads = list(pool.map(lambda _: metrics.load(PIPELINE, 10.0), range(WORKERS)))
    assert all(isinstance(load, Measured) for load in loads)
    # It is said of each that is thrown away.
    assert caplog.records == []


def sample(*texts: str, **extra: Any) -> Answer:
    return success([{"metric": {"stage": "s"}, "value": [NOW_S, text]} for text in texts], **extra)


def everything(answer: Answer) -> Script:
    return lambda _path, _parameters: answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (success([]), MissingReason.ABSENT),
        (sample("+Inf"), MissingReason.INVALID),
        (sample("-3"), MissingReason.INVALID),
        (sample("1e999"), MissingReason.INVALID),
        (sample("seven"), MissingReason.INVALID),
        (sample("7", "8"), MissingReason.INVALID),
        (success(["no object"]), MissingReason.INVALID),
        (success([{"metric": [], "value": [NOW_S]}]), MissingReason.INVALID),
        (success({"not": "a list"}), MissingReason.INVALID),
        (sample("7", warnings=["partial response"]), MissingReason.INVALID),
        ((200, b'{"status":"error","errorType":"execution","error":"boom"}'), MissingReason.INVALID),
        ((200, b"<html>log in</html>"), MissingReason.INVALID),
        ((200, b'["a", "list"]'), MissingReason.INVALID),
        ((200, b'{"status":"success"}'), MissingReason.INVALID),
        ((200, b'{"status":"succ'), MissingReason.INVALID),
        ((422, b'{"status":"error","error":"query"}'), MissingReason.INVALID),
        ((400, b"bad"), MissingReason.INVALID),
        ((302, b""), MissingReason.INVALID),
        ((401, b"who are you"), MissingReason.INVALID),
        ((500, b'{"status":"error","error":"x"}'), MissingReason.UNREACHABLE),
        ((503, b"busy"), MissingReason.UNREACHABLE),
    ],
)
def test_bad_answers_are_missing_with_their_reason(
    server: Scripted, answer: Answer, reason: MissingReason
) -> None:
    server.script = everything(answer)
    assert reasons(read(server)) == [reason] * 4


def test_remarks_of_promql_are_not_warnings(server: Scripted) -> None:
    remark = "PromQL info: metric might not be a counter"

    def remarked(path: str, parameters: Mapping[str, str]) -> Answer:
        status, body = healthy(path, parameters)
        return status, json.dumps({**json.loads(body), "warnings": [remark]}).encode()

    server.script = remarked
    assert reasons(read(server)) == [None] * 4


def test_old_samples_are_stale_with_their_age(server: Scripted) -> None:
    rate, *others = read(server, stale_after_s=1.0)
    assert rate.reason is MissingReason.STALE
    assert rate.age_s == 2.0
    assert reasons(tuple(others)) == [MissingReason.STALE] * 3


def test_an_answer_that_comes_again_ages_until_it_is_stale(server: Scripted) -> None:
    clock = VirtualClock()
    metrics = reader(server, clock=clock)
    ages = []
    for pause_s in (0.0, 5.0, 8.0, 1.0, 46.0):
        clock.wait(pause_s)
        rate = metrics.read(PIPELINE, 10.0).arrival_rate_rps
        ages.append(rate.age_s if isinstance(rate, Measured) else rate.reason)
    stale = MissingReason.STALE
    assert ages == [2.0, 7.0, 15.0, stale, stale]


@pytest.mark.parametrize("count", ["-3", "NaN", "+Inf"])
def test_a_count_that_is_none_is_invalid(server: Scripted, count: str) -> None:
    def wrong(path: str, parameters: Mapping[str, str]) -> Answer:
        is_count = parameters["query"].endswith("]")
        return counts((999_999.0, "3"), (1_000_000.0, count)) if is_count else healthy(path, parameters)

    server.script = wrong
    assert reasons(read(server)) == [MissingReason.INVALID] * 2 + [None] * 2


def test_slow_answer_is_unreachable_and_asked_for_once(server: Scripted) -> None:
    def silent(_path: str, _parameters: Mapping[str, str]) -> Answer:
        server.stopping.wait(5.0)
        return success([])

    server.script = silent
    assert reasons(read(server, prometheus_timeout_s=0.1)) == [MissingReason.UNREACHABLE] * 4
    assert len(server.asked) == 1


def test_dripping_answer_ends_at_the_deadline(server: Scripted) -> None:
    answer = success([])[1] + b" " * 200
    server.script, server.drips = everything((200, answer)), True
    assert reasons(read(server, prometheus_timeout_s=0.2)) == [MissingReason.UNREACHABLE] * 4
    assert 0 < server.dripped < len(answer)


PIPELINES = tuple(replace(PIPELINE, name=f"p{number:03}") for number in range(2 * GROUP))
# Of one pipeline alone: ages, rates and latencies of itself and of its stages, its load, its queues, and if
# there are some its losses.
QUERIES = 14


def test_neighbours_share_their_queries_and_each_has_its_own_numbers(server: Scripted) -> None:
    metrics = reader(server, pipelines=lambda: PIPELINES)
    for number, pipeline in enumerate(PIPELINES):
        signals = metrics.read(pipeline, 10.0)
        assert signals.arrival_rate_rps == Measured(float(number), 2.0)
        assert isinstance(signals.load, Measured)
        assert signals.load.value.rates_rps == (float(number),) * 10
        assert signals.stages["s"].arrival_rate_rps == Measured(float(number), 2.0)
    assert len(server.asked) == len(PIPELINES) / GROUP * QUERIES


def test_what_is_shared_is_as_old_as_it_is(server: Scripted) -> None:
    clock = VirtualClock()
    metrics = reader(server, clock=clock, pipelines=lambda: PIPELINES)
    ages = []
    for pipeline, pause_s in zip(PIPELINES, (0.0, 0.75, 0.5), strict=False):
        clock.wait(pause_s)
        rate = metrics.read(pipeline, 10.0).arrival_rate_rps
        assert isinstance(rate, Measured)
        ages.append(rate.age_s)
    # The last is asked for anew, except for the losses, and the server still says the same time.
    assert ages == [2.0, 2.75, 2.0]
    assert len(server.asked) == 2 * QUERIES - 2


def together(metrics: PrometheusMetrics, pipeline: Pipeline) -> set[MissingReason | None]:
    signals = metrics.read(pipeline, 10.0)
    return set(reasons((signals.arrival_rate_rps, signals.load)))


def test_a_server_that_does_not_answer_is_waited_for_once(server: Scripted) -> None:
    server.script = lambda path, parameters: (503, b"busy")
    metrics = reader(server, pipelines=lambda: PIPELINES)
    unseen = [together(metrics, pipeline) for pipeline in PIPELINES[:GROUP]]
    assert unseen == [{MissingReason.UNREACHABLE}] * GROUP
    assert len(server.asked) == 1


@pytest.mark.parametrize("series", ["no object", {"metric": []}, {"metric": {}}, None])
def test_a_series_that_is_nobodys_makes_the_answer_useless(server: Scripted, series: Any) -> None:
    """And one that is there twice that of its pipeline."""

    def strange(path: str, parameters: Mapping[str, str]) -> Answer:
        result = json.loads(healthy(path, parameters)[1])["data"]["result"]
        return success([*result, series or result[0]])

    server.script = strange
    metrics = reader(server, pipelines=lambda: PIPELINES)
    assert together(metrics, PIPELINES[0]) == {MissingReason.INVALID}
    assert together(metrics, PIPELINES[1]) == ({None} if series is None else {MissingReason.INVALID})


def test_pipelines_that_come_and_go_are_asked_for_with_those_that_are_there(server: Scripted) -> None:
    there = list(PIPELINES[:2])
    metrics = reader(server, pipelines=lambda: there)
    metrics.load(PIPELINES[0], 10.0)
    there.append(PIPELINES[2])
    metrics.load(PIPELINES[2], 10.0)
    parsed = [parse(query) for query in server.asked]
    matchers = [query.selector.matcher("pipeline") for query in parsed if query is not None]
    names = [matcher.values for matcher in matchers if matcher is not None]
    assert names == [("p000", "p001")] * 2 + [("p000", "p001", "p002")] * 2
