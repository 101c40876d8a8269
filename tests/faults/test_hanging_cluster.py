"""R11: a cluster that takes connections and never answers. Over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

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
from tests.faults.server import served
from tests.faults.table import Case

pytestmark = pytest.mark.live
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
