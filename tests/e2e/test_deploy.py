"""`ipa deploy` and the jobs that call it, against a real service whose replicas are real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiments.attack.kills import STUB
from ipa.cli.deploying import CALM
from ipa.cli.main import run
from ipa.clients.http import HttpClient
from ipa.files import parse, pipeline_in, pipeline_to_mapping
from ipa.model.errors import ConflictError
from ipa.model.plan import StageConfig
from ipa.service.preconditions import ChangeOrder, at_revision
from tests.e2e.test_ci_workflows import Runner, github_step, gitlab_script
from tests.fakes.reviewed import edit, git
from tests.fakes.waiting import until

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt-get install git"),
    pytest.mark.local,
    pytest.mark.xdist_group("local"),
    pytest.mark.timeout(300),
]
WAIT_S = 120.0
FILE, PROFILE = "pipelines/echo/pipeline.yaml", "profiles/echo/say.yaml"
# The most accurate variant within the cores: low; high, which fails on demand; one that never starts.
LOW, HIGH, BROKEN = "cores: 0.25,", "cores: 0.5,", "cores: 1,"
PIPELINE = """\
apiVersion: ipa/v1
kind: Pipeline
name: echo
sla: {latency: 900ms, percentile: 99}
drop_after: 9s
graph: [say]
bounds: {cores: 0.25, transition_cores: 4, max_replicas: 1, batch_sizes: [1]}
default_objective: default
objectives:
  default: {alpha: 1, beta: 0.001, delta: 1e-6, accuracy: {rule: product}, threshold: 1rps}
probe: {request: {inputs: [{name: x, datatype: INT64, shape: [1], data: [7]}]}}
stages:
  - name: say
    batch_timeout: 10ms
    variants:
      - name: low
        local: {implementation: a.Stub, command: ["{python}", STUB, "{port}", --adds, "1"]}
      - name: high
        local: {implementation: a.Stub, command: ["{python}", STUB, "{port}", --adds, "2", --fails, BAD]}
      - name: broken
        local: {implementation: a.Stub, command: ["{python}", -c, "raise SystemExit('no model here')"]}
