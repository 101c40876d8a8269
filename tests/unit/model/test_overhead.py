"""The parts that run beside a pipeline's replicas on a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.control.engine.guards import bound_faults
from ipa.model.parts import NO_OVERHEAD, Overhead
from ipa.model.pipeline import Bounds, Pipeline
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import seldon_of, with_seldon
from ipa.targets.seldon.variants import at_cluster
from tests.contract.kube_harness import split
from tests.fakes.kube import FakeKube
from tests.fakes.kube.cluster import cores_of
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.world import PIPELINE, SMALLEST

SAMPLE, CONFIGS = sample_pipeline(), sample_configs()


def beside(pipeline: Pipeline) -> Pipeline:
    assert seldon_of(pipeline) is not None
    return with_seldon(pipeline, separate_orchestrator=False)


@pytest.mark.parametrize(
    ("pipeline", "overhead"),
    [
        (SAMPLE, Overhead(0.5)),
        (beside(SAMPLE), Overhead(0.0, (("detect", 0.5),))),
        (split(SAMPLE), Overhead(2.0)),
        (PIPELINE, NO_OVERHEAD),
    ],
    ids=["a pod of its own", "beside the first stage", "split", "not on Seldon"],
)
def test_what_runs_beside_the_replicas_is_known_from_the_shape(
    pipeline: Pipeline, overhead: Overhead
) -> None:
    assert pipeline.bounds.overhead == NO_OVERHEAD
    assert at_cluster(pipeline).bounds == replace(pipeline.bounds, overhead=overhead)
    assert at_cluster(at_cluster(pipeline)) == at_cluster(pipeline)


def test_the_orchestrator_is_rendered_where_its_cores_are_counted() -> None:
    pipeline = beside(SAMPLE)
    configs = (replace(CONFIGS[0], replicas=3), *CONFIGS[1:])
    body = render(pipeline, configs)
    assert read(pipeline, body) == configs
    kube = FakeKube()
    kube.store.create("seldondeployments", "models", body)
    kube.tick(8)
    pods = kube.store.everything("pods")
    kube._http.server_close()
    assert sum(cores_of(pod["spec"]) for pod in pods) == at_cluster(pipeline).bounds.overhead.cores(configs)


def test_the_parts_of_shape_split_take_what_is_counted() -> None:
    from ipa.targets.seldon.layouts import layout_of

    pipeline = split(SAMPLE)
    kube = FakeKube()
    for body in layout_of(pipeline).render(CONFIGS):
        kube.store.create("seldondeployments", "models", body)
    kube.tick(8)
    pods = kube.store.everything("pods")
    kube._http.server_close()
    assert sum(cores_of(pod["spec"]) for pod in pods) == at_cluster(pipeline).bounds.overhead.cores(CONFIGS)


def test_a_budget_that_the_replicas_alone_would_keep_is_broken_with_what_runs_beside_them() -> None:
    configs = tuple(replace(config, cores=2.0) for config in SMALLEST)
    tight = replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=4.0))
    assert bound_faults(tight, configs) == []
    with_orchestrator = replace(tight, bounds=replace(tight.bounds, overhead=Overhead(0.5)))
    assert bound_faults(with_orchestrator, configs) == ["4.5 cores exceed the budget of 4"]


def test_bounds_of_a_file_have_no_overhead() -> None:
    assert Bounds().overhead == NO_OVERHEAD
    assert NO_OVERHEAD.cores(CONFIGS) == sum(config.total_cores for config in CONFIGS)
