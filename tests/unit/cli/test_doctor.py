"""`ipa doctor` over worlds in which one thing after another is wrong."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.adapters.kube.kinds import ELECTOR, REVIEWER, RbacRole, actor, observer
from ipa.adapters.processes import free_port
from ipa.adapters.store.admin import store_findings
from ipa.adapters.store.store import open_store
from ipa.bootstrap.doctor import identity_findings
from ipa.files import load_pipeline
from ipa.model import access
from ipa.model.access import Grant
from ipa.model.errors import UnavailableError
from ipa.model.findings import DoctorCheck, Finding, Severity, ok
from ipa.service import doctor as machine_checks
from ipa.service.doctor import run_checks
from ipa.settings import Settings
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.commands import Ipa
from tests.fakes.kube import FakeKube, FaultKind
from tests.faults.prometheus import FakePrometheus, Target

OBSERVER, ACTOR = observer(SELDON_DEPLOYMENT), actor(SELDON_DEPLOYMENT)
ROLES = (OBSERVER, ACTOR, ELECTOR, REVIEWER)
SDEPS = "seldondeployments"
# The others are of no namespace.
NAMESPACED = (OBSERVER, ACTOR, ELECTOR)
TODAY = date(2026, 11, 24)
Doctor = Callable[..., dict[str, Finding]]


@pytest.fixture
def house(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pipeline video and its profiles."""
    for name in ("pipelines", "profiles"):
        shutil.copytree(root / name / "video", tmp_path / name / "video")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPA_PORT", str(free_port()))
    return tmp_path


@pytest.fixture
def prometheus(root: Path) -> Iterator[FakePrometheus]:
    pipeline = load_pipeline(root / "pipelines" / "video" / "pipeline.yaml")
    with FakePrometheus(VirtualClock(), lambda _: 10.0, pipeline) as fake:
        fake.batch_s = {stage.name: 0.01 for stage in pipeline.served}
        yield fake


@pytest.fixture
def kube(root: Path) -> Iterator[FakeKube]:
    """The pipeline runs there, settled."""
    pipeline = load_pipeline(root / "pipelines" / "video" / "pipeline.yaml")
    with FakeKube() as fake:
        fake.store.create(SDEPS, "default", render(pipeline, SELDON.smallest(pipeline)))
        fake.tick(5)
        yield fake


@pytest.fixture
def doctor(
    house: Path,
    kube: FakeKube,
    prometheus: FakePrometheus,
    monkeypatch: pytest.MonkeyPatch,
    ipa: Ipa,
) -> Doctor:
    """Runs it against that cluster: what it found by name. `code` is its exit code."""
    monkeypatch.setenv("IPA_PROMETHEUS_URL", prometheus.url)
    config = kube.kubeconfig(house)
    # However busy the machine is.
    patient = ("--timeout", "120")
    for name in ("PROMETHEUS", "KUBE"):
        monkeypatch.setenv(f"IPA_{name}_TIMEOUT_S", "60")

    def findings(*arguments: str, code: int = 0) -> dict[str, Finding]:
        out = ipa("doctor", "--at", f"kubernetes:{config}", "-o", "json", *patient, *arguments, code=code).out
        return {one["name"]: Finding(**{**one, "state": Severity(one["state"])}) for one in json.loads(out)}

    return findings


def failures(findings: dict[str, Finding]) -> set[str]:
    return {name for name, one in findings.items() if one.state is Severity.FAIL}


def test_the_rights_it_looks_at_are_those_of_the_roles(root: Path) -> None:
    for role in ROLES:
        rules = yaml.safe_load((root / "deploy" / "rbac" / f"{role.name}.yaml").read_text())["rules"]
        granted = {
            (verb, group, resource)
            for rule in rules
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        assert {(right.verb, right.group, right.resource) for right in role.rights} == granted


def test_a_restricted_namespace_is_told_before_anything_is_written(doctor: Doctor, kube: FakeKube) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"kind": "Namespace", "metadata": {"name": "default", "labels": labels}}
    kube.store.create("namespaces", "", body)
    finding = doctor(code=1)["pod security for video"]
    assert finding.state is Severity.FAIL and "shape: split" in finding.seen


