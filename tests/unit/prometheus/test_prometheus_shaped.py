"""Metrics of the shape in which a pipeline runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.queries import ON_CLUSTER, Dialect, Query, Rows, queries
from ipa.adapters.prometheus.scraper import SeriesStore, parse_samples
from ipa.control.engine.correction import UNCORRECTED, learned
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.observe import observe
from ipa.control.ports import Load, Signals, StageState, WorkloadState
from ipa.model.observation import Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings
from ipa.targets.seldon.metrics import EXECUTOR, ShapedMetrics
from tests.contract.kube_harness import split
from tests.fakes.clock import VirtualClock
from tests.fakes.exposition import executor
from tests.fakes.kube.samples import sample_pipeline
from tests.fakes.looped import PIPELINE
from tests.fakes.world import SMALLEST, profiled
from tests.faults.prometheus import FakePrometheus

UNSEEN = Missing(MissingReason.ABSENT, "")


def test_each_pipeline_is_read_in_the_dialect_of_its_shape() -> None:
    read: list[tuple[Dialect, str, float]] = []

    class Told:
        def __init__(self, dialect: Dialect) -> None:
            self.dialect = dialect

        def read(self, pipeline: Pipeline, window_s: float) -> Signals:
            read.append((self.dialect, pipeline.name, window_s))
            return Signals(UNSEEN, UNSEEN, UNSEEN)

        def load(self, pipeline: Pipeline, window_s: float) -> Load:
            read.append((self.dialect, pipeline.name, window_s))
            return UNSEEN

    metrics = ShapedMetrics(Told)
    metrics.read(sample_pipeline(), 60.0)
    metrics.read(split(sample_pipeline()), 30.0)
    assert metrics.load(split(sample_pipeline()), 5.0) is UNSEEN
    assert read == [
        (EXECUTOR, "sample", 60.0),
        (ON_CLUSTER, "sample", 30.0),
        (ON_CLUSTER, "sample", 5.0),
    ]


def test_a_split_pipeline_has_the_series_of_router_and_queues_over_a_clusters_windows() -> None:
    pipeline = split(sample_pipeline())
    on_cluster, seldon = queries(pipeline, ON_CLUSTER), queries(pipeline, EXECUTOR)
    assert "ipa_router_arrivals_total" in str(on_cluster["arrivals"])
    assert "stage_queue" in on_cluster
    # By the stage's own name, whatever its container is called.
    assert ON_CLUSTER.stage_value(pipeline.stages[1]) == "read"
    assert (on_cluster["lost"].window_s, on_cluster["latency"].window_s) == (
        seldon["lost"].window_s,
        seldon["latency"].window_s,
    )


def test_profiles_are_corrected_by_the_batches_of_model_servers_and_what_waits_there_is_guarded() -> None:
    """Of a pipeline in one SeldonDeployment, as those of our queues correct them elsewhere."""
    configs = tuple(replace(config, batch_size=1) for config in SMALLEST)
    running = WorkloadState("1", tuple(StageState(config, config.replicas) for config in configs), True)
    expected = profiled().predict(configs, 1.0)
    assert expected is not None
    settings = GuardSettings(tick_s=10.0, correct_profiles=True)
    clock, known, rate_rps = VirtualClock(), UNCORRECTED, 4.0
    with FakePrometheus(clock, lambda _: rate_rps, PIPELINE) as server:
        server.batch_s = {
            config.stage: 1.3 * service.full_s
            for config, service in zip(configs, expected.services, strict=True)
        }
        metrics = PrometheusMetrics(Settings(prometheus_url=server.url), EXECUTOR, share_s=0.0)
        for _ in range(12):
            clock.wait(settings.tick_s)
            now_s = clock.monotonic_s()
            observation = observe(PIPELINE, metrics.read(PIPELINE, 60.0), running, at_s=now_s)
            known = learned(
                known, observation, profiled().predict, settings, now_s, measured={}, is_broken=False
            )
    ratios = {each.stage: each.ratio for each in known.slowdowns(PIPELINE) if each.variant == "small"}
    assert ratios == pytest.approx({config.stage: 1.3 for config in configs}, rel=0.03)
    # As long as it is served a request waits.
    waiting = observation.stages[0].queue_length
    assert isinstance(waiting, Measured)
    assert waiting.value == pytest.approx(rate_rps * server.batch_s[configs[0].stage], rel=0.05)


def test_predictors_that_share_the_load_are_read_each_by_its_name() -> None:
    """The first answers twice as many as the second, of which a sixth fail."""
    store = SeriesStore()
    shared = replace(PIPELINE, sets=True)

    def ask(query: Query) -> tuple[Rows, float]:
        return store.rows(query, 60.0), 60.0

    for second in range(0, 61, 5):
        pages = [
            executor("pages", "default", {("predictions", "post", "200"): 20.0 * second}, {}, 0.1),
            executor(
                "pages",
                "default-2",
                {("predictions", "post", "200"): 10.0 * second, ("predictions", "post", "500"): 2.0 * second},
                {},
                0.1,
            ),
        ]
        for number, page in enumerate(pages):
            store.add(f"executor-{number}", float(second), parse_samples(page))
    alone = PrometheusMetrics(Settings(), EXECUTOR, ask=ask, monotonic_s=lambda: 60.0).read(PIPELINE, 60.0)
    assert alone.parts == {}
    signals = PrometheusMetrics(Settings(), EXECUTOR, ask=ask, monotonic_s=lambda: 60.0).read(shared, 60.0)
    first, second_part = signals.parts["default"], signals.parts["default-2"]
    assert isinstance(first.attainment, Measured) and isinstance(second_part.attainment, Measured)
    assert first.attainment.value.count == pytest.approx(600.0, rel=0.01)
    assert first.attainment.value.in_time_ratio == pytest.approx(1.0) and not first.attainment.value.losses
    assert second_part.attainment.value.count == pytest.approx(360.0, rel=0.01)
    assert second_part.attainment.value.in_time_ratio == pytest.approx(10 / 12, rel=0.01)
    (loss,) = second_part.attainment.value.losses
    assert (loss.cause, loss.count) == ("failed", pytest.approx(60.0, rel=0.01))
    assert isinstance(first.latency_s, Measured) and first.latency_s.value == pytest.approx(0.5, abs=0.25)
