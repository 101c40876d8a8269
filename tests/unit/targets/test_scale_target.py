"""The target scale: it reads objects of any kind, writes nothing, and an autoscaler follows its plans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.metrics.publish import Catalogue, Publisher
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.scraper import SeriesStore, parse_samples
from ipa.bootstrap.app import build
from ipa.bootstrap.service import make_service
from ipa.bootstrap.targets import ServeOptions, check_carried
from ipa.control.engine.guards import GuardSettings
from ipa.control.ports import Attribution, ControlAction
from ipa.files import dump_pipeline, load_pipeline, pipeline_from_mapping
from ipa.metering import table
from ipa.metering.make import new_registry
from ipa.model.decision import Change, Mode
from ipa.model.errors import ForbiddenError, InputError, IpaError, UsageError
from ipa.model.observation import Measured
from ipa.model.pipeline import Canary, Pin
from ipa.policies.ours import Ours
from ipa.service.commands import set_mode
from ipa.settings import Settings
from ipa.targets.scale.metrics import GIVEN
from ipa.targets.scale.section import read_selector
from ipa.targets.scale.target import SCALE
from ipa.targets.scale.workload import ScaleWorkload
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.kinds import INSTALLED, Kind, Kinds
from tests.fakes.kube.store import ApiError
from tests.fakes.world import made_loop, planner, scenario
from tests.faults.prometheus import FakePrometheus
from tests.unit.kube.test_kube_rbac import allowed

World = tuple[FakeKube, ScaleWorkload]
KINDS = Kinds((*INSTALLED, Kind("argoproj.io", "v1alpha1", "rollouts", "Rollout", scales=True)))
ADVISED = load_pipeline(Path(__file__).parents[3] / "deploy" / "autoscaling" / "pipeline.yaml")
STAGES = {"detect": ("deployments", "pages-detect"), "read": ("rollouts", "pages-read")}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with FakeKube(kinds=KINDS) as kube:
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        yield kube, ScaleWorkload(client)
        client.close()


def put(kube: FakeKube, resource: str, name: str, wanted: int, **status: Any) -> None:
    """Make the object what its owner and its controllers say, by hands other than the service's."""
    spec = {"replicas": wanted, "selector": {"matchLabels": {"app": name}}}
    metadata = {"name": name, "namespace": "shop"}
    thing = {"kind": KINDS.by_resource[resource].kind, "metadata": metadata, "spec": spec, "status": status}
    try:
        kube.store.replace(resource, thing)
    except ApiError:
        kube.store.create(resource, "shop", thing)


def test_replicas_are_the_objects_and_all_else_is_the_sections(world: World) -> None:
    kube, workload = world
    put(kube, "deployments", "pages-detect", 3, replicas=3, readyReplicas=2)
    # This kind counts no ready replicas: its pods do.
    put(kube, "rollouts", "pages-read", 2, replicas=2)
    for name, is_ready in (("one", "True"), ("two", "False")):
        pod: dict[str, Any] = {"metadata": {"name": name, "labels": {"app": "pages-read"}}}
        pod["status"] = {"conditions": [{"type": "Ready", "status": is_ready}]}
        kube.store.create("pods", "shop", pod)
    state = workload.read(ADVISED)
    assert [str(it.config) for it in state.stages] == ["detect=small b1 3×1 core", "read=big b2 2×2 cores"]
    assert [each.ready_replicas for each in state.stages] == [2, 1]
    put(kube, "deployments", "pages-detect", 4, replicas=3, unavailableReplicas=3)
    moved = workload.read(ADVISED)
    assert (moved.stages[0].config.replicas, moved.stages[0].ready_replicas) == (4, 0)
    # Someone else's change is never waited for.
    assert moved.settled and moved.revision != state.revision
    change = Change("d-1", "pages", state.revision, (), (), 300.0)
    with pytest.raises(ForbiddenError, match="does not write Deployment pages-detect, Rollout pages-read"):
        workload.write(ADVISED, change)
    assert not kube.writes


