"""The chart and the overlays: equal, restricted, of this service, and of Kubernetes' own schemas."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from ipa.adapters.processes import free_port, start
from ipa.adapters.store.database import LOW_RATIO, MOST_WAL_BYTES
from ipa.adapters.store.state import MOST_PLANS
from ipa.api.auth import OPEN, RULES
from ipa.bootstrap.file_edits import FileEdits
from ipa.bootstrap.identity import check_listening
from ipa.cli.main import build_app
from ipa.control.store_admin import Retention
from ipa.files import load_pipelines, load_profiles
from ipa.settings import PREFIX, Settings
from tests.deploy.rendering import (
    CHART,
    IMAGE,
    KUSTOMIZE,
    NAMESPACE,
    ROOT,
    Json,
    Objects,
    built,
    by_name,
    charted,
    container_of,
    helm,
    only,
    pod_of,
    tool,
)
from tests.fakes.children import run_process, terminate, with_parent
from tests.fakes.waiting import until
from tools.chart_artifact import add, packaged
from tools.image_report import images_in

PIPELINE = ("video", ("crop", "classification"))
FILES = [
    f"--set-file=pipelines.video.pipeline={ROOT}/pipelines/video/pipeline.yaml",
    *(f"--set-file=pipelines.video.profiles.{s}={ROOT}/profiles/video/{s}.yaml" for s in PIPELINE[1]),
    "--set=namespaces={default}",
]
SQLITE = ["--set=store.kind=sqlite,replicas=1"]
SECRETS = [
    "--set=gurobiLicence.name=grb",
    "--set=prometheus.secret.name=prom,prometheus.secret.ca=ca.crt,prometheus.url=https://prometheus",
]
EVERYWHERE = ["--set=mode=active,namespaces={models,default},auth.methods={keys,kubernetes}"]
MONITOR = ["--set=serviceMonitor.enabled=true"]
GIVEN = {
    "affinity": {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    },
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "podAnnotations": {"linkerd.io/inject": "enabled"},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
    "keda": {"enabled": True},
}
MORE = [f"--set-json={key}={json.dumps(value)}" for key, value in GIVEN.items()]
# Each way that something is rendered in.
WAYS = {
    "default": [],
    "active": ["--set=mode=active"],
    "sqlite": SQLITE,
    "files": FILES,
    "all": [*FILES, *SECRETS, *EVERYWHERE, *MONITOR, *MORE, "--set=settings.tick_s=5,control={video}"],
}


@pytest.fixture(params=WAYS, scope="module")
def objects(request: pytest.FixtureRequest) -> Objects:
    return charted(*WAYS[request.param])


@pytest.mark.parametrize("mode", ["advisory", "active"])
def test_the_overlay_is_what_the_chart_renders(mode: str) -> None:
    assert built(KUSTOMIZE / "overlays" / mode) == charted(f"--values={CHART}/ci/{mode}-values.yaml")


def test_the_component_is_the_charts_service_monitor(tmp_path: Path) -> None:
    def below(path: Path) -> str:
        return os.path.relpath(path, tmp_path.resolve())

    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "namespace": NAMESPACE,
                "resources": [below(KUSTOMIZE / "overlays" / "advisory")],
                "components": [below(KUSTOMIZE / "components" / "servicemonitor")],
            }
        )
    )
    assert built(tmp_path) == charted(*MONITOR)


def test_the_credentials_for_prometheus_are_files_of_the_secret() -> None:
    container = container_of(charted(*SECRETS))
    files = {it["name"]: it["value"] for it in container["env"] if it["name"].startswith("IPA_PROMETHEUS_")}
    assert files == {
        "IPA_PROMETHEUS_URL": "https://prometheus",
        "IPA_PROMETHEUS_TOKEN_FILE": "/etc/ipa/prometheus/token",
        "IPA_PROMETHEUS_CA_FILE": "/etc/ipa/prometheus/ca.crt",
    }
    assert {"name": "prometheus", "mountPath": "/etc/ipa/prometheus", "readOnly": True} in container[
        "volumeMounts"
    ]
    assert not any("FILE" in it["name"] for it in container_of(charted())["env"])


def test_rules_dashboard_and_what_a_platform_adds_are_rendered() -> None:
    objects, restart = charted(*MORE), "--set=pipelineChanges=restart"
    assert pod_of(objects)["affinity"] == GIVEN["affinity"]
    assert GIVEN["extraEnv"][0] in container_of(objects)["env"]
    account = only(objects, "ServiceAccount")["metadata"]
    assert account["annotations"] == GIVEN["serviceAccount"]["annotations"]
    (annotations, both) = (
        only(each, "Deployment")["spec"]["template"]["metadata"]["annotations"]
        for each in (objects, charted(*FILES, *MORE, restart))
    )
    assert annotations == GIVEN["podAnnotations"] and annotations.items() < both.items()
    rule = only(objects, "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    alone = yaml.safe_load((ROOT / "deploy/prometheus/prometheusrule.yaml").read_text())
    assert rule["spec"] == alone["spec"]
    board = only(objects, "ConfigMap")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["ipa.json"]) == json.loads((ROOT / "deploy/grafana/ipa.json").read_text())
    done = helm('--set-json=extraEnv=[{"name": "IPA_PORT", "value": "1"}]')
    assert done.returncode != 0 and "what is plain goes into settings" in done.stderr


def test_it_is_advisory_and_may_not_write_unless_told() -> None:
    advisory, active = charted(), charted("--set=mode=active")
    assert "--mode=advisory" in container_of(advisory)["args"]
    writers = [key for key in active if key not in advisory]
    assert writers == [("Role", NAMESPACE, "ipa-actor"), ("RoleBinding", NAMESPACE, "ipa-actor")]
    # A restart must not take back what was said with `ipa mode`.
    assert not any(word.startswith("--mode") for word in container_of(active)["args"])


ROLES = [
    ("kubernetes", "", 6),
    ("deployments", "deployments-", 6),
    # Without writers and an election.
    ("scale,mode=advisory,replicas=1", "", 3),
]


@pytest.mark.parametrize(("target", "prefix", "number"), ROLES)
def test_the_roles_are_those_of_deploy_rbac(target: str, prefix: str, number: int) -> None:
    everything = charted(*EVERYWHERE, f"--set=target={target}")
    roles = [each for each in everything.values() if each["kind"] in {"Role", "ClusterRole"}]
    assert len(roles) == number
    for role in roles:
        stem = role["metadata"]["name"].rpartition("-")[2]
        stem = f"{prefix if stem in ('observer', 'actor') else ''}{stem}"
        whole = yaml.safe_load((ROOT / "deploy" / "rbac" / f"{stem}.yaml").read_text())
        assert role["rules"] == whole["rules"]
        assert role["kind"] == whole["kind"]
    resources = {name for role in roles for rule in role["rules"] for name in rule["resources"]}
    words = {word for role in roles for rule in role["rules"] for field in rule.values() for word in field}
    assert "secrets" not in resources
    assert "*" not in words


def test_every_role_is_bound_to_the_account_that_the_pod_runs_as(objects: Objects) -> None:
    account = only(objects, "ServiceAccount")["metadata"]["name"]
    assert pod_of(objects)["serviceAccountName"] == account
    subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
    for (kind, namespace, name), each in objects.items():
        if kind not in {"Role", "ClusterRole"}:
            continue
        binding = objects[f"{kind}Binding", namespace, name]
        assert binding["subjects"] == [subject]
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        assert each["rules"]


def test_the_pod_is_of_the_restricted_standard(objects: Objects) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, and a root that is read only."""
    pod, container = pod_of(objects), container_of(objects)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all("hostPort" not in port for port in container["ports"])
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "projected", "secret", "persistentVolumeClaim"}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def environment(objects: Objects) -> dict[str, str]:
    """The settings that the pod is given; a stand-in for what a Secret holds."""
    return {
        each["name"]: each.get("value", "postgresql+psycopg://ipa@db/ipa")
        for each in container_of(objects)["env"]
    }


