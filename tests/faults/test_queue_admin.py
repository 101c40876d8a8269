"""R7: who may configure a queue, that a changed configuration is put right, and what processes inherit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ipa.adapters.processes import child_environment
from ipa.adapters.solvers.planner import planner_command
from ipa.adapters.solvers.process import Worker
from ipa.dataplane.http import LOOPBACK_NAMES, Application
from ipa.dataplane.queue import QueueServer
from ipa.targets.local.runner import CALM_S, PipelineRunner
from ipa.targets.local.workload import LocalWorkload
from tests.fakes.waiting import until
from tests.faults.kill_targets import one_stage
from tests.faults.table import Case

TOKEN = "t0k3n-of-the-supervisor"
ATTACK = {"replicas": ["http://192.0.2.1:80"]}
HERE = {"host": "127.0.0.1:9000", "authorization": f"Bearer {TOKEN}"}
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-1",
    "KUBECONFIG": "/canary-2",
    "IPA_API_KEY": "canary-3",
    "HTTPS_PROXY": "http://user:canary-4@proxy",
    "GITHUB_TOKEN": "canary-5",
}
GIVE_UP_S = 60.0


def application(token: str = TOKEN) -> Application:
    return QueueServer("p", "s", hosts=LOOPBACK_NAMES, admin_token=token).application()


def call(
    served: Application, method: str, path: str, headers: Mapping[str, str], address: str = "127.0.0.1"
) -> httpx.Response:
    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(served, client=(address, 1))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9000") as http:
            content = {"json": ATTACK} if method == "PUT" else {}
            given = httpx.Headers(dict(headers), encoding="latin-1")
            return await http.request(method, path, headers=given, **content)  # type: ignore[arg-type]

    return asyncio.run(scenario())


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize(
    ("name", "headers", "address", "status"),
    [
        ("without token", {"authorization": ""}, "127.0.0.1", 401),
        ("another token", {"authorization": f"Bearer {TOKEN}x"}, "127.0.0.1", 401),
        ("a token that is no text", {"authorization": "Bearer \xff"}, "127.0.0.1", 401),
        ("foreign host", {"host": "attacker.example:9000"}, "127.0.0.1", 403),
        ("host that is none", {"host": "["}, "127.0.0.1", 403),
        ("another machine", {}, "192.0.2.1", 403),
        ("a page elsewhere", {"origin": "http://attacker.example"}, "127.0.0.1", 403),
        ("a page that was rebound", {"origin": "http://127.0.0.1:9000"}, "127.0.0.1", 403),
    ],
)
def test_r7_a_stranger_is_refused(
    case: Case, method: str, name: str, headers: Mapping[str, str], address: str, status: int
) -> None:
    served = application()
    answer = call(served, method, "/admin/config", {**HERE, **headers}, address)
    case.equal(name, answer.status_code, status)
    assert TOKEN not in answer.text
    assert call(served, "GET", "/admin/config", HERE).json()["replicas"] == []


def test_r7_without_a_supervisor_the_address_is_off(case: Case) -> None:
    """As in a container, whose configuration is its environment."""
    served = application(token="")
    for headers in (HERE, {"authorization": "Bearer "}, {}):
        case.equal("status", call(served, "PUT", "/admin/config", headers).status_code, 403)


def test_r7_metrics_and_health_are_for_all(case: Case) -> None:
    """Prometheus and probes call by whatever name they know."""
    foreign = {"host": "10.0.0.7:9000"}
    statuses = {
        path: call(application(), "GET", path, foreign, "192.0.2.1").status_code
        for path in ("/metrics", "/v2/health/live", "/v2/health/ready")
    }
    case.equal("live", statuses["/v2/health/live"], 200)
    case.equal("metrics", statuses["/metrics"], 200)
    # There is no replica yet.
    case.equal("ready", statuses["/v2/health/ready"], 503)
    # On this machine requests are for those who call it by its name: not for a page that was rebound.
    case.equal("requests", call(application(), "POST", "/v2/models/s/infer", foreign).status_code, 403)


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorkload]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    pipeline, configs = one_stage()
    running = LocalWorkload(tmp_path)
    running.start(pipeline, configs)
    yield running
    running.stop()


@pytest.mark.local
@pytest.mark.xdist_group("local")
def test_r7_a_changed_configuration_is_put_right(case: Case, workload: LocalWorkload) -> None:
    """By somebody who has the token, as a process of the same user could."""
    runner: PipelineRunner = workload.runner("echo")
    (queue,) = [front for front in runner.fronts if front.name == "queue-say1"]
    address = f"{queue.url}/admin/config"
    with httpx.Client(trust_env=False) as http:
        strangers = [http.get(address), http.put(address, json=ATTACK)]
        case.equal("strangers", [answer.status_code for answer in strangers], [401, 401])
        http.headers["authorization"] = f"Bearer {queue.token}"
        before = _told(http.get(address).json())
        assert http.put(address, json={"batch_size": 99, **ATTACK}).status_code == 200
        until(lambda: workload.runner("echo").corrections, GIVE_UP_S)
        until(lambda: _told(http.get(address).json()) == before, GIVE_UP_S)
        case.equal("corrections", workload.runner("echo").corrections, 1)
        case.note("looked for every s", CALM_S)
        # The next process has another token, and the configuration from its start.
        token, pid = queue.token, queue.pid
        psutil.Process(pid).kill()
        until(lambda: queue.pid not in (0, pid), GIVE_UP_S)
        case.equal("old token", http.get(address).status_code, 401)
        http.headers["authorization"] = f"Bearer {queue.token}"
        assert queue.token != token
        assert _told(http.get(address).json()) == before
        case.equal("corrections after a restart", workload.runner("echo").corrections, 1)


def _told(config: Mapping[str, Any]) -> tuple[Any, ...]:
    replicas = [(it["url"], it["variant"]) for it in config["replicas"]]
    return config["batch_size"], config["batch_timeout_s"], replicas


@pytest.mark.local
@pytest.mark.xdist_group("local")
def test_r7_processes_inherit_no_secret(case: Case, workload: LocalWorkload) -> None:
    """Neither in their environment nor, as the queue's token, in a command line."""
    (queue,) = [front for front in workload.runner("echo").fronts if front.name == "queue-say1"]
    children = psutil.Process().children(recursive=True)
    solver = Worker(planner_command())
    try:
        children.append(psutil.Process(solver._process.pid))
        processes = [(child.environ(), " ".join(child.cmdline())) for child in children]
    finally:
        solver.kill()
    # Forkserver, router, queue, model server, planner.
    case.at_least("processes", len(processes), 5)
    texts = [str(each) for each in processes]
    case.equal("canaries", sum(text.count("canary") for text in texts), 0)
    case.equal("tokens", sum(text.count(queue.token) for text in texts), 0)
    (model,) = [environ for environ, _ in processes if environ.get("IPA_CORES")]
    # What it needs, and what it is given.
    assert {"PATH", "IPA_CORES", "IPA_THREADS", "OMP_NUM_THREADS"} <= model.keys()


def test_r7_a_child_has_what_it_needs_of_the_environment() -> None:
    given = {"PATH": "/bin", "LC_ALL": "C", "OMP_NUM_THREADS": "2", "GRB_LICENSE_FILE": "/g", **SECRETS}
    assert child_environment(environ=given).keys() == {"PATH", "LC_ALL", "OMP_NUM_THREADS"}
    assert child_environment("GRB_", environ=given)["GRB_LICENSE_FILE"] == "/g"
