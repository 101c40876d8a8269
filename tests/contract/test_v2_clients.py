"""Standard V2 clients, with their own packages, against the router, a stage's queue and MLServer beside them.

Each works unchanged at router and queue. The table of what each supports, in docs/reference/v2-clients.md, is
held against the results; `IPA_WRITE_TABLES=1` writes it anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from ipa.adapters.processes import child_environment, free_port, kill, start
from tests.fakes import v2_clients
from tests.fakes.own_environment import OwnEnvironment
from tests.fakes.v2_clients import WORKS
from tests.fakes.waiting import until

pytest.importorskip("mlserver", reason="needs the extra `local`")

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "reference" / "v2-clients.md"
START, END = "<!-- table -->\n", "<!-- end of the table -->"
KSERVE_VERSION = "0.21.0"
KSERVE = OwnEnvironment(
    "kserve",
    KSERVE_VERSION,
    "import kserve, importlib.metadata as m; assert m.version('kserve') == '0.21.0'",
    "IPA_TEST_KSERVE_PYTHON",
    pythons=("3.11", "3.12", "3.13"),
)
READY_S, ASK_S = 60.0, 120.0
STAGES = ("first", "second")
SERVERS = ("router", "queue", "mlserver")
TENSORS = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "word", "datatype": "BYTES", "shape": [-1]},
    ],
    "outputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "word", "datatype": "BYTES", "shape": [-1]},
        {"name": "told", "datatype": "BYTES", "shape": [-1]},
    ],
}
# By client, server and feature.
Results = Mapping[str, Mapping[str, Mapping[str, str]]]

pytestmark = [pytest.mark.live, pytest.mark.timeout(700), pytest.mark.xdist_group("v2-clients")]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file with the addresses of the servers."""
    folder = tmp_path_factory.mktemp("v2")
    ports = {name: free_port() for name in ("mlserver", "mlserver grpc", *STAGES, "router")}
    settings = {
        **{"host": "127.0.0.1", "http_port": ports["mlserver"], "grpc_port": ports["mlserver grpc"]},
        **{"metrics_endpoint": None, "parallel_workers": 0, "debug": False},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for stage in STAGES:
        model = {"name": stage, "implementation": "tests.fakes.v2_model.Adds", "parameters": {"version": "1"}}
        (folder / stage).mkdir()
        (folder / stage / "model-settings.json").write_text(json.dumps({**model, **TENSORS}))
    model_url = f"http://127.0.0.1:{ports['mlserver']}"
    urls = {stage: f"http://127.0.0.1:{ports[stage]}" for stage in STAGES}
    with ExitStack() as resources:
        _start(
            resources, folder, "mlserver", [sys.executable, "-m", "ipa.dataplane.stage", "start", str(folder)]
        )
        part = {"batch_timeout_s": 0, "replicas": [{"url": model_url, "variant": "adds"}]}
        for stage in STAGES:
            queue = {"IPA_STAGE": stage, "IPA_PARTS": json.dumps({"1": part})}
            env = {"IPA_PIPELINE": "pair", "IPA_PORT": str(ports[stage]), **queue}
            _start(resources, folder, stage, [sys.executable, "-m", "ipa.dataplane.queue"], env)
        stages = " ".join(f"{stage}={urls[stage]}" for stage in STAGES)
        env = {"IPA_PIPELINE": "pair", "IPA_PORT": str(ports["router"]), "IPA_STAGES": stages}
        _start(resources, folder, "router", [sys.executable, "-m", "ipa.dataplane.router"], env)
        until(
            lambda: (
                _is_ready(model_url, "second") and _is_ready(f"http://127.0.0.1:{ports['router']}", "pair")
            ),
            READY_S,
        )
        until(lambda: all(_declares(url, stage) for stage, url in urls.items()), READY_S)

        def server(port: str, model: str, stages: int) -> dict[str, object]:
            return {"http": f"127.0.0.1:{ports[port]}", "model": model, "stages": stages}

        addresses = {
            "router": server("router", "pair", 2),
            "queue": server("second", "second", 1),
            "mlserver": server("mlserver", "second", 1),
        }
        file = folder / "servers.json"
        file.write_text(json.dumps(addresses))
        yield file


def _start(
    resources: ExitStack, folder: Path, name: str, command: list[str], env: Mapping[str, str] | None = None
) -> None:
    env = {**child_environment(), "PYTHONPATH": str(ROOT), **(env or {})}
    with (folder / f"{name}.log").open("wb") as log:
        process = start(command, stdout=log, stderr=log, env=env)
    resources.callback(process.wait)
    resources.callback(kill, process)


def _is_ready(url: str, model: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/models/{model}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _declares(url: str, model: str) -> bool:
    return bool(httpx.get(f"{url}/v2/models/{model}", trust_env=False).json()["inputs"])


def _ask(python: str, servers: Path, *clients: str) -> Results:
    run = subprocess.run(
        [python, v2_clients.__file__, *clients, str(servers)],
        capture_output=True,
        text=True,
        check=False,
        timeout=ASK_S,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(servers.with_suffix(f".{clients[0].replace(' ', '-')}.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def installed(servers: Path) -> Results:
    """The results of the clients that are installed beside the tests."""
    ours = _ask(sys.executable, servers, "tritonclient.http", "curl")
    # In a process of its own: its messages have the names of others'.
    return {**ours, **_ask(sys.executable, servers, "mlserver infer")}


@pytest.fixture(scope="module")
def kserve(servers: Path) -> Results:
    try:
        python = KSERVE.python()
    except RuntimeError as lacking:
        pytest.skip(str(lacking))
    return _ask(python, servers, "KServe REST")


def failures(results: Results) -> list[str]:
    return [
        f"{client}, {server}, {feature}: {outcome}"
        for client, by_server in results.items()
        for server, features in by_server.items()
        for feature, outcome in features.items()
        if outcome != WORKS and server != "mlserver"
    ]


def test_clients_work_unchanged_at_router_and_queue(installed: Results) -> None:
    assert failures(installed) == []


def test_kserves_clients_work_unchanged_at_router_and_queue(kserve: Results) -> None:
    assert failures(kserve) == []


def test_the_docs_have_the_table_of_what_each_supports(installed: Results, kserve: Results) -> None:
    before, rest = TABLE.read_text().split(START)
    written, after = rest.split(END)
    wanted = table({**installed, **kserve})
    if os.environ.get("IPA_WRITE_TABLES"):
        TABLE.write_text(f"{before}{START}{wanted}{END}{after}")
    else:
        assert written == wanted, "IPA_WRITE_TABLES=1 writes it anew"


def table(results: Results) -> str:
    """Rows by feature, columns by client: ours, and MLServer's where it differs."""
    clients = [name for name in v2_clients.CLIENTS if name in results]
    features = dict.fromkeys(feature for name in clients for feature in results[name]["router"])

    def cell(client: str, feature: str) -> str:
        by_server = {server: results[client][server].get(feature) for server in SERVERS}
        if by_server["router"] is None:
            return "–"
        ours = "yes" if by_server["router"] == by_server["queue"] == WORKS else "**no**"
        return ours if (by_server["mlserver"] == WORKS) is (ours == "yes") else f"{ours}*"

    lines = [f"| | {' | '.join(clients)} |", f"|---|{'---|' * len(clients)}"]
    lines += [f"| {feature} | {' | '.join(cell(it, feature) for it in clients)} |" for feature in features]
    return "\n".join(lines) + "\n"