@pytest.mark.parametrize(
    ("detect", "scales", "error", "words"),
    [
        (None, True, "NotFoundError", "pages-detect"),
        ((0, {}), True, "DriftError", "Deployment shop/pages-detect is scaled to 0"),
        ((-1, {}), True, "UnavailableError", "spec.replicas is -1"),
        ((2, {"replicas": 2, "selector": "a in (b)"}), True, "UnavailableError", "selects pods by"),
        ((2, {}), False, "InputError", "Rollout cannot be scaled: it has no scale subresource"),
    ],
)
def test_what_cannot_be_read_is_said(
    world: World, detect: tuple[int, dict[str, Any]] | None, scales: bool, error: str, words: str
) -> None:
    kube, workload = world
    kinds = (replace(it, scales=scales or it.kind != "Rollout") for it in KINDS.by_resource.values())
    kube.api.kinds = type(KINDS)(kinds)
    put(kube, "rollouts", "pages-read", 1)
    if detect is not None:
        put(kube, "deployments", "pages-detect", detect[0], **detect[1])
    with pytest.raises(IpaError, match=words) as caught:
        workload.read(ADVISED)
    assert type(caught.value).__name__ == error


def test_the_load_is_read_by_the_series_of_the_section() -> None:
    store = SeriesStore()
    for second in range(0, 61, 5):
        counts = {'service="pages",code="200"': 8, 'service="pages",code="503"': 2, 'service="other"': 99}
        lines = [f"http_requests_total{{{labels}}} {rate * second}" for labels, rate in counts.items()]
        for bound, rate in (("0.1", 4), ("0.8", 8), ("+Inf", 8)):
            lines += [f'http_request_seconds_bucket{{service="pages",le="{bound}"}} {rate * second}']
        store.add("gateway", float(second), parse_samples("\n".join(lines) + "\n"))
    metrics = PrometheusMetrics(
        Settings(), GIVEN, ask=lambda query: (store.rows(query, 60.0), 60.0), monotonic_s=lambda: 60.0
    )
    signals = metrics.read(ADVISED, 60.0)
    assert isinstance(signals.arrival_rate_rps, Measured) and isinstance(signals.latency_s, Measured)
    assert signals.arrival_rate_rps.value == pytest.approx(10.0, rel=0.01)
    assert signals.latency_s.value == pytest.approx(0.1 + 0.7 * 0.98, rel=0.01)
    assert isinstance(signals.attainment, Measured)
    assert signals.attainment.value.in_time_ratio == pytest.approx(0.8, rel=0.01)
    # Without a section nothing is known, and nothing is guessed.
    assert not isinstance(metrics.read(replace(ADVISED, targets={}), 60.0).load, Measured)


def test_a_stage_is_pinned_to_what_its_replicas_run_and_the_file_reads_back() -> None:
    assert [it.pin for it in SCALE.shape(ADVISED, {}).stages] == [Pin("small", 1, 1.0), Pin("big", 2, 2.0)]
    with pytest.raises(InputError, match="have no effect on target scale"):
        check_carried(SCALE, [replace(ADVISED, canary=Canary())], ServeOptions().policy)
    assert pipeline_from_mapping(yaml.safe_load(dump_pipeline(ADVISED))) == ADVISED


def test_modes_that_write_are_refused_and_the_doctor_looks(root: Path, world: World, tmp_path: Path) -> None:
    settings = Settings(
        target="scale",
        kubeconfig=str(world[0].kubeconfig(tmp_path)),
        pipelines_dir=root / "pipelines",
        profiles_dir=root / "profiles",
        store_url=f"sqlite:///{tmp_path}/ipa.sqlite3",
    )
    refused = "target scale only advises, so signals cannot be in a mode that writes"
    with pytest.raises(UsageError, match=refused):
        build(settings, ServeOptions(("signals",), mode=Mode.ACTIVE))
    app = build(settings, ServeOptions(("signals",), mode=Mode.ADVISORY))
    with pytest.raises(UsageError, match=refused):
        set_mode(make_service(app), app.pipelines["signals"], Attribution(ControlAction.MODE), Mode.GUARDED)
    assert app.store.control("signals").mode is Mode.ADVISORY
    app.close()
    with FakePrometheus(VirtualClock(), lambda at_s: 1.0, ADVISED) as server:
        there = replace(settings, prometheus_url=server.url)
        checks = SCALE.doctor_checks(there, {"pages": ADVISED}, [], elects=False)
        seen = "; ".join(finding.seen for check in checks for finding in check.look())
    assert 'no series http_requests_total{service="pages"}' in seen and "pages-detect: does not exist" in seen


