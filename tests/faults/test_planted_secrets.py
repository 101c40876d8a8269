"""R17 of a running service: a secret in every setting, looked for in everything that it tells or keeps."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ipa.api.auth import RULES
from ipa.api.wiring import make_context
from ipa.bootstrap.app import App, build
from ipa.bootstrap.stores import back_up
from ipa.bootstrap.targets import ServeOptions
from ipa.cli.main import run
from ipa.clients.http import HttpClient
from ipa.control.engine.state import ChangeRequest
from ipa.files import dump_pipeline, dump_profile
from ipa.model.access import Grant, Role
from ipa.model.decision import Mode
from ipa.model.errors import IpaError
from ipa.model.plan import StageConfig
from ipa.settings import Settings, setting_fault
from ipa.targets.requests import MeasuredServer
from ipa.targets.seldon.manifest import render
from tests.contract.gitops_harness import git
from tests.contract.kube_harness import NAME, contract_pipeline
from tests.fakes.kube import FakeKube
from tests.fakes.people import token
from tests.fakes.policy_contract import PROFILES
from tests.fakes.services import ApiClient, FakeWorld, InProcess
from tests.faults.table import Case

CANARY = "canary5f1c9e"
# A path is appended to a base URL, so that it takes neither query nor fragment.
REFUSED = {
    "prometheus_url": ("user", "query", "fragment"),
    "gateway_url": ("user", "query", "fragment"),
}
FIRST = (StageConfig("first", "first-s", 1, 1.0, 1), StageConfig("second", "second-s", 1, 1.0, 1))
MORE = (replace(FIRST[0], replicas=2), FIRST[1])


def test_r17_urls_that_are_passed_on_hold_no_credential(case: Case) -> None:
    forms = {
        "user": f"http://ada:{CANARY}@host:1/x",
        "query": f"http://host:1/x?{CANARY}",
        "fragment": f"http://host:1/x#{CANARY}",
    }
    wrong = []
    for name, parts in REFUSED.items():
        for part, url in forms.items():
            fault = setting_fault(name, url)
            is_refused = "must not contain" in fault and len(fault.split("; ")) == 2 and CANARY not in fault
            if is_refused is not (part in parts) or (not is_refused and fault):
                wrong.append(f"{name}, {part}: {fault}")
    case.note("URLs", len(REFUSED) * len(forms))
    case.equal("wrong", wrong, [])


def test_r17_addresses_are_told_and_kept_without_their_user(
    case: Case, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path
) -> None:
    """Smoke requests, a measurement, doctor, and a plan that is kept with its --at."""
    monkeypatch.chdir(tmp_path)
    for name in ("pipelines", "profiles"):
        (tmp_path / name).symlink_to(root / name)
    plan = tmp_path / "plan.json"
    url, texts = f"http://ada:{CANARY}@127.0.0.1:1", dict[str, str]()
    request = tmp_path / "request.json"
    request.write_text('{"inputs": []}')
    for words in (
        ["probe", "video", "-r", str(request), "--url", url],
        ["probe", "video", "-r", str(request), "--gateway", url, "-o", "json"],
        ["probe", "video", "-r", str(request), "--url", url.replace("http", "ftp")],
        ["doctor", "video", "--at", url],
        ["fit", "video", "--at", url.replace("http", "ftp")],
        ["import", "video", "--at", url],
    ):
        run(words)
        texts[" ".join(words[:4])] = "".join(capfd.readouterr())
    item = [{"name": "x", "shape": [1], "datatype": "INT32", "data": [1]}]
    with httpx.Client(trust_env=False) as client, pytest.raises(IpaError) as caught:
        MeasuredServer(client, url).infer([item])
    texts["a batch"] = caught.value.message
    world = InProcess(FakeWorld().play(3).services())
    monkeypatch.setattr("ipa.clients.http.client_at", lambda at, *_: HttpClient(at, world))
    run(["plan", "ocr", "--rate", "4", "--at", url, "--out", str(plan)])
    texts["a plan"] = "".join(capfd.readouterr()) + plan.read_text()
    case.note("places", len(texts))
    case.equal("hits", [f"{what}: {text}" for what, text in texts.items() if CANARY in text], [])
    case.equal("address of the plan", json.loads(plan.read_text())["service"], "http://127.0.0.1:1")


def test_r17_a_running_service_tells_no_secret_of_its_settings(
    case: Case, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each setting is used, and most fail: answers, metrics, record, backup, events, commits and objects."""
    caplog.set_level(logging.DEBUG)
    names = ("prometheus", "token", "store", "remote", "caller")
    secrets = {name: f"{CANARY}{name}" for name in names}
    with FakeKube() as kube:
        settings = _planted(tmp_path, kube, secrets)
        kube.store.create("seldondeployments", "default", render(contract_pipeline(), FIRST))
        kube.tick(4)
        app = build(settings, ServeOptions(mode=Mode.ACTIVE))
        _, key = app.store.keys.create("ada", Grant(Role.OPERATOR), now=app.clock.now())
        secrets["key"] = key[-20:]
        loop = app.loops[NAME]
        texts = {"first tick": str(loop.tick_once())}
        texts["change"] = str(loop.tick_once(ChangeRequest(MORE, "requested by ada")))
        texts["last tick"] = str(loop.tick_once())
        texts |= _answers(app, key, secrets)
        app.close()
        texts["objects"] = repr([event.object for event in kube.store.log])
    backup = tmp_path / "backup.sqlite3"
    texts["backup made"] = str(back_up(settings, backup, lambda *_: None))
    texts["backup"] = backup.read_bytes().decode("latin-1")
    texts["commits"] = git(tmp_path / "clone", "log", "--all", "--format=%B")
    texts["log"] = "\n".join(it.getMessage() for it in caplog.records if not it.name.startswith("http"))
    texts["console"] = "".join(capfd.readouterr())
    case.note("places", len(texts))
    # Otherwise nothing could be found.
    case.equal("the push failed and is told", "127.0.0.1:1/" in texts["change"], True)
    hits = [
        f"{name} in {where}: {text[max(text.index(it) - 80, 0) :][:160]}"
        for where, text in texts.items()
        for name, it in secrets.items()
        if it in text
    ]
    case.equal("hits", hits, [])


