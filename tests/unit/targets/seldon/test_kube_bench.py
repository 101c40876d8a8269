"""A stage measured where it serves: on a copy that gets no request of the pipeline, and that never stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.cli.verbs.fit import unwinding_on_sigterm
from ipa.model.errors import ConfigurationError, ConflictError, InputError, UnavailableError
from ipa.model.pipeline import Bounds, Pipeline, StageKind
from ipa.profiling.measure import Item, MeasurementEffort, Outputs
from ipa.service.measuring import MeasureRequest, measure_stage
from ipa.settings import Settings
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.bench import LABEL_COPY_OF, ClusterBench, as_copy
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.locate import LABEL_PIPELINE
from ipa.targets.seldon.section import Shape, with_seldon
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind, Trouble
from tests.fakes.kube.cluster import NODE
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.v2_server import V2Server

Json = dict[str, Any]
PIPELINE = sample_pipeline()
ITEMS: list[Item] = [[{"name": "x", "shape": [1], "datatype": "FP64", "data": [float(n)]}] for n in range(4)]


class Doubled:
    """A workload that is right where every number was doubled."""

    items = ITEMS

    def accuracy(self, answers: Sequence[Outputs]) -> float:
        return sum(list(each["y"]) == [2.0 * n] for n, each in enumerate(answers)) / len(answers)


class ClusterClock(VirtualClock):
    """A virtual clock with which the cluster moves on."""

    def __init__(self, kube: FakeKube) -> None:
        super().__init__()
        self.kube = kube

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        self.kube.tick()


class Lab:
    """The sample pipeline on the fake cluster, and a model server that answers for every copy."""

    def __init__(self, kube: FakeKube, client: KubeClient, server: V2Server) -> None:
        self.kube, self.client, self.server = kube, client, server
        kube.verbs.clear()

    def bench(self, pipeline: Pipeline = PIPELINE) -> ClusterBench:
        reach = f"http://127.0.0.1:{self.server.port}"
        return ClusterBench(self.client, pipeline, reach, clock=ClusterClock(self.kube))

    def copies(self) -> list[Json]:
        with self.kube.store.lock:
            found = self.kube.store.find("seldondeployments", "models")
        return [each for each in found if LABEL_COPY_OF in each["metadata"].get("labels", {})]


@pytest.fixture
def lab(kube: FakeKube, client: KubeClient, workload: KubeWorkload) -> Iterator[Lab]:
    with V2Server() as server:
        yield Lab(kube, client, server)


def test_it_is_measured_on_the_way_of_requests_and_leaves_nothing(lab: Lab, workload: KubeWorkload) -> None:
    before = workload.read(PIPELINE)
    stage = PIPELINE.stage("detect")
    said: list[str] = []
    request = MeasureRequest((0.5, 1.0), (1, 4), MeasurementEffort(3, 0.01, 0.0), 1.0)
    made = lab.bench()
    tell = said.append
    found = measure_stage(
        made, PIPELINE, stage, stage.variants, Doubled(), request, lambda now, _: tell(now), tell
    )
    assert [each.variant for each in found.variants] == ["d-s", "d-l"]
    for variant in found.variants:
        assert [(it.cores, it.batch_size) for it in variant.points] == [
            (0.5, 1),
            (0.5, 4),
            (1.0, 1),
            (1.0, 4),
        ]
        assert variant.accuracy == 1.0 and variant.readiness_s and variant.rows_per_item == (1, 1)
    assert [each.memory_gib for each in found.variants] == [1.0, 2.0]
    assert {path for path, _ in lab.server.asked} == {"/v2/models/infer"}
    assert {rows for _, rows in lab.server.asked} == {1, 4}
    # Where, of what, and within which limits.
    assert found.hardware == f"node {NODE}"
    assert "copy of SeldonDeployment models/sample, asked by Seldon's orchestrator" in found.method
    assert "detect/d-s: image sha256:" in found.method and "and 1024Mi memory" in found.method
    assert lab.copies() == []
    assert workload.read(PIPELINE) == before


def test_a_copy_has_one_replica_of_its_own_and_is_as_the_stage_else(lab: Lab) -> None:
    def change(sdep: Json) -> None:
        component = sdep["spec"]["predictors"][0]["componentSpecs"][0]
        component["replicas"] = 4
        component["spec"]["serviceAccountName"] = "puller"
        component["metadata"] = {"labels": {"app.example/serves": "shop"}, "annotations": {"mesh": "off"}}
        component["spec"]["containers"][0]["env"].append({"name": "THEIRS", "value": "1"})

    lab.kube.edit("models", "sample", change)
    lab.kube.tick(6)
    with lab.bench(PIPELINE).serve("detect", "d-l", 0.5):
        [copy] = lab.copies()
        [predictor] = copy["spec"]["predictors"]
        [component] = predictor["componentSpecs"]
        [container] = component["spec"]["containers"]
        assert copy["metadata"]["name"].startswith("ipa-profile-")
        assert LABEL_PIPELINE not in copy["metadata"]["labels"], "the pipeline's own objects are found by it"
        assert component["replicas"] == 1
        assert predictor["graph"] == {"name": "detect", "type": "MODEL"}
        assert container["image"] == "registry.example/detect:l"
        assert container["resources"]["limits"] == {"cpu": "500m", "memory": "2048Mi"}
        assert {"name": "THEIRS", "value": "1"} in container["env"]
        assert component["spec"]["serviceAccountName"] == "puller"
        assert component["metadata"] == {"annotations": {"mesh": "off"}}, "labels may lead requests to it"
        assert not {"traffic", "shadow", "labels"} & predictor.keys()
    assert lab.copies() == []


def test_in_shape_split_the_model_is_asked_as_its_queue_asks_it(lab: Lab) -> None:
    pipeline = with_seldon(PIPELINE, shape=Shape.SPLIT, image="ipa:1")
    KubeWorkload(lab.client, layout_of).create(pipeline, sample_configs())
    lab.kube.tick(8)
    made = lab.bench(pipeline)
    with made.serve("read", "r-m", 1.0) as replica:
        assert replica.infer(ITEMS[:2]).outputs[1]["y"] == [2.0]
        [copy] = lab.copies()
        assert copy["spec"]["predictors"][0]["annotations"] == {"seldon.io/no-engine": "true"}
    assert lab.server.asked == [("/v2/models/reader/infer", 2)]
    assert "the queue's way to a model" in made.method
    assert lab.copies() == []


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), SystemExit(1)])
def test_it_is_removed_whatever_ends_the_measurement(lab: Lab, error: BaseException) -> None:
    with pytest.raises(type(error)), lab.bench().serve("detect", "d-s", 1.0):
        assert len(lab.copies()) == 1
        raise error
    assert lab.copies() == []


def test_it_is_removed_at_sigterm(lab: Lab) -> None:
    before = signal.getsignal(signal.SIGTERM)
    made = lab.bench().serve("detect", "d-s", 1.0)
    with pytest.raises(SystemExit) as caught, unwinding_on_sigterm(), made:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert caught.value.code == 128 + signal.SIGTERM
    assert lab.copies() == [] and signal.getsignal(signal.SIGTERM) is before


def test_it_is_removed_if_it_never_gets_ready(lab: Lab) -> None:
    lab.kube.cluster.trouble_of = lambda pod: Trouble.IMAGE
    with pytest.raises(UnavailableError, match="ImagePullBackOff"):
        lab.bench().serve("detect", "d-s", 1.0).__enter__()
    assert lab.copies() == []
    lab.kube.cluster.trouble_of = lambda pod: Trouble.NEVER_READY
    with pytest.raises(
        UnavailableError, match="does not get ready: stage 'detect': 0 of 1 replicas are ready"
    ):
        lab.bench().serve("detect", "d-s", 1.0, within_s=20.0).__enter__()
    assert lab.copies() == []


def test_it_is_removed_if_its_creation_was_not_answered(lab: Lab) -> None:
    lab.kube.fault(FaultKind.LOST_AFTER, verb="create", is_dry_run=False)
    with pytest.raises(UnavailableError):
        lab.bench().serve("detect", "d-s", 1.0).__enter__()
    assert lab.copies() == []


def test_a_removal_that_fails_is_tried_again_and_then_told(lab: Lab) -> None:
    for _ in range(2):
        lab.kube.fault(FaultKind.LOST_BEFORE, verb="delete")
    with lab.bench().serve("detect", "d-s", 1.0):
        pass
    assert lab.copies() == []
    for _ in range(3):
        lab.kube.fault(FaultKind.LOST_BEFORE, verb="delete")
    with pytest.raises(UnavailableError) as caught, lab.bench().serve("detect", "d-s", 1.0):
        pass
    [left] = lab.copies()
    assert f"kubectl delete sdep {left['metadata']['name']} -n models" in (caught.value.hint or "")


def test_what_a_killed_run_left_is_removed_first(lab: Lab) -> None:
    with lab.bench().serve("detect", "d-s", 1.0):
        [copy] = lab.copies()
    with lab.kube.store.lock:
        left = lab.kube.store.create("seldondeployments", "models", copy)
    with lab.bench().serve("read", "r-s", 1.0):
        [copy] = lab.copies()
        assert copy["metadata"]["uid"] != left["metadata"]["uid"]
    assert lab.copies() == []


def test_a_quota_without_room_shows_in_the_pods(lab: Lab) -> None:
    lab.kube.cluster.quota_cores = 2.5
    with pytest.raises(UnavailableError, match="exceeded quota: team"):
        lab.bench().serve("detect", "d-s", 1.0).__enter__()
    assert lab.copies() == []


def test_bounds_without_room_for_a_copy_refuse_it_before_it_is_made(lab: Lab) -> None:
    # 2.25 cores run, and the copy takes one and half a core of its orchestrator.
    tight = replace(PIPELINE, bounds=Bounds(cores=3.5))
    with pytest.raises(ConflictError) as caught:
        lab.bench(tight).serve("detect", "d-s", 1.0).__enter__()
    assert "with a copy of one replica 3.75 cores exceed the budget of 3.5" in str(caught.value)
    assert "bounds.transition_cores" in (caught.value.hint or "")
    assert lab.copies() == []
    room = replace(PIPELINE, bounds=Bounds(cores=3.5, transition_cores=4.0))
    with lab.bench(room).serve("detect", "d-s", 1.0):
        pass


def test_a_router_cannot_be_measured_alone() -> None:
    router = replace(PIPELINE.stages[0], kind=StageKind.ROUTER)
    with pytest.raises(InputError, match="is a router, which cannot be measured alone"):
        as_copy(PIPELINE, "copy", router)


def test_it_needs_the_rights_of_its_role(lab: Lab, root: Path) -> None:
    with lab.bench().serve("detect", "d-s", 1.0) as replica:
        replica.infer(ITEMS[:1])
    folder = root / "deploy" / "rbac"
    roles = [yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("observer", "profiler")]
    observer, profiler = (
        {
            (verb, group, resource)
            for rule in role["rules"]
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        for role in roles
    )
    assert lab.kube.verbs - observer == profiler


@pytest.mark.parametrize("wrong", ["forward", "http://{pod}", "http://me@{service}"])
def test_a_way_that_leads_to_no_service_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError):
        Settings.from_env({"IPA_PROFILE_REACH": wrong})