def test_an_autoscaler_follows_the_plan_and_the_service_writes_nothing(root: Path, world: World) -> None:
    (kube, workload), pipeline, registry = world, SCALE.shape(ADVISED, {}), new_registry()
    keda = yaml.safe_load((root / "deploy" / "autoscaling" / "keda.yaml").read_text())["spec"]
    hooks = (Publisher(Catalogue(registry, [pipeline])),)
    settings = GuardSettings(tick_s=10.0)
    made = scenario(lambda at_s: 30.0 if 100 <= at_s < 300 else 4.0, mode=Mode.ADVISORY, settings=settings)
    replicas = dict.fromkeys(STAGES, 1)

    def scale() -> tuple[int, ...]:
        """HPA's rule for an average of 1, within the manifest's bounds; no value leaves what runs."""
        for stage, place in STAGES.items():
            labels = {"pipeline": "pages", "stage": stage}
            value = registry.get_sample_value("ipa_desired_replicas", labels) or replicas[stage]
            replicas[stage] = min(max(ceil(value), keda["minReplicaCount"]), keda["maxReplicaCount"])
            put(kube, *place, replicas[stage], readyReplicas=replicas[stage])
        return tuple(replicas.values())

    scale()
    made = replace(made, workload=workload, hooks=hooks)
    made = replace(made, loop=made_loop(made, Ours(pipeline, planner), "run", pipeline))
    history = []
    for tick in range(60):
        # Paused from the high load until it is long low again.
        made.say(paused=25 <= tick < 40)
        made.ticks(1)
        history.append(scale())
    calm, busy = history[9], history[24]
    assert all(more > less for more, less in zip(busy, calm, strict=True)) and history[-1] == calm
    # A steady load moves nothing, and neither does a plan that is missing.
    assert set(history[18:40]) == {busy} and set(history[50:]) == {calm}
    roles = allowed(root / "deploy" / "rbac" / "adviser.yaml")
    assert not kube.writes and {it for it in kube.verbs if it[2] != "discovery"} <= roles


def test_the_manifests_follow_series_that_there_are(root: Path) -> None:
    files = ("keda", "hpa", "prometheus-adapter")
    texts = ((root / "deploy" / "autoscaling" / f"{name}.yaml").read_text() for name in files)
    keda, hpa, adapter = map(yaml.safe_load, texts)
    (trigger,), (metric,) = keda["spec"]["triggers"], hpa["spec"]["metrics"]
    (rule,), query = adapter["rules"]["external"], trigger["metadata"]["query"]
    series, labels = read_selector(query[4:].split(" and ")[0]), metric["external"]["metric"]["selector"]
    assert {it.label: it.values[0] for it in series.matchers} == labels["matchLabels"]
    assert (series.metric, set(labels["matchLabels"])) == ("ipa_desired_replicas", {"pipeline", "stage"})
    assert series.metric == rule["seriesQuery"] == metric["external"]["metric"]["name"]
    assert all(f"time() - {table.LAST_TICK.name} < 60" in it for it in (query, rule["metricsQuery"]))
    # Of a missing series, KEDA would make a 0.
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    target = {"type": trigger["metricType"], "averageValue": trigger["metadata"]["threshold"]}
    assert metric["external"]["target"] == target == {"type": "AverageValue", "averageValue": "1"}
    # As KEDA's definition has it.
    assert keda["spec"]["fallback"].keys() == {"failureThreshold", "replicas", "behavior"}
    # Kubernetes' own model leaves out what it does not know.
    api, kind = ApiClient(), "V2HorizontalPodAutoscaler"
    known = api.deserialize(json.dumps(hpa), kind, "application/json")
    assert api.sanitize_for_serialization(known) == hpa