"""
MEASURED = """\
apiVersion: ipa/v1
kind: Profile
pipeline: echo
stage: say
hardware: tests
measured_on: 2026-11-28
method: made up
source: tests
variants:
"""
VARIANTS = {"low": (0.5, 0.25), "high": (0.7, 0.5), "broken": (0.9, 1.0)}


def write(folder: Path, bad: Path) -> None:
    """The files of the pipeline in that folder."""
    for name in (FILE, PROFILE):
        (folder / name).parent.mkdir(parents=True)
    (folder / FILE).write_text(PIPELINE.replace("STUB", str(STUB)).replace("BAD", str(bad)))
    (folder / PROFILE).write_text(
        MEASURED
        + "".join(
            f"  - {{variant: {name}, accuracy: {accuracy}, readiness: 1s, "
            f"points: [{{cores: {cores}, batch: 1, latency: 20ms, throughput: 50rps}}]}}\n"
            for name, (accuracy, cores) in VARIANTS.items()
        )
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[tuple[Path, str]]:
    """The folder of a running service, and its address."""
    folder = tmp_path_factory.mktemp("service")
    write(folder, folder / "bad")
    command = [sys.executable, "-c", "from ipa.cli.main import main; main()", "serve", "echo"]
    given = ["--target", "local", "--port", "0", "--mode", "active", "--rate", "1", "--folder", "kept"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IPA_")}
    environment = {
        **kept,
        "PYTHONPATH": str(root),
        "PYTHONUNBUFFERED": "1",
        "IPA_STORE_URL": f"sqlite:///{folder / 'ipa.sqlite3'}",
        "IPA_TICK_S": "1",
        "IPA_DOWN_AFTER_TICKS": "1",
        "IPA_CALIBRATE": "off",
    }
    with (
        (folder / "log.txt").open("w") as log,
        subprocess.Popen(
            [*command, *given], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as service,
    ):
        try:
            assert service.stdout is not None
            url = next((line.split()[-1] for line in service.stdout if "http://" in line), "")
            assert url, (folder / "log.txt").read_text()
            yield folder, url
        finally:
            service.send_signal(signal.SIGINT)
            service.wait(60)


def running(service: HttpClient) -> list[str]:
    return [stage["config"]["variant"] for stage in service.status("echo")["live"]["stages"]]


@pytest.fixture
def service(house: tuple[Path, str]) -> Iterator[HttpClient]:
    """The service with the pipeline as it was at its start."""
    folder, url = house
    (folder / "bad").unlink(missing_ok=True)
    file = pipeline_to_mapping(pipeline_in(parse((folder / FILE).read_text(), "")))
    with HttpClient(url) as client:

        def is_as_before() -> bool:
            text, version = client.file("echo")
            if pipeline_to_mapping(pipeline_in(parse(text, ""))) != file:
                with suppress(ConflictError):
                    client.replace("echo", file, version=version, by="tests", reason="")
                return False
            live = client.status("echo")["live"]
            if running(client) != ["low"]:
                with suppress(ConflictError):
                    # By itself it would wait for its stabiliser.
                    wanted = [StageConfig("say", "low", 1, 0.25, 1)]
                    client.apply("echo", wanted, ChangeOrder(at_revision(live["revision"]), "tests"))
                return False
            return live["settled"] and live["phase"] in CALM

        until(is_as_before, WAIT_S)
        yield client


Ipa = Callable[..., tuple[int, str, str]]


@pytest.fixture
def repository(tmp_path: Path, house: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose main has the files of the service."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    write(folder, house[0] / "bad")
    (folder / "load.txt").write_text("2\n" * 30)
    git(folder, "init", "--quiet", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "checkout", "--quiet", "-b", "change")
    monkeypatch.chdir(folder)
    for name in ("IPA_PIPELINES_DIR", "IPA_PROFILES_DIR", "IPA_AT", "IPA_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def ipa(repository: Path, house: tuple[Path, str], capfd: pytest.CaptureFixture[str]) -> Ipa:
    def command(*words: str) -> tuple[int, str, str]:
        code = run([*words])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return command


def review(ipa: Ipa, repository: Path, cores: str) -> None:
    """Change the bound of cores, review it, and commit it as a merge would."""
    edit(repository / FILE, (LOW, cores))
    words = ("--base", "main", "--seeds", "1", "--trace", "load.txt", "--approval", "approval.json")
    code, out, err = ipa("ci", *words)
    assert code in (0, 2), out + err
    git(repository, "commit", "--quiet", "-am", "more cores")


def deploy(ipa: Ipa, url: str, *words: str) -> tuple[int, str, str]:
    return ipa("deploy", "approval.json", "--at", url, "--by", "ci", "--reason", "c0ffee", *words)


def test_what_was_reviewed_is_pushed_settles_and_answers(
    ipa: Ipa, repository: Path, house: tuple[Path, str], service: HttpClient
) -> None:
    review(ipa, repository, HIGH)
    code, out, err = deploy(ipa, house[1], "-o", "json")
    assert (code, json.loads(out)) == (0, {"deployed": ["echo"], "left": []}), err
    assert running(service) == ["high"]
    assert "echo: push" in err and "echo: send a request" in err
    answer = ipa("infer", "echo", "--at", house[1], "-o", "json")
    assert json.loads(answer[1])["outputs"][0]["data"] == [9]


def test_what_was_not_reviewed_is_refused_and_nothing_is_sent(
    ipa: Ipa, repository: Path, house: tuple[Path, str], service: HttpClient
) -> None:
    review(ipa, repository, HIGH)
    before = service.file("echo")
    edit(repository / FILE, ("drop_after: 9s", "drop_after: 8s"))
    code, _, err = deploy(ipa, house[1])
    assert code == 4 and "pipelines/echo/pipeline.yaml was changed: sha256" in err
    edit(repository / FILE, ("drop_after: 8s", "drop_after: 9s"))
    (repository / "profiles/echo/more.yaml").write_text("")
    code, _, err = deploy(ipa, house[1])
    assert code == 4 and "profiles/echo/more.yaml is new" in err
    (repository / "profiles/echo/more.yaml").unlink()
    approval = repository / "approval.json"
    approval.write_text(approval.read_text().replace('"version"', '"version "'))
    code, _, err = deploy(ipa, house[1])
    assert code == 65 and "its digest does not match" in err
    assert service.file("echo") == before


def test_plans_that_are_not_those_of_the_review_are_refused(
    ipa: Ipa, repository: Path, house: tuple[Path, str], service: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    review(ipa, repository, HIGH)
    before = service.file("echo")
    from ipa.cli.planning.sealed import read_sealed, write_sealed

    approval = repository / "approval.json"
    values: dict[str, Any] = read_sealed(approval, "Approval", "", "")
    for plan in values["pipelines"][0]["plans"]:
        plan["configs"][0]["variant"] = "low"
    write_sealed(
        approval, "Approval", {key: values[key] for key in values if key not in ("apiVersion", "kind")}
    )
    code, _, err = deploy(ipa, house[1])
    assert code == 4 and "the plan of echo for p95, 2 rps: say=low" in err and "say=high" in err
    assert service.file("echo") == before


def test_a_request_that_is_not_answered_takes_all_back(
    ipa: Ipa, repository: Path, house: tuple[Path, str], service: HttpClient
) -> None:
    review(ipa, repository, HIGH)
    (house[0] / "bad").touch()
    code, out, err = deploy(ipa, house[1])
    assert (code, out) == (5, ""), err
    assert "does not answer its smoke request" in err and "the service is as it was before: echo" in err
    assert "cores: 0.25" in service.file("echo")[0] and running(service) == ["low"]
    assert service.status("echo")["healthy"]


def test_a_rollout_that_fails_takes_all_back(
    ipa: Ipa, repository: Path, house: tuple[Path, str], service: HttpClient
) -> None:
    review(ipa, repository, BROKEN)
    code, out, err = deploy(ipa, house[1])
    assert (code, out) == (5, ""), err
    assert "no model here" in err and "the service is as it was before: echo" in err
    assert "cores: 0.25" in service.file("echo")[0]
    until(lambda: running(service) == ["low"], WAIT_S)


def test_a_review_that_does_not_pass_approves_nothing(ipa: Ipa, repository: Path) -> None:
    (repository / "guardrails.yaml").write_text(
        "apiVersion: ipa/v1\nkind: Guardrails\ntrace: load.txt\nfail_if: cores_mean > 0.1\n"
    )
    (repository / "approval.json").write_text("an earlier one")
    edit(repository / FILE, (LOW, HIGH))
    code, _, _ = ipa("ci", "--base", "main", "--seeds", "1", "--approval", "approval.json")
    assert code == 3 and not (repository / "approval.json").exists()
    code, _, err = ipa("deploy", "approval.json")
    assert code == 65 and "ipa ci --base REF --approval FILE" in err


# Stand-ins of the platforms' clients: a merged change whose review left an approval.
GH = """#!/bin/sh
case "$*" in
  *commits/c0ffee/pulls*) echo 5eed ;;
  *runs?event=pull_request*head_sha=5eed*) echo 7 ;;
  "run download 7 --repo ann/shop --name ipa-approval") cp ../approval.json . ;;
