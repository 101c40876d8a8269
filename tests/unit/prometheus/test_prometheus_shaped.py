"""Metrics of the shape in which a pipeline runs."""

from __future__ import annotations

from ipa.adapters.prometheus.dialects import ON_CLUSTER, Dialect, queries
from ipa.control.ports import Load, Signals
from ipa.model.observation import Missing, MissingReason
from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.metrics import EXECUTOR, ShapedMetrics
from tests.contract.split_harness import split
from tests.fakes.kube.samples import sample_pipeline

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
    asked, seldon = queries(pipeline, ON_CLUSTER), queries(pipeline, EXECUTOR)
    assert "ipa_router_arrivals_total" in str(asked.arrivals)
    assert asked.stage_queue is not None
    # By the stage's own name, whatever its container is called.
    assert ON_CLUSTER.stage_value(pipeline.stages[1]) == "read"
    assert (asked.arrivals.window_s, asked.latency.window_s) == (
        seldon.arrivals.window_s,
        seldon.latency.window_s,
    )
