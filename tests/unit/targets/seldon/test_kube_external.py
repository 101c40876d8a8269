"""A stage whose replicas belong to an autoscaler of the cluster: read as scaled, and never written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.metrics.catalogue import Catalogue
from ipa.adapters.metrics.publish import Publisher
from ipa.control.ports import RolloutPhase
from ipa.metering.make import new_registry
from ipa.model.decision import Change, ReasonCode
from ipa.model.errors import DriftError
from ipa.model.pipeline import Pipeline, ReplicaOwner
from ipa.model.plan import StageConfig
from ipa.optimize.problem import Compat
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled
from ipa.targets.gitops.workload import Folder, GitOpsWorkload
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon import doctor
from ipa.targets.seldon.layouts import layout_of, render_split
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.manifest_edit import Manifest
from ipa.targets.seldon.section import Shape, with_seldon
from tests.fakes.kube import FakeKube, Trouble
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.looped import PIPELINE, Looped, looped
from tests.fakes.world import PROFILES, SMALLEST

Json = dict[str, Any]
CONFIGS = sample_configs()
HPA: Json = {"minReplicas": 1, "maxReplicas": 10}
KEDA: Json = {"triggers": [{"type": "prometheus"}], "minReplicaCount": 1}
READ = "sample-main-1-reader"


def autoscaler(name: str, kind: str, target: str, labels: dict[str, str] | None = None) -> Json:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": target}, "maxReplicas": 9},
    }


def put(kube: FakeKube, namespace: str, made: Json) -> None:
    with kube.store.lock:
        kube.store.create("horizontalpodautoscalers", namespace, made)


def external(pipeline: Pipeline, *names: str) -> Pipeline:
    stages = tuple(
        replace(stage, replicas=ReplicaOwner.EXTERNAL) if stage.name in names else stage
        for stage in pipeline.stages
    )
    return replace(pipeline, stages=stages)


SAMPLE = external(sample_pipeline(), "read")


def give(kube: FakeKube, field: str, spec: Json, *, stage: int = 1, name: str = "sample") -> None:
    """Give the autoscaler of a stage, as its owner does in the manifest."""

    def change(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][stage][field] = spec

    kube.edit("models", name, change)


def scale(kube: FakeKube, deployment: str, replicas: int, namespace: str = "models") -> None:
    """The behaviour of an autoscaler."""
    with kube.store.lock:
        live = kube.store.get("deployments", namespace, deployment)
        kube.store.replace("deployments", {**live, "spec": {**live["spec"], "replicas": replicas}})


def running(workload: KubeWorkload, pipeline: Pipeline) -> tuple[StageConfig, ...]:
    return tuple(stage.config for stage in workload.read(pipeline).stages)


@pytest.fixture(params=["hpaSpec", "kedaSpec"])
def scaled(request: pytest.FixtureRequest, kube: FakeKube, workload: KubeWorkload) -> KubeWorkload:
    give(kube, request.param, HPA if request.param == "hpaSpec" else KEDA)
    kube.tick(6)
    scale(kube, READ, 5)
    kube.tick(6)
    kube.writes.clear()
    return workload


def test_its_replicas_are_those_of_the_deployment(scaled: KubeWorkload) -> None:
    state = scaled.read(SAMPLE)
    assert [(stage.config.replicas, stage.ready_replicas) for stage in state.stages] == [
        (1, 1),
        (5, 5),
        (1, 1),
    ]
    assert state.settled


def test_without_the_key_it_is_refused_with_the_remedy(scaled: KubeWorkload) -> None:
    with pytest.raises(DriftError) as caught:
        scaled.read(sample_pipeline())
    assert "or give the stage `replicas: external` in the pipeline's file" in str(caught.value)


def test_a_change_touches_all_but_the_replicas(kube: FakeKube, scaled: KubeWorkload) -> None:
    state = scaled.read(SAMPLE)
    now = tuple(stage.config for stage in state.stages)
    wanted = (replace(now[0], replicas=2), replace(now[1], variant="r-m", batch_size=4, cores=1.0), now[2])
    # What it asks for of the number is not ours to say.
    change = Change(
        "d", "sample", state.revision, now, (wanted[0], replace(wanted[1], replicas=9), now[2]), 60
    )
    scaled.write(SAMPLE, change)
    [patch] = [write.body for write in kube.writes if not write.is_dry_run]
    paths = [one["path"] for one in patch if one["op"] != "test"]
    assert "/spec/predictors/0/componentSpecs/0/replicas" in paths
    assert not [path for path in paths if path.endswith("componentSpecs/1/replicas")]
    seen = []
    for _ in range(12):
        seen.append(scaled.rollout(SAMPLE, change).phase)
        kube.tick()
    assert seen[0] is RolloutPhase.PROGRESSING and seen[-1] is RolloutPhase.READY
    assert running(scaled, SAMPLE) == wanted


def test_a_plan_that_differs_in_its_replicas_alone_writes_nothing(
    kube: FakeKube, scaled: KubeWorkload
) -> None:
    state = scaled.read(SAMPLE)
    now = tuple(stage.config for stage in state.stages)
    other = (now[0], replace(now[1], replicas=2), now[2])
    assert scaled.write(SAMPLE, Change("d", "sample", state.revision, now, other, 60.0)) == state.revision
    assert kube.writes == []


def test_pods_that_the_autoscaler_adds_are_no_change_to_wait_for(
    kube: FakeKube, scaled: KubeWorkload
) -> None:
    state = scaled.read(SAMPLE)
    now = tuple(stage.config for stage in state.stages)
    wanted = (now[0], replace(now[1], cores=1.0), now[2])
    change = Change("d", "sample", state.revision, now, wanted, 60.0)
    scaled.write(SAMPLE, change)
    kube.tick(12)
    kube.cluster.trouble_of = lambda pod: Trouble.UNSCHEDULABLE
    kube.cluster.capacity_cores = 0.0
    with kube.store.lock:
        there = {pod["metadata"]["name"] for pod in kube.store.everything("pods")}
    kube.cluster.trouble_of = lambda pod: None
    scale(kube, READ, 8)
    kube.tick(4)
    with kube.store.lock:
        new = [pod for pod in kube.store.everything("pods") if pod["metadata"]["name"] not in there]
    assert new and not any(pod["status"]["phase"] == "Running" for pod in new)
    state = scaled.read(SAMPLE)
    assert (state.stages[1].config.replicas, state.stages[1].ready_replicas) == (8, 5)
    assert state.settled
    assert scaled.rollout(SAMPLE, change).phase is RolloutPhase.READY


def test_an_autoscaler_that_the_operator_works_against_is_refused(
    kube: FakeKube, workload: KubeWorkload
) -> None:
    put(kube, "models", autoscaler("fast", "Deployment", READ))
    with pytest.raises(DriftError) as caught:
        workload.read(SAMPLE)
    assert "'fast' scales Deployment sample-main-1-reader, and the operator undoes that" in str(caught.value)
    assert "no hpaSpec and no kedaSpec; give it there" in str(caught.value)
    give(kube, "hpaSpec", HPA)
    assert workload.read(SAMPLE).stages[1].config.replicas == 2


def test_autoscalers_of_others_are_no_matter_and_one_of_the_object_needs_every_stage_external(
    kube: FakeKube, workload: KubeWorkload
) -> None:
    for made in (
        autoscaler("a", "Deployment", "other"),
        autoscaler("b", "SeldonDeployment", "other"),
        autoscaler("c", "StatefulSet", "sample-main-1-reader"),
    ):
        put(kube, "models", made)
    put(kube, "elsewhere", autoscaler("d", "SeldonDeployment", "sample"))
    assert running(workload, SAMPLE) == running(workload, sample_pipeline()) == CONFIGS
    put(kube, "models", autoscaler("all", "SeldonDeployment", "sample"))
    with pytest.raises(DriftError, match="every stage: HorizontalPodAutoscaler 'all'"):
        workload.read(SAMPLE)
    everything = external(sample_pipeline(), "detect", "read", "sort")
    assert workload.read(everything).settled


def test_the_doctor_tells_of_a_stage_that_nobody_scales(
    kube: FakeKube, workload: KubeWorkload, tmp_path: Path
) -> None:
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
    [found] = doctor.endless_writes(client, layout_of(SAMPLE))
    assert found.name == "replicas of sample/read"
    assert "has neither hpaSpec nor kedaSpec" in found.seen and "share-replicas" in found.remedy
    # One of the whole object may scale them all.
    alone = external(sample_pipeline(), "detect", "read", "sort")
    assert list(doctor.endless_writes(client, layout_of(alone))) == []
    give(kube, "kedaSpec", KEDA)
    assert list(doctor.endless_writes(client, layout_of(SAMPLE))) == []
    client.close()


def test_rendered_it_has_a_number_to_start_with() -> None:
    """The operator passes it over once the stage has an hpaSpec, and needs one without."""
    component = render(SAMPLE, CONFIGS)["spec"]["predictors"][0]["componentSpecs"][1]
    assert component["replicas"] == 2 and "hpaSpec" not in component


def test_a_manifest_keeps_its_hpa_spec_and_its_number() -> None:
    body = render(SAMPLE, CONFIGS)
    body["spec"]["predictors"][0]["componentSpecs"][1]["hpaSpec"] = HPA
    manifest = Manifest(SAMPLE, yaml.safe_dump(body), "sample.yaml")
    changed = yaml.safe_load(
        manifest.changed((CONFIGS[0], replace(CONFIGS[1], cores=1.0, replicas=7), CONFIGS[2]))
    )
    component = changed["spec"]["predictors"][0]["componentSpecs"][1]
    assert (component["hpaSpec"], component["replicas"]) == (HPA, 2)
    assert component["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "1000m"


def test_in_shape_split_the_model_is_scaled(kube: FakeKube, tmp_path: Path) -> None:
    pipeline = with_seldon(SAMPLE, shape=Shape.SPLIT, image="ipa:1")
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
    workload = KubeWorkload(client, layout_of)
    workload.create(pipeline, CONFIGS)
    name = "sample-reader-model"
    assert name in {body["metadata"]["name"] for body in render_split(pipeline, CONFIGS)}
    give(kube, "hpaSpec", HPA, stage=0, name=name)
    kube.tick(8)
    scale(kube, f"{name}-main-0-reader", 4)
    kube.tick(6)
    state = workload.read(pipeline)
    assert state.stages[1].config.replicas == 4 and state.settled
    now = tuple(stage.config for stage in state.stages)
    wanted = (now[0], replace(now[1], variant="r-m", batch_size=8, replicas=1), now[2])
    change = Change("d", "sample", state.revision, now, wanted, 60.0)
    workload.write(pipeline, change)
    kube.tick(16)
    assert workload.rollout(pipeline, change).phase is RolloutPhase.READY
    assert running(workload, pipeline) == (now[0], replace(wanted[1], replicas=4), now[2])
    client.close()


LOOPED = external(PIPELINE, "detect")
DETECT = "pages-default-0-detect"


class Autoscaler:
    """A controller that scales the Deployment by what /metrics says, once in so many ticks."""

    def __init__(self, cluster: Looped) -> None:
        self.cluster, self.registry = cluster, new_registry()
        cluster.loop._hooks = (Publisher(Catalogue(self.registry, [LOOPED])),)

    def sync(self) -> None:
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            for sample in family.samples:
                if sample.name == "ipa_desired_replicas":
                    scale(self.cluster.kube, DETECT, int(sample.value), "default")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Looped]:
    known = Profiled(LOOPED, PROFILES, compat=Compat.PAPER, solver="exact")
    with looped(tmp_path, LOOPED, SMALLEST, policy=Ours(LOOPED, known.plan), predict=known.predict) as made:

        def change(sdep: Json) -> None:
            sdep["spec"]["predictors"][0]["componentSpecs"][0]["hpaSpec"] = HPA

        made.kube.edit("default", "pages", change)
        made.kube.tick(6)
        yield made


def test_the_loop_and_an_autoscaler_share_a_stage(cluster: Looped) -> None:
    """The number comes by the metric, the rest by the loop; neither undoes what the other did."""
    autoscaler, counts, decisions = Autoscaler(cluster), [], []
    for rate in (5.0, 25.0, 5.0):
        cluster.rate_rps = rate
        for _ in range(10):
            decisions += cluster.ticks(3)
            autoscaler.sync()
        counts.append(cluster.running()[0].replicas)
    assert counts[1] > counts[0] and counts[1] > counts[2]
    assert not {ReasonCode.DRIFT, ReasonCode.ROLLBACK} & {each.reason for each in decisions}
    touched = {
        one["path"]
        for write in cluster.kube.writes
        if isinstance(write.body, list)
        for one in write.body
        if one["op"] != "test"
    }
    assert any("componentSpecs/0/spec" in path for path in touched), "its variant, batch or cores changed"
    assert not [path for path in touched if path.endswith("componentSpecs/0/replicas")]


def test_the_loop_plans_on_while_the_autoscaler_does_not_follow(cluster: Looped) -> None:
    cluster.rate_rps = 25.0
    decisions = cluster.ticks(40)
    assert cluster.running()[0].replicas == 1
    assert "replicas of detect would be best, but its own controller runs 1" in decisions[-1].detail
    assert cluster.running()[1].replicas >= 1 and cluster.workload.read(LOOPED).settled


def test_a_gitops_tool_brings_all_but_the_number(
    kube: FakeKube, scaled: KubeWorkload, tmp_path: Path
) -> None:
    with kube.store.lock:
        live = kube.store.get("seldondeployments", "models", "sample")
    (tmp_path / "sample.yaml").write_text(
        yaml.safe_dump({key: live[key] for key in ("kind", "metadata", "spec")})
    )
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
    workload = GitOpsWorkload(KubeWorkload(client, layout_of), Folder(tmp_path), "{pipeline}.yaml", Manifest)
    state = workload.read(SAMPLE)
    assert state.settled and state.stages[1].config.replicas == 5
    now = tuple(stage.config for stage in state.stages)
    wanted = (now[0], replace(now[1], variant="r-m"), now[2])
    change = Change("d", "sample", state.revision, now, wanted, 60.0)
    workload.write(SAMPLE, change)
    assert workload.rollout(SAMPLE, change).phase is RolloutPhase.PROGRESSING
    document = yaml.safe_load((tmp_path / "sample.yaml").read_text())
    assert document["spec"]["predictors"][0]["componentSpecs"][1]["replicas"] == 2
    kube.edit("models", "sample", lambda sdep: sdep.update(spec=document["spec"]))
    kube.tick(12)
    assert workload.rollout(SAMPLE, change).phase is RolloutPhase.READY
    assert tuple(stage.config for stage in workload.read(SAMPLE).stages) == wanted
    client.close()