def test_a_world_in_which_all_is_well(doctor: Doctor) -> None:
    findings = doctor()
    assert findings["settings"].state is findings["files"].state is Severity.OK
    assert findings["api server"].seen == "v1.32.1 answers"
    assert findings["seldon crd"].seen.startswith("machinelearning.seldon.io/v1 is served")
    assert findings["seldon operator"].state is Severity.OK
    assert findings["seldondeployment of video"].seen.startswith("default/video runs crop=yolov5n")
    assert {name for name in findings if name.startswith("right in default")} == {
        f"right in default: {right}" for role in NAMESPACED for right in role.rights
    }
    assert all(one.state is Severity.OK for name, one in findings.items() if name.startswith("right in"))
    looked = ("load", "latency", "load of stages", "latency of stages", "requests in replicas")
    assert {name for name in findings if name.startswith("series of video")} == {
        f"series of video: {what}" for what in (*looked, "batches of stages")
    }
    assert all(one.state is Severity.OK for name, one in findings.items() if name.startswith("series of"))
    assert findings["lease default/ipa-serving"].seen.startswith("there is none")
    # The fake Prometheus lives in another year.
    assert findings["clock of prometheus"].state is Severity.WARN
    assert findings["clock of api server"].state is Severity.OK


def test_an_orchestrator_that_the_operator_writes_for_ever_is_named_with_its_remedy(
    doctor: Doctor, kube: FakeKube
) -> None:
    assert "orchestrator of default/video" not in doctor()
    kube.edit("default", "video", lambda sdep: sdep["spec"]["predictors"][0].pop("svcOrchSpec"))
    finding = doctor()["orchestrator of default/video"]
    assert finding.state is Severity.WARN
    assert finding.remedy.startswith("kubectl patch sdep video -n default --type=json")


def test_it_writes_nothing(doctor: Doctor, kube: FakeKube) -> None:
    before = kube.store.version
    doctor()
    assert kube.store.version == before
    assert {one.verb for one in kube.writes} <= {"create"}
    assert {one.resource for one in kube.writes} <= {"selfsubjectaccessreviews"}


@pytest.mark.parametrize("role", NAMESPACED, ids=lambda role: role.name)
def test_each_verb_that_is_missing_is_named_with_what_grants_it(
    role: RbacRole, doctor: Doctor, kube: FakeKube
) -> None:
    kube.denied = {(right.verb, right.resource) for right in role.rights}
    findings = doctor(code=int(role is OBSERVER))
    missing = {name: one for name, one in findings.items() if name.startswith("right in") and one.remedy}
    assert set(missing) == {f"right in default: {right}" for right in role.rights}
    for one in missing.values():
        assert one.state is (Severity.FAIL if role is OBSERVER else Severity.WARN)
        assert f"deploy/rbac/{role.name}.yaml" in one.remedy
        assert "--serviceaccount=NAMESPACE:NAME" in one.remedy


def test_a_role_may_allow_what_is_known_by_name_alone(doctor: Doctor, kube: FakeKube) -> None:
    """`resourceNames` in a role: an API server says no to whoever asks of all."""
    kube.denied = {("patch", SDEPS), ("get", SDEPS), ("get", "leases"), ("update", "leases"), ("list", SDEPS)}
    kube.api.named = {
        *((verb, SDEPS, "video") for verb in ("get", "patch")),
        *((verb, "leases", "ipa-serving") for verb in ("get", "update")),
        # What is listed has no name that could be asked for.
        ("list", SDEPS, "video"),
    }
    findings = doctor(code=1)
    assert failures(findings) == {f"right in default: list {SDEPS}"}
    assert findings[f"right in default: patch {SDEPS}"].seen == "allowed for video (actor)"
    assert findings["right in default: update leases"].seen == "allowed for ipa-serving (elector)"
    kube.api.named = {("get", SDEPS, "video"), ("patch", SDEPS, "another")}
    refused = doctor(code=1)[f"right in default: patch {SDEPS}"]
    assert refused.state is Severity.WARN and "not allowed for video" in refused.seen