esac
"""
CURL = """#!/bin/sh
case "$*" in
  *commits/c0ffee/merge_requests) echo '[{"iid": 8, "state": "opened"}, {"iid": 7, "state": "merged"}]' ;;
  *refs%2Fmerge-requests%2F7%2Fhead/raw/approval.json?job=ipa-review) cp ../approval.json . ;;
esac
"""


@pytest.mark.parametrize("platform", ["github", "gitlab"])
def test_the_jobs_deploy_what_their_platform_has_reviewed(
    ipa: Ipa, repository: Path, house: tuple[Path, str], service: HttpClient, platform: str
) -> None:
    review(ipa, repository, HIGH)
    shutil.move(repository / "approval.json", repository.parent / "approval.json")
    tools = repository.parent / "tools"
    tools.mkdir()
    for name, text in (("gh", GH), ("curl", CURL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    runner = Runner(repository, tools)
    given = {"IPA_AT": house[1]}
    if platform == "github":
        given |= {"REPOSITORY": "ann/shop", "COMMIT": "c0ffee", "ACTOR": "ann"}
        steps = [github_step(name, "deploy")["run"] for name in ("Find the approval", "Deploy")]
    else:
        given |= {"CI_API_V4_URL": "https://gitlab.example/api/v4", "CI_PROJECT_ID": "5"}
        given |= {"CI_COMMIT_SHA": "c0ffee", "IPA_REVIEW_TOKEN": "secret", "GITLAB_USER_LOGIN": "ann"}
        steps = [gitlab_script("ipa-deploy")]
    for script in steps:
        done = runner(script, **given)
        assert done.returncode == 0, done.stdout + done.stderr
    assert running(service) == ["high"], done.stderr
    # A commit that came by no review is not deployed.
    (repository / "approval.json").unlink()
    done = runner(steps[0], **{**given, "COMMIT": "bad", "CI_COMMIT_SHA": "bad"})
    assert done.returncode != 0 and not (repository / "approval.json").exists()