def _planted(folder: Path, kube: FakeKube, secrets: Mapping[str, str]) -> Settings:
    """The settings of a service over files of its own, a secret in each that may hold one."""
    files = {"pipelines": folder / "pipelines" / NAME, "profiles": folder / "profiles" / NAME}
    for each in files.values():
        each.mkdir(parents=True)
    (files["pipelines"] / "pipeline.yaml").write_text(dump_pipeline(contract_pipeline()))
    for stage, known in zip(("first", "second"), PROFILES.values(), strict=True):
        variants = tuple(
            replace(each, variant=f"{stage}-{size}") for each, size in zip(known.variants, "sl", strict=True)
        )
        profile = replace(known, pipeline=NAME, stage=stage, variants=variants)
        (files["profiles"] / f"{stage}.yaml").write_text(dump_profile(profile))
    remote, clone = folder / "remote.git", folder / "clone"
    git(folder, "init", "--quiet", "--bare", "-b", "main", str(remote))
    git(folder, "clone", "--quiet", str(remote), str(clone))
    (clone / f"{NAME}.yaml").write_text(json.dumps(render(contract_pipeline(), FIRST)))
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "-m", "first")
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    address = "http://ada:{0}@127.0.0.1:1/x.git?password={0}".format(secrets["remote"])
    git(clone, "remote", "set-url", "origin", address)
    return Settings(
        pipelines_dir=folder / "pipelines",
        profiles_dir=folder / "profiles",
        store_url=f"sqlite:///file:{folder}/ipa.sqlite3?uri=true&password={secrets['store']}",
        target="kubernetes",
        kubeconfig=str(kube.kubeconfig(folder)),
        prometheus_url=f"http://127.0.0.1:9/{secrets['prometheus']}",
        prometheus_token=secrets["token"],
        auth="keys,kubernetes",
        actuation="gitops",
        gitops_dir=str(clone),
        gitops_path="{pipeline}.yaml",
        gitops_branch="main",
        gitops_remote="origin",
        solver="exact",
        tick_s=3600.0,
    )


def _answers(app: App, key: str, secrets: Mapping[str, str]) -> dict[str, str]:
    """Every GET, by an operator, by a caller that is not known, and by nobody."""
    api, texts = ApiClient(make_context(app)), dict[str, str]()
    (decision,) = app.store.decisions(NAME, limit=1)
    callers = {
        "operator": {"Authorization": f"Bearer {key}"},
        "stranger": {"Authorization": f"Bearer {token('ops', canary=secrets['caller'])}"},
        "nobody": {},
    }
    for method, route in RULES:
        path = route.replace("{pipeline}", NAME).replace("{stage}", "first")
        path = path.replace("{decision_id}", decision.decision_id).replace("{plan_id}", "x")
        if method == "GET" and path != "/v1/events":
            for who, headers in callers.items():
                answer = api.get(f"{path}?verbose" if path == "/readyz" else path, headers=headers)
                texts[f"{path} by {who}"] = f"{answer.headers}{answer.text}"
    return texts
