"""R2 and R11: connections that drip and clusters that hang, while others are served. Over real sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from experiments.attack.connections import ATTACKS, HOME, PATHS, Figures, attack
from ipa.adapters.identity.reviews import KubeIdentities
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.store import Store
from ipa.adapters.store.state import KeyIdentities
from ipa.control.loop.scheduler import SystemClock
from ipa.model.access import Grant, Role
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.target import SELDON
from tests.fakes.kube.server import kubeconfig
from tests.fakes.services import FakeWorld
from tests.fakes.waiting import until
from tests.faults.attacked import BODY_S
from tests.faults.server import served
from tests.faults.table import Case

pytestmark = pytest.mark.live
CONNECTIONS = 1000
SECONDS = 20.0
# On a machine of its own another client waits a fraction of a second; here the tests and others run beside
# it.
WAIT_S = 5.0


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.faults.attacked"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        # At the exit its input ends, and it stops the service that is still up; killed, it would not.
        yield made


@contextmanager
def attacked(nursery: subprocess.Popen[str], files: str) -> Iterator[tuple[int, int]]:
    """Port and process id of a service of its own."""
    assert nursery.stdin is not None and nursery.stdout is not None
    print(files, file=nursery.stdin, flush=True)
    port, pid = nursery.stdout.readline().split()
    try:
        yield int(port), int(pid)
    finally:
        print(file=nursery.stdin, flush=True)


def attacked_with(
    nursery: subprocess.Popen[str],
    name: str,
    *,
    files: str = "",
    connections: int = CONNECTIONS,
    seconds: float = SECONDS,
) -> Figures:
    [what] = [each for each in ATTACKS if each.name == name]
    with attacked(nursery, files) as (port, pid):
        return attack(what, HOME, port, connections=connections, seconds=seconds, pid=pid)


def report_figures(case: Case, figures: Figures) -> None:
    """The figures that are asked of every attack."""
    case.note("connections", figures.opened)
    case.equal("still open", figures.still_open, 0)
    case.at_most("closed after (s)", figures.longest_s, 10.0)
    case.at_most("memory grown (MB)", figures.grown_mb, 100.0)
    case.equal("requests of another client that failed", sum(figures.failed.values()), 0)
    for path in PATHS:
        case.at_most(f"longest wait for {path} (s)", figures.worst_s[path], WAIT_S)


@pytest.mark.parametrize(
    "name",
    [
        "1 MB bodies but for a byte",
        "bodies without an end",
        "headers without an end",
        "headers, a line a second",
        "half a request",
    ],
)
def test_r2_a_thousand_connections_are_closed_and_others_served(
    case: Case, nursery: subprocess.Popen[str], name: str
) -> None:
    figures = attacked_with(nursery, name)
    case.note("attack", name)
    report_figures(case, figures)
    case.at_most("open files", figures.most_open, 400)


def test_r2_who_comes_from_the_address_of_the_attacker_is_served_too(
    case: Case, nursery: subprocess.Popen[str]
) -> None:
    figures = attacked_with(nursery, "half a request, same address", seconds=3.0)
    case.at_least("connections", figures.opened, CONNECTIONS)
    case.at_most("open files", figures.most_open, 400)
    requests = sum(figures.requests.values())
    case.at_most(
        "requests of another client that failed (%)", 100 * sum(figures.failed.values()) / requests, 10.0
    )


def test_r2_connections_stay_below_the_limit_of_open_files(
    case: Case, nursery: subprocess.Popen[str]
) -> None:
    limit = 400
    figures = attacked_with(nursery, "half a request", files=str(limit), connections=600)
    report_figures(case, figures)
    case.at_most("open files", figures.most_open, limit - 100)
    case.note("a head and a body may take (s)", BODY_S)


# Others are answered within this on a machine that does something else too; alone within milliseconds.
SOON_S = 1.5


@dataclass
class Hanging:
    """A server that takes connections and never answers."""

    url: str = ""
    taken: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.taken.append(connection)


@contextmanager
def hanging() -> Iterator[Hanging]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        cluster = Hanging("http://{}:{}".format(*listener.getsockname()[:2]))
        thread = threading.Thread(target=cluster.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield cluster
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)
            for each in cluster.taken:
                each.close()


def by_cluster(cluster: Hanging, folder: Path) -> KubeIdentities:
    path = folder / "hanging"
    path.write_text(kubeconfig(cluster.url, "x"))
    return KubeIdentities(
        KubeClient.from_kubeconfig(str(path), 10.0), SystemClock(), SELDON_DEPLOYMENT, SELDON.places_of
    )


def bearer(sent: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sent}"}


def test_r11_nobody_else_waits_for_who_hangs(case: Case, store: Store, tmp_path: Path) -> None:
    clock = SystemClock()
    _, key = store.keys.create("ada", Grant(Role.VIEWER, "default"), now=clock.now())
    with hanging() as other:
        services = FakeWorld().play(5).services()
        services = replace(
            services, authenticators=(KeyIdentities(store.keys, clock), by_cluster(other, tmp_path))
        )
        with served(services) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as client:
            # Each is another token, so that nothing that was found out of one serves another.
            sent = [f"of-{at}" for at in range(60)]
            began_s = time.monotonic()
            with ThreadPoolExecutor(60) as pool:

                def ask(each: str) -> int:
                    url = f"http://{host}:{port}/v1/pipelines"
                    return httpx.get(url, headers=bearer(each), timeout=60).status_code

                flood = [pool.submit(ask, each) for each in sent]
                until(lambda: other.taken)
                took_s, health_s = [], []
                while not took_s or (not all(each.done() for each in flood) and len(took_s) < 200):
                    for path, waits_s in (("/v1/pipelines/ocr/status", took_s), ("/healthz", health_s)):
                        start_s = time.monotonic()
                        answer = client.get(path, headers=bearer(key), timeout=60)
                        waits_s.append(time.monotonic() - start_s)
                        assert answer.status_code == 200
                statuses = {each.result() for each in flood}
            all_s = time.monotonic() - began_s
        case.equal("answers to who is not known", statuses, {503})
        case.note("requests of others meanwhile", len(took_s) + len(health_s))
        for who_asks, waits_s in (("a key's holder", took_s), ("health", health_s)):
            case.note(f"s that {who_asks} waited, at most", max(waits_s))
            case.at_most(
                f"s that {who_asks} waited, nine of ten", sorted(waits_s)[len(waits_s) * 9 // 10], SOON_S
            )
        case.at_most("connections to it", len(other.taken), 10)
        case.at_most("s until all 60 were answered", all_s, 20.0)
