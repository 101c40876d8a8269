"""Pipelines on plain Deployments: what is rendered and read, what a change touches, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.files import load_pipeline, pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import ConflictError, DriftError, InputError, NotFoundError
from ipa.model.pipeline import Canary, Pipeline
from ipa.model.probe import ProbeRequest
from ipa.settings import Settings
from ipa.targets.base import ImportRequest
from ipa.targets.deployments.target import DEPLOYMENTS
from ipa.targets.kubernetes.split import LABEL_PIPELINE
from tests.contract.kube_harness import split
from tests.deploy.test_deploy_chart import check
from tests.fakes.answering import Answering
from tests.fakes.kube import FakeKube
from tests.fakes.kube.api import Request
from tests.fakes.kube.cluster import POD_SECURITY
from tests.fakes.kube.samples import as_deployments, sample_configs, sample_pipeline
from tests.fakes.kube.store import ApiError
from tests.unit.targets.conftest import World

Json = dict[str, Any]
PIPELINE = as_deployments(sample_pipeline())
IMAGE = "/spec/template/spec/containers/0/image"
CONFIGS = DETECT, READ, SORT = sample_configs()


def containers(deployment: Json) -> Any:
    return deployment["spec"]["template"]["spec"]["containers"]


def env_of(deployment: Json) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in containers(deployment)[0]["env"]}


@pytest.fixture
def plain(kube: FakeKube, client: KubeClient) -> World:
    return World(kube, client, PIPELINE, DEPLOYMENTS)


def test_each_part_is_a_deployment_and_a_service_that_kubernetes_takes(root: Path) -> None:
    bodies = DEPLOYMENTS.render(PIPELINE, CONFIGS)
    check({str(at): body for at, body in enumerate(bodies)})
    *_, monitor = yaml.safe_load_all((root / "deploy/prometheus/podmonitor.yaml").read_text())
    role, env = monitor["spec"]["selector"]["matchExpressions"][0], {}
    for deployment, service in zip(bodies[::2], bodies[1::2], strict=True):
        name, pod = service["metadata"]["name"], deployment["spec"]["template"]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        # A queue fills each ready pod of its model, and tells of its batches.
        is_model = name.endswith("-model")
        assert (service["spec"].get("clusterIP") == "None") == is_model
        assert (pod["metadata"]["labels"][role["key"]] in role["values"]) == (not is_model)
        # It goes on until no request is on its way to it, then finishes what it has.
        env[name] = env_of(deployment)
        pause_s = int(containers(deployment)[0]["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pause_s + int(env[name].get("IPA_DRAIN_S", "0")) < pod["spec"]["terminationGracePeriodSeconds"]
    assert "read=http://sample-reader-queue.models:9000" in env["sample-router"]["IPA_STAGES"].split()
    assert env["sample-reader-queue"]["IPA_MODEL_URL"] == "http://sample-reader-model.models:9000"
    assert env["sample-router"]["IPA_PORT"] == env["sample-reader-model"]["MLSERVER_HTTP_PORT"] == "9000"


def test_a_change_writes_its_own_fields_alone(plain: World) -> None:
    sidecar = {"name": "mesh", "image": "mesh:1"}
    plain.kube.edit("models", "sample-detect-model", lambda it: containers(it).append(sidecar), "deployments")
    plain.kube.tick(8)
    wanted = replace(DETECT, variant="d-l", batch_size=8), READ, replace(SORT, replicas=3)
    plain.write(*wanted)
    changed = [op["path"] for it in plain.kube.writes for op in it.body if op["op"] != "test"]
    own = ("env/5/value", "image", "resources/requests/memory", "resources/limits/memory")
    assert changed == ["/spec/replicas", *(f"/spec/template/spec/containers/0/{it}" for it in own)]
    plain.kube.tick(20)
    assert plain.workload.read(PIPELINE).settled and plain.running() == wanted
    assert containers(plain.kube.store.get("deployments", "models", "sample-detect-model"))[1] == sidecar


def test_a_refused_change_is_undone_after_the_controller_has_moved_the_generation(plain: World) -> None:
    change = plain.change(replace(DETECT, variant="d-l", batch_size=8), replace(SORT, replicas=3))

    def before(request: Request) -> None:
        if request.verb == "patch" and not request.is_dry_run:
            plain.kube.tick()
            if request.name == "sample-detect-model":
                raise ApiError(409, "Conflict", "moved")

    plain.kube.before = before
    with pytest.raises(ConflictError, match="the 2 objects written before it were restored"):
        plain.workload.write(PIPELINE, change)
    assert plain.running() == CONFIGS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: it["spec"].update(paused=True), "rollout resume deployment sample-detect-model"),
        (lambda it: containers(it)[0].update(name="other"), "0 containers are named 'detect'"),
        (lambda it: containers(it)[0].update(image="x"), "nearest is 'd-s': image is 'x'"),
        (lambda it: it["metadata"]["labels"].update({LABEL_PIPELINE: "other"}), "names pipeline 'other'"),
    ],
)
def test_what_no_plan_could_have_is_drift_of_that_object(plain: World, change: Any, words: str) -> None:
    plain.kube.edit("models", "sample-detect-model", change, "deployments")
    with pytest.raises(DriftError, match="a Deployment of models/sample") as drifted:
        plain.running()
    (problem,) = drifted.value.problems
    assert problem.message.startswith("sample-detect-model: ") and words in problem.message


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ({"f:replicas": {}}, "/spec/replicas"),
        ({"f:template": {"f:spec": {"f:containers": {'k:{"name":"detect"}': {"f:image": {}}}}}}, IMAGE),
        # As a list without keys, whose whole is one field.
        ({"f:template": {}}, IMAGE),
        ({"f:strategy": {}}, ""),
    ],
)
def test_a_field_that_another_manager_applies_is_not_written(plain: World, field: Json, path: str) -> None:
    own = {"managedFields": [{"manager": "flux", "operation": "Apply", "fieldsV1": {"f:spec": field}}]}
    plain.kube.edit("models", "sample-detect-model", lambda it: it["metadata"].update(own), "deployments")
    with pytest.raises(DriftError, match=f"{path} is applied by 'flux'") if path else nullcontext():
        plain.write(replace(DETECT, replicas=3, variant="d-l"))


def test_an_autoscaler_of_a_model_is_refused_and_one_of_a_queue_is_let_be(plain: World) -> None:
    """Those of KEDA are such autoscalers, with a label."""
    for name in ("sample-reader-queue", "sample-reader-model"):
        assert plain.running() == CONFIGS
        metadata = {"name": f"hpa-{name}", "labels": {"scaledobject.keda.sh/name": "r"}}
        body = {"metadata": metadata, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": name}}}
        plain.kube.store.create("horizontalpodautoscalers", "models", body)
    with pytest.raises(DriftError) as drifted:
        plain.running()
    words = "stage 'read': HorizontalPodAutoscaler 'hpa-sample-reader-model' (of KEDA's ScaledObject 'r')"
    assert drifted.value.problems[0].message.startswith(words)


def test_containers_that_run_as_root_are_refused_where_pods_are_restricted(plain: World) -> None:
    metadata = {"name": "models", "labels": {POD_SECURITY: "restricted"}}
    plain.kube.store.create("namespaces", "", {"kind": "Namespace", "metadata": metadata})
    change = plain.change(replace(DETECT, replicas=2))
    with pytest.raises(InputError, match="run_as_root"):
        plain.workload.write(as_deployments(sample_pipeline(), run_as_root=True), change)
    plain.workload.write(PIPELINE, change)


def test_the_section_says_what_is_ignored_and_what_router_queues_and_hops_take() -> None:
    resident = [replace(it, resident="all") for it in sample_pipeline().stages]
    asking = replace(sample_pipeline(), sets=True, canary=Canary(), stages=tuple(resident))
    keys = {it.key for it in DEPLOYMENTS.unhonoured(as_deployments(asking))}
    assert keys == {"sets", "canary", "resident"}
    ignoring = as_deployments(asking, ignores=tuple(keys))
    assert not DEPLOYMENTS.unhonoured(ignoring)
    assert {it.resident for it in DEPLOYMENTS.shape(ignoring, {}).stages} == {1}
    assert not DEPLOYMENTS.unhonoured(replace(PIPELINE, drop_after_s=2.0))
    shaped = DEPLOYMENTS.shape(as_deployments(sample_pipeline(), queue_cores=0.25, hop_s=0.002), {})
    assert shaped.bounds.overhead.fixed_cores == 0.5 + 3 * 0.25
    assert {stage.hop_s for stage in shaped.stages} == {0.002}


def test_what_cannot_be_rendered_says_why() -> None:
    bare = replace(sample_pipeline(), targets=PIPELINE.targets)
    for pipeline, words in (
        (sample_pipeline(), "no `deployments:`"),
        (bare, "variant 'd-s'"),
    ):
        with pytest.raises(InputError, match=words):
            DEPLOYMENTS.render(pipeline, CONFIGS)


def test_doctor_looks_at_rights_on_deployments_and_at_each_pipeline(plain: World, tmp_path: Path) -> None:
    settings = Settings(kubeconfig=str(plain.kube.kubeconfig(tmp_path)))
    checks = DEPLOYMENTS.doctor_checks(settings, {"sample": PIPELINE}, (), elects=False)
    asked = [each for each in checks if not each.name.startswith("series")]
    found = {one.name: one for check in asked for one in check.look()}
    assert found["deployment of sample"].seen.startswith("models/sample runs detect=d-s")
    plain.kube.denied = {("patch", "deployments")}
    plain.kube.store.delete("deployments", "models", "sample-router")
    found = {one.name: one for check in asked for one in check.look()}
    assert "deploy/rbac/deployments-actor.yaml" in found["right in models: patch deployments"].remedy
    missing = found["deployment of sample"]
    assert "sample-router not found" in missing.seen and "--at deployments | kubectl" in missing.remedy


def test_requests_go_to_the_service_of_the_router() -> None:
    address = DEPLOYMENTS.address(PIPELINE, Settings())
    assert address.url == "http://sample-router.models:9000/v2/models/sample/infer"
    assert "kubectl -n models port-forward svc/sample-router 9000" in address.note
    answer = {"outputs": [{"name": "y", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
    with Answering(lambda *_: (200, answer)) as server:
        result = DEPLOYMENTS.probe(PIPELINE, ProbeRequest({"inputs": []}, address=server.url), Settings())
    assert result.answered and server.requests == [("/v2/models/sample/infer", {"inputs": []})]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("image", "x:1", ""),
        ("model_uri", "s3://models/x", "unknown key 'model_uri'"),
        ("implementation", "SKLEARN_SERVER", "package.module.Class"),
    ],
)
def test_a_variant_in_a_file_says_only_what_a_deployment_carries(key: str, value: str, words: str) -> None:
    body = pipeline_to_mapping(load_pipeline(Path("pipelines/digits/pipeline.yaml")))
    del body["seldon"]
    body["deployments"] = {"name": "digits", "image": "ipa:1", "ignores": ["resident"]}
    for variant in (variant for stage in body["stages"] for variant in stage["variants"]):
        variant["deployments"] = {**variant.pop("seldon"), key: value}
    if not words:
        made = DEPLOYMENTS.render(digits := pipeline_from_mapping(body), DEPLOYMENTS.smallest(digits))
        assert env_of(made[0])["MLSERVER_MODEL_IMPLEMENTATION"] == "pipelines.digits.runtime.Locate"
        return
    with pytest.raises(InputError) as refused:
        pipeline_from_mapping(body)
    assert words in str(refused.value.problems[0])


@pytest.mark.parametrize(("made", "suffix"), [(PIPELINE, ""), (split(sample_pipeline()), "-main")])
def test_a_name_that_no_service_can_have_is_refused_with_its_place(made: Pipeline, suffix: str) -> None:
    body, (key,) = pipeline_to_mapping(made), made.targets
    # So that the Service of the stage with the shortest name has 63 characters, and those of the others more.
    body[key]["name"] = "2".ljust(63 - len("-sort-model" + suffix), "n")
    with pytest.raises(InputError) as refused:
        pipeline_from_mapping(body)
    places = {it.pointer: it.message for it in refused.value.problems}
    assert places.keys() == {f"/{key}/name", "/stages/0/name", "/stages/1/name"}
    assert "begin with a letter" in places[f"/{key}/name"]
    assert "-detect-model" + suffix + "' has 65 characters, and may have 63" in places["/stages/0/name"]


def test_an_import_of_what_was_rendered_gives_the_pipeline_again(tmp_path: Path) -> None:
    path, bodies = tmp_path / "all.yaml", DEPLOYMENTS.render(PIPELINE, CONFIGS)
    path.write_text(yaml.safe_dump_all(bodies))
    request = ImportRequest(PIPELINE.sla, file=path)
    result = DEPLOYMENTS.imported(Settings(), "", request)
    assert DEPLOYMENTS.render(result.pipeline, result.configs) == bodies
    path.write_text(yaml.safe_dump_all(bodies[2:]))
    with pytest.raises(InputError, match="the Deployments of pipeline 'sample' are incomplete"):
        DEPLOYMENTS.imported(Settings(), "", request)
    with pytest.raises(NotFoundError, match="has no Deployment 'other'"):
        DEPLOYMENTS.imported(Settings(), "", replace(request, workloads=("other",)))
    path.write_text(yaml.safe_dump_all(bodies[1:2]))
    with pytest.raises(NotFoundError, match="has no Deployments") as stock:
        DEPLOYMENTS.imported(Settings(), "", request)
    assert "name them in their order" in stock.value.hint