def test_the_service_takes_its_settings_and_arguments(objects: Objects) -> None:
    env = environment(objects)
    settings = Settings.from_env({k: v for k, v in env.items() if k.startswith(PREFIX)})
    # It listens to others, so it has to know who they are.
    assert settings.host == "0.0.0.0"
    check_listening(settings)
    assert settings.target == "kubernetes"
    assert {k for k in env if not k.startswith(PREFIX)} <= {"GRB_LICENSE_FILE", "HTTPS_PROXY"}
    # A Service named ipa would else set IPA_PORT to an address, which is refused.
    assert pod_of(objects)["enableServiceLinks"] is False
    verb, *words = container_of(objects)["args"]
    command = get_command(build_app()).commands[verb]  # type: ignore[attr-defined]
    assert command.make_context(verb, list(words)).params["log"]


def test_probes_and_scrapes_ask_what_the_service_answers_to_all(objects: Objects) -> None:
    container = container_of(objects)
    port, *keda = container["ports"]
    assert environment(objects)["IPA_PORT"] == str(port["containerPort"])
    for each in keda:
        assert environment(objects)["IPA_KEDA_PORT"] == str(each["containerPort"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert get["port"] == port["name"]
        assert RULES["GET", get["path"]] == OPEN
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def selectors(value: Any) -> Iterator[Json]:
    """Every set of labels that something is chosen by."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "matchLabels":
                yield each
            yield from selectors(each)
    elif isinstance(value, list):
        for each in value:
            yield from selectors(each)


def test_everything_chooses_these_pods(objects: Objects) -> None:
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    chosen = list(selectors(list(objects.values())))
    assert len(chosen) >= 3
    assert all(each.items() <= labels.items() for each in chosen)
    service = only(objects, "Service")
    assert service["spec"]["selector"] == labels
    ports = {each["targetPort"] for each in service["spec"]["ports"]}
    assert ports == {each["name"] for each in container_of(objects)["ports"]}


def test_secrets_are_named_and_never_written(objects: Objects) -> None:
    assert not any(kind == "Secret" for kind, _, _ in objects)
    values = [each["value"] for each in container_of(objects)["env"] if "value" in each]
    assert not any("postgresql" in value or "whsec_" in value for value in values)


def test_two_replicas_survive_a_node_and_an_update() -> None:
    objects = charted()
    spec = only(objects, "Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert only(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    spread = spec["template"]["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    # What stops the service takes 15 s for a tick under way and more for its handing over.
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 45


def test_one_replica_writes_its_own_file() -> None:
    objects = charted(*SQLITE)
    claim = only(objects, "PersistentVolumeClaim")["metadata"]
    (volume,) = (v for v in pod_of(objects)["volumes"] if v["name"] == "store")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["name"]
    (mount,) = (m for m in container_of(objects)["volumeMounts"] if m["name"] == "store")
    path = environment(objects)["IPA_STORE_URL"].removeprefix("sqlite:///")
    assert path.startswith(mount["mountPath"])
    # Two pods never have it open at once.
    assert only(objects, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert not any(kind == "PodDisruptionBudget" for kind, _, _ in objects)
    # An update of one replica still elects: there is a Lease to hold.
    assert ("Role", NAMESPACE, "ipa-elector") in objects


def test_the_volume_holds_what_the_default_settings_keep() -> None:
    claim = only(charted(*SQLITE), "PersistentVolumeClaim")
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert size.endswith("Gi")
    decisions_bytes = Retention().decisions_bytes
    assert decisions_bytes is not None
    # Ten years of a hundred pipelines that change three times a day, half a kilobyte each.
    changes_bytes = 10 * 365 * 100 * 3 * 500
    plans_bytes = MOST_PLANS * 4_000
    # Rows that were removed leave room in the file, which is used again but not given back.
    stored_bytes = 1.5 * decisions_bytes + changes_bytes + plans_bytes + MOST_WAL_BYTES
    # A backup on the same volume, and the part that a healthy disk has free.
    assert int(size.removesuffix("Gi")) * 1024**3 * (1 - LOW_RATIO) >= 2 * stored_bytes


def mounted(objects: Objects, volume: str, folder: Path, version: str = "..2026_11_25") -> Path:
    """The volume as a kubelet lays it out: files behind links of links, which an update swaps at once."""
    (match,) = (v for v in pod_of(objects)["volumes"] if v["name"] == volume)
    data = folder / version
    data.mkdir(parents=True)
    for source in match["projected"]["sources"]:
        config = objects["ConfigMap", NAMESPACE, source["configMap"]["name"]]
        for item in source["configMap"]["items"]:
            path = data / item["path"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(config["data"][item["key"]])
    before = (folder / "..data").resolve()
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if before.name != "..data":
        shutil.rmtree(before)
    for each in sorted(data.iterdir()):
        if not (folder / each.name).is_symlink():
            (folder / each.name).symlink_to(Path("..data") / each.name)
    return folder


def test_the_service_reads_the_pipelines_that_are_mounted(tmp_path: Path) -> None:
    objects = charted(*FILES)
    settings = Settings.from_env(environment(objects))
    mounts = {m["name"]: m["mountPath"] for m in container_of(objects)["volumeMounts"]}
    assert mounts["pipelines"] == str(settings.pipelines_dir)
    assert mounts["profiles"] == str(settings.profiles_dir)
    pipelines = mounted(objects, "pipelines", tmp_path / "pipelines")
    profiles = mounted(objects, "profiles", tmp_path / "profiles")
    name, stages = PIPELINE
    assert load_pipelines(pipelines) == {name: load_pipelines(ROOT / "pipelines")[name]}
    read = load_profiles(profiles, name)
    assert set(read) == set(stages)
    assert read == load_profiles(ROOT / "profiles", name)


def test_changed_files_are_swapped_below_the_running_service_or_replace_its_pods(tmp_path: Path) -> None:
    other = tmp_path / "pipeline.yaml"
    other.write_text(
        (ROOT / "pipelines/video/pipeline.yaml").read_text().replace("latency: 1s", "latency: 2s")
    )
    changes = [*FILES, f"--set-file=pipelines.video.pipeline={other}"]
    objects, changed = charted(*FILES), charted(*changes)
    assert only(changed, "Deployment") == only(objects, "Deployment")
    restart = "--set=pipelineChanges=restart"
    assert only(charted(*changes, restart), "Deployment") != only(charted(*FILES, restart), "Deployment")
    folder = mounted(objects, "pipelines", tmp_path / "pipelines")
    profiles = mounted(objects, "profiles", tmp_path / "profiles")
    now = datetime(2027, 1, 1, tzinfo=UTC)
    files = FileEdits(folder, profiles, lambda: now, wall_s=lambda: time() + 60)
    running, known = files.load(), {"video": load_profiles(profiles, "video")}
    assert running["video"].sla.latency_s == 1.0 and set(known["video"]) == set(PIPELINE[1])
    mounted(changed, "pipelines", folder, "..2026_11_26")
    taken: list[float] = []
    files.look(running, known, lambda pipeline, *_: taken.append(pipeline.sla.latency_s))
    assert taken == [2.0], "a look at the files notices the swap"


def test_a_pipeline_of_a_namespace_without_rights_is_refused() -> None:
    done = helm(*FILES, "--set=namespaces={models,vision}")
    assert done.returncode != 0
    assert "pipelines.video: its file says seldon.namespace default" in done.stderr
    assert "rights in models, vision only" in done.stderr


def test_the_image_is_of_a_registry_that_is_named_and_by_its_digest_if_there_is_one() -> None:
    digest = f"sha256:{'0' * 64}"
    assert container_of(charted())["image"].startswith(f"{IMAGE}:")
    assert container_of(charted(f"--set=image.digest={digest}"))["image"] == f"{IMAGE}@{digest}"
    for repository in ("", "ipa-serving/service", "service"):
        done = helm(f"--set=image.repository={repository}")
        assert (
            done.returncode != 0
            and "names no registry: push the image of `make images` to yours" in done.stderr
        )


REFUSED = {
    "image.digest=latest": "digest",
    "pipelineChanges=never": "pipelineChanges",
    "replicas=2,store.kind=sqlite": "replicas",
    "replica=3": "replica",
    "mode=guarded": "mode",
    "auth.methods=null": "methods",
    "auth.methods={}": "methods",
    "auth.methods={oidc}": "methods",
    "settings.tick=5": "tick",
    "settings.prometheus_token=x": "prometheus_token",
    "store.url=postgresql://x": "url",
    "prometheus.url=http://user:word@prometheus": "prometheus",
    "resources.limits.gpu=1": "gpu",
    "image.tag=1": "tag",
    "target=scale,replicas=1,mode=active": "mode",
    "target=scale": "replicas",
}


@pytest.mark.parametrize("values", REFUSED)
def test_values_that_cannot_be_meant_are_refused(values: str) -> None:
    done = helm("--set", values)
    assert done.returncode != 0
    assert REFUSED[values] in done.stderr
    assert "schema" in done.stderr or "values don't meet" in done.stderr


# The oldest that the chart says it takes (kubeVersion), and a newer one.
VERSIONS = ("1.27.0", "1.37.0")
# Of other makers: Kubernetes has no schema of them.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}
# What these take is Kubernetes' to say, or the user's own words.
ANY_KEYS = {
    *("podSelector", "namespaceSelector", "ipBlock", "items", "labels"),
    *("nodeSelector", "affinity", "valueFrom", "global"),
}


def check(objects: Objects) -> None:
    for each in objects.values():
        if each["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("way", WAYS)
def test_the_chart_renders_what_kubernetes_takes(way: str) -> None:
    check(charted(*WAYS[way]))


def test_the_overlays_are_what_kubernetes_takes() -> None:
    for mode in ("advisory", "active"):
        check(built(KUSTOMIZE / "overlays" / mode))


def test_a_misspelt_field_would_be_found() -> None:
    objects = charted()
    (deployment,) = (each for (kind, _, _), each in objects.items() if kind == "Deployment")
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        check(objects)


def open_objects(schema: Any, name: str = "") -> Iterator[str]:
    """The names of objects that take properties that the schema does not know."""
    if isinstance(schema, list):
        for each in schema:
            yield from open_objects(each, name)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties", True) is True:
            yield name
        for key, each in schema.items():
            yield from open_objects(each, name if key in {"properties", "additionalProperties"} else key)


def test_the_schema_takes_no_value_that_it_does_not_know() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(open_objects(schema)) <= ANY_KEYS
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) == set(schema["properties"]) - {"global"}


def test_helm_takes_the_artefact_of_the_chart_from_a_registry(tmp_path: Path) -> None:
    helm_path, skopeo, registry = tool("helm"), tool("skopeo"), tool("docker-registry")
    layout, port = tmp_path / "layout", free_port()
    archive = packaged(helm_path)
    name = add(layout, archive)
    assert add(layout, archive) == name
    assert len(json.loads((layout / "index.json").read_text())["manifests"]) == 1
    with pytest.raises(ValueError, match="no image"):
        images_in(layout)
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config = {"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    with (tmp_path / "log").open("wb") as log:
        serving = [registry, "serve", str(tmp_path / "config.yml")]
        process = start(with_parent(serving), stdout=log, stderr=log)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        until(answers)
        to = f"127.0.0.1:{port}/{name}"
        copy = [skopeo, "copy", "--dest-tls-verify=false", f"oci:{layout}:{name}", f"docker://{to}"]
        run_process(copy, check=True)
        chart, _, version = to.rpartition(":")
        named = [f"oci://{chart}", "--plain-http", f"--version={version}", f"--namespace={NAMESPACE}"]
        given = f"--set=image.repository={IMAGE}"
        done = run_process([helm_path, "template", "ipa", *named, given], check=True)
    finally:
        terminate(process, 5.0)
    assert by_name(done.stdout) == charted()