def test_who_asks_the_cluster_whose_a_token_is_must_be_allowed_to(
    doctor: Doctor, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [name for name in doctor() if "the cluster" in name]
    monkeypatch.setenv("IPA_AUTH", "kubernetes")
    names = {f"right in the cluster: {right}" for right in REVIEWER.rights}
    assert names <= set(doctor())
    kube.denied = {("create", "tokenreviews")}
    findings = doctor(code=1)
    assert failures(findings) == {"right in the cluster: create tokenreviews"}
    assert "clusterrolebinding ipa-reviewer" in findings["right in the cluster: create tokenreviews"].remedy
    attributes = [
        one.body["spec"]["resourceAttributes"]
        for one in kube.requests
        if one.resource == "selfsubjectaccessreviews"
    ]
    of_cluster = {"tokenreviews", "subjectaccessreviews"}
    assert all(("namespace" in each) == (each["resource"] not in of_cluster) for each in attributes)


def test_a_cluster_that_does_not_answer_is_said_once(doctor: Doctor, kube: FakeKube) -> None:
    kube.fault(FaultKind.STATUS, resource="version", status=502)
    findings = doctor(code=1)
    assert failures(findings) == {"api server"}
    assert findings["seldon crd"].seen == "not checked, since 'api server' failed"
    assert findings["lease"].state is Severity.WARN


@pytest.mark.parametrize("versions", [(), ("v1alpha2",)])
def test_a_crd_that_is_missing_or_too_old(versions: tuple[str, ...], doctor: Doctor, kube: FakeKube) -> None:
    kube.api.versions = versions
    findings = doctor(code=1)
    assert failures(findings) == {"seldon crd"}
    assert "helm " in findings["seldon crd"].remedy


def test_an_operator_whose_webhook_does_not_answer(doctor: Doctor, kube: FakeKube) -> None:
    kube.fault(FaultKind.STATUS, verb="create", resource=SDEPS, status=500)
    assert failures(doctor(code=1)) == {"seldon operator"}


def test_who_may_not_create_sees_the_operator_by_what_it_did(doctor: Doctor, kube: FakeKube) -> None:
    kube.denied = {("create", SDEPS)}
    assert doctor()["seldon operator"].seen == "it has given video a status"


def test_a_hand_made_change_is_drift(doctor: Doctor, kube: FakeKube) -> None:
    def change(sdep: dict[str, object]) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["image"] = "mine"  # type: ignore[index]

    kube.edit("default", "video", change)
    findings = doctor(code=1)
    assert failures(findings) == {"seldondeployment of video"}
    assert "image is 'mine'" in findings["seldondeployment of video"].seen


def test_a_pipeline_that_is_not_deployed(doctor: Doctor, kube: FakeKube) -> None:
    kube.store.delete(SDEPS, "default", "video")
    one = doctor()["seldondeployment of video"]
    assert (one.state, one.remedy) == (Severity.WARN, "ipa render video --at kubernetes | kubectl apply -f -")


def test_a_second_service_is_seen_by_its_lease(
    doctor: Doctor, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(renewed: datetime) -> None:
        spec = {
            "holderIdentity": "ipa-0_ab",
            "leaseDurationSeconds": 15,
            "renewTime": renewed.isoformat().replace("+00:00", "Z"),
        }
        named = {"metadata": {"name": "ipa-serving"}}
        kube.store.create("leases", "default", {"kind": "Lease", **named, "spec": spec})

    hold(datetime.now(UTC))
    one = doctor()["lease default/ipa-serving"]
    assert one.state is Severity.WARN
    assert "ipa-0_ab leads, renewed" in one.seen
    assert "IPA_LEADER_ELECTION=on" in one.remedy
    monkeypatch.setenv("IPA_LEADER_ELECTION", "on")
    assert doctor()["lease default/ipa-serving"].state is Severity.OK
    monkeypatch.delenv("IPA_LEADER_ELECTION")
    kube.store.delete("leases", "default", "ipa-serving")
    hold(datetime.now(UTC) - timedelta(hours=1))
    assert "has not renewed it" in doctor()["lease default/ipa-serving"].seen


def test_a_clock_that_is_ahead_is_said(doctor: Doctor, kube: FakeKube) -> None:
    kube.skew_s = 90.0
    one = doctor()["clock of api server"]
    assert one.state is Severity.WARN
    assert "+90" in one.seen or "+89" in one.seen or "+91" in one.seen


def test_a_prometheus_that_does_not_answer_is_said_once(doctor: Doctor, prometheus: FakePrometheus) -> None:
    prometheus.is_down = lambda _: True
    findings = doctor(code=1)
    assert failures(findings) == {"prometheus"}
    assert findings["series of video"].state is Severity.WARN


def test_series_of_another_name_are_named(doctor: Doctor, prometheus: FakePrometheus) -> None:
    prometheus.pipeline = replace(prometheus.pipeline, name="vidoe")
    findings = doctor(code=1)
    assert failures(findings) == {"series of video: load"}
    assert findings["series of video: load"].seen.endswith("there is deployment_name 'vidoe'")
    assert "/targets" in findings["series of video: load"].remedy


def test_no_series_at_all_and_none_of_one_stage(doctor: Doctor, prometheus: FakePrometheus) -> None:
    first, *_ = prometheus.pipeline.stages
    prometheus.pipeline = replace(prometheus.pipeline, stages=(first,))
    findings = doctor()
    assert findings["series of video: load of stages"].state is Severity.WARN
    assert "no series of classification" in findings["series of video: load of stages"].seen


def test_stages_that_are_not_scraped_are_named_with_the_monitors(
    doctor: Doctor, prometheus: FakePrometheus
) -> None:
    prometheus.batch_s = {}
    one = doctor()["series of video: requests in replicas"]
    assert one.state is Severity.WARN
    assert one.seen == "there is no series model_infer_request_duration_count"
    assert one.remedy.startswith("kubectl apply -f deploy/prometheus/podmonitor.yaml; send the pipeline")


def test_a_label_that_the_scrape_does_not_add_is_named(
    doctor: Doctor, prometheus: FakePrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = prometheus._model_server

    def bare(*arguments: Any) -> Iterator[tuple[str, dict[str, str], float]]:
        for name, labels, value in serve(*arguments):
            yield name, {key: it for key, it in labels.items() if key != "deployment_name"}, value

    monkeypatch.setattr(prometheus, "_model_server", bare)
    one = doctor()["series of video: requests in replicas"]
    assert one.state is Severity.WARN
    assert "have no label deployment_name, which their scrape must add" in one.seen


def test_no_series_at_all(doctor: Doctor, prometheus: FakePrometheus) -> None:
    prometheus.targets = []
    one = doctor(code=1)["series of video: load"]
    assert one.seen.startswith("there is no series seldon_api_executor")
    assert one.remedy.startswith("kubectl apply -f deploy/prometheus/podmonitor.yaml; ")


def test_samples_that_are_too_old(doctor: Doctor, prometheus: FakePrometheus) -> None:
    prometheus.targets = [Target("executor", arrives=lambda second: second < -60)]
    one = doctor(code=1)["series of video: load"]
    assert "is 61 s old, the limit is 15 s" in one.seen


def test_settings_that_cannot_be_used_are_all_there_is_to_say(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPA_PROMETEUS_URL", "http://x")
    findings = doctor(code=1)
    assert set(findings) == {"settings"}
    assert "did you mean IPA_PROMETHEUS_URL?" in findings["settings"].seen


def test_files_that_cannot_be_used(doctor: Doctor, house: Path) -> None:
    path = house / "pipelines" / "video" / "pipeline.yaml"
    path.write_text(path.read_text().replace("latency: 1s", "latency: 1"))
    one = doctor(code=1)["files"]
    assert one.state is Severity.FAIL
    assert one.remedy == "ipa validate"
    assert "pipeline.yaml:8:16" in one.seen


def test_variants_that_were_not_measured(house: Path) -> None:
    settings = Settings()
    pipeline = load_pipeline(house / "pipelines" / "video" / "pipeline.yaml")
    profile = house / "profiles" / "video" / "crop.yaml"
    profile.write_text(profile.read_text().replace("variant: yolov5x", "variant: other"))
    (missing, age, fit) = machine_checks.profile_findings(settings, pipeline, TODAY)
    assert (missing.state, missing.seen) == (Severity.FAIL, "not measured: crop yolov5x")
    assert missing.remedy == "ipa profile video --at URL --write"
    assert (age.state, fit.state) == (Severity.WARN, Severity.WARN)
    assert "crop 1058 days" in age.seen
    profile.unlink()
    assert "stage crop" in next(iter(machine_checks.profile_findings(settings, pipeline, TODAY))).seen
    assert len(list(machine_checks.profile_findings(settings, pipeline, date(2024, 1, 2)))) == 2


def test_solvers_agree_and_auto_s_choice_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipa.optimize.backends.gurobi_licence.own_licence", lambda: "")
    findings = {one.name: one for one in machine_checks.solver_findings(Settings(solver="exact"))}
    values = {name: one.seen.split(",")[1] for name, one in findings.items() if name.startswith("solver")}
    assert set(values) == {"solver gurobi", "solver highs", "solver exact"}
    assert len(set(values.values())) == 1
    assert "auto takes label setting" in findings["solver gurobi"].seen


def test_the_store_is_looked_at_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "ipa.sqlite3"
    settings = Settings(store_url=f"sqlite:///{path}")
    assert "does not exist yet" in next(store_findings(settings)).seen
    assert not path.exists()
    open_store(settings.store_url).close()
    assert "the newest" in next(store_findings(settings)).seen
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 40)
    assert next(store_findings(settings)).state is Severity.FAIL


def test_who_may_ask(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/ipa.sqlite3"

    def looked(**changes: str) -> list[Finding]:
        return list(identity_findings(Settings(store_url=store, **changes)))  # type: ignore[arg-type]

    assert [one.state for one in looked()] == [Severity.OK]
    (open_to_all,) = looked(host="0.0.0.0")
    assert (open_to_all.state, open_to_all.remedy[:21]) == (Severity.FAIL, "export IPA_AUTH=keys ")
    assert [one.seen for one in looked(auth="keys", host="0.0.0.0")] == ["there is no valid API key"]
    assert not (tmp_path / "ipa.sqlite3").exists()
    keys_store = open_store(store)
    keys_store.keys.create("ann", Grant(access.Role.OPERATOR), now=datetime.now(UTC), expires_at=None)
    keys_store.close()
    assert [one.seen for one in looked(auth="keys")] == ["1 valid API keys"]


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert next(machine_checks.port_findings(Settings(port=port))).state is Severity.WARN


def test_nothing_hangs_and_what_is_late_is_said() -> None:
    never = threading.Event()

    def hang() -> list[Finding]:
        never.wait()
        return []

    def broken() -> list[Finding]:
        raise ZeroDivisionError("of its own")

    def away() -> list[Finding]:
        raise UnavailableError("it is away", hint="call it back")

    findings = run_checks(
        [
            DoctorCheck("late", hang),
            DoctorCheck("second", lambda: [ok("second", "in its turn")], turn="one"),
            DoctorCheck("third", lambda: [ok("third", "after it")], after="second", turn="one"),
            DoctorCheck("never", lambda: [ok("never", "")], after="late"),
            DoctorCheck("broken", broken),
            DoctorCheck("away", away),
            DoctorCheck("empty", list),
        ],
        0.2,
    )
    never.set()
    assert [(one.name, one.state) for one in findings] == [
        ("late", Severity.FAIL),
        ("second", Severity.OK),
        ("third", Severity.OK),
        ("never", Severity.WARN),
        ("broken", Severity.FAIL),
        ("away", Severity.FAIL),
    ]
    assert findings[0].seen == "no answer within 0.2 s"
    assert findings[-1].remedy == "call it back"


def test_checks_of_one_turn_never_run_at_once() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def look() -> list[Finding]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        with lock:
            running[0] -= 1
        return []

    run_checks([DoctorCheck(str(at), look, turn="cpu") for at in range(20)], 10.0)
    assert most == [1]


def test_text_for_people(house: Path, ipa: Ipa) -> None:
    assert house
    out = ipa("doctor", "video").out
    assert "ok   settings: every IPA_ variable is known" in out
    assert "       → " in out
    assert out.splitlines()[-1].endswith("0 failures")
