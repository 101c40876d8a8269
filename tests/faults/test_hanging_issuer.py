"""R11: an issuer, or a cluster, that takes connections and never answers. Over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ipa.adapters.identity.jwks import KEEP_S, MOST_WAITING, PATIENCE_S, RETRY_S, Jwks
from ipa.adapters.identity.oidc import OidcIdentities, issuer_of
from ipa.adapters.identity.reviews import KubeIdentities
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.store import Store, open_store
from ipa.adapters.store.keys import KeyIdentities
from ipa.control.loop.clock import SystemClock
from ipa.model.access import Grant, Role
from ipa.model.errors import UnavailableError
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.people import AUDIENCE, ISSUER, ROLES, jwk, token
from tests.fakes.services import FakeWorld
from tests.fakes.waiting import until
from tests.faults.server import served
from tests.faults.table import Case

pytestmark = pytest.mark.live
# Others are answered within this on a machine that does something else too; alone within milliseconds.
SOON_S = 1.5


@dataclass
class Hanging:
    """Takes connections. It answers while it `answers`, else never."""

    answers: bool = False
    url: str = ""
    taken: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.taken.append(connection)
            if self.answers:
                connection.recv(65536)
                body = json.dumps({"keys": [jwk()]}).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + body)
                connection.close()


@contextmanager
def hanging(*, answers: bool = False) -> Iterator[Hanging]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        found = Hanging(answers, "http://{}:{}".format(*listener.getsockname()[:2]))
        thread = threading.Thread(target=found.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)
            for each in found.taken:
                each.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{tmp_path / 'keys.sqlite3'}")
    yield found
    found.close()


def by_issuer(issuer: Hanging, clock: Any) -> OidcIdentities:
    settings = issuer_of(ISSUER, AUDIENCE, "sub", "groups", ROLES)
    return OidcIdentities(settings, Jwks(f"{issuer.url}/jwks", clock))


def by_cluster(cluster: Hanging, folder: Path) -> KubeIdentities:
    path = folder / "hanging"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
                "users": [{"name": "u", "user": {"token": "x"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    return KubeIdentities(
        KubeClient.from_kubeconfig(str(path), 10.0), SystemClock(), SELDON_DEPLOYMENT, SELDON.places_of
    )


def bearer(sent: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {sent}"}


@pytest.mark.parametrize("who", ["issuer", "cluster"])
def test_r11_nobody_else_waits_for_who_hangs(case: Case, store: Store, tmp_path: Path, who: str) -> None:
    clock = SystemClock()
    _, key = store.keys.create("ada", Grant(Role.VIEWER, "default"), now=clock.now())
    with hanging() as other:
        slow: Any = by_issuer(other, clock) if who == "issuer" else by_cluster(other, tmp_path)
        services = FakeWorld().play(5).services()
        services = replace(services, authenticators=(KeyIdentities(store.keys, clock), slow))
        with served(services) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as client:
            # Each is another token, so that nothing that was found out of one serves another.
            sent = [token("ops", jti=str(at)) if who == "issuer" else f"of-{at}" for at in range(60)]
            began_s = time.monotonic()
            with ThreadPoolExecutor(60) as pool:

                def asked(each: str) -> int:
                    url = f"http://{host}:{port}/v1/pipelines"
                    return httpx.get(url, headers=bearer(each), timeout=60).status_code

                flood = [pool.submit(asked, each) for each in sent]
                until(lambda: other.taken)
                took_s, health_s = [], []
                while not took_s or (not all(each.done() for each in flood) and len(took_s) < 200):
                    for path, found in (("/v1/pipelines/ocr/status", took_s), ("/healthz", health_s)):
                        start_s = time.monotonic()
                        answer = client.get(path, headers=bearer(key), timeout=60)
                        found.append(time.monotonic() - start_s)
                        assert answer.status_code == 200
                statuses = {each.result() for each in flood}
            all_s = time.monotonic() - began_s
        case.equal("answers to who is not known", statuses, {503})
        case.told("requests of others meanwhile", len(took_s) + len(health_s))
        for who_asks, found in (("a key's holder", took_s), ("health", health_s)):
            case.told(f"s that {who_asks} waited, at most", max(found))
            case.at_most(
                f"s that {who_asks} waited, nine of ten", sorted(found)[len(found) * 9 // 10], SOON_S
            )
        case.at_most("connections to it", len(other.taken), 10)
        case.at_most("s until all 60 were answered", all_s, 20.0)


def test_r11_keys_that_were_read_hold_while_the_issuer_hangs(case: Case) -> None:
    clock = VirtualClock()
    with hanging(answers=True) as issuer:
        people = by_issuer(issuer, clock)
        assert people.identify(token("ops"), fresh=False)
        issuer.answers = False
        clock.wait(KEEP_S + 1.0)
        began_s = time.monotonic()
        known = [people.identify(token("ops"), fresh=True) for _ in range(50)]
        case.equal("tokens with a key that was read", sum(each is not None for each in known), 50)
        case.at_most("s for all of them", time.monotonic() - began_s, PATIENCE_S)
        until(lambda: len(issuer.taken) == 2)
        case.equal("reads of the keys", len(issuer.taken), 2)
        issuer.answers = True
        clock.wait(RETRY_S + 1.0)
        assert people.identify(token("ops"), fresh=False)
        until(lambda: len(issuer.taken) == 3)
        case.equal("reads once it answers again", len(issuer.taken), 3)


def test_r11_few_threads_wait_and_none_twice(case: Case) -> None:
    clock = VirtualClock()
    with hanging() as issuer:
        keys = Jwks(f"{issuer.url}/jwks", clock)

        def asked(_: int) -> float:
            began_s = time.monotonic()
            with pytest.raises(UnavailableError):
                keys.key("any")
            return time.monotonic() - began_s

        with ThreadPoolExecutor(40) as pool:
            first = list(pool.map(asked, range(40)))
        waited = sum(each > PATIENCE_S / 2 for each in first)
        case.at_most("of 40 threads, those that waited", waited, MOST_WAITING)
        again = [asked(0) for _ in range(20)]
        case.at_most("s that the next waits", max(again), PATIENCE_S / 2)
        case.equal("connections", len(issuer.taken), 1)


def test_r11_an_issuer_that_drips_is_given_up(case: Case) -> None:
    """A byte at a time it would never end, and no other read would begin."""
    clock, ended = VirtualClock(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "http://{}:{}".format(*listener.getsockname()[:2])
        taken: list[socket.socket] = []

        def drip() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.append(connection)
                if len(taken) > 1:
                    connection.recv(65536)
                    body = json.dumps({"keys": [jwk()]}).encode()
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    continue
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")

                def more(connection: socket.socket = connection) -> None:
                    try:
                        while not ended.wait(0.05):
                            connection.sendall(b"x")
                    except OSError:
                        pass

                threading.Thread(target=more, name="drip", daemon=True).start()

        threading.Thread(target=drip, name="drip", daemon=True).start()
        keys = Jwks(f"{url}/jwks", clock)
        with pytest.raises(UnavailableError):
            keys.key("issuer")
        clock.wait(RETRY_S + 1.0)
        found = keys.key("issuer")
        case.equal("read anew", found is not None, True)
        case.equal("connections", len(taken), 2)
        until(lambda: not any(each.name == "jwks" for each in threading.enumerate()))
        case.equal("threads left", sum(each.name == "jwks" for each in threading.enumerate()), 0)
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        until(lambda: not any(each.name == "drip" for each in threading.enumerate()))
        for each in taken:
            each.close()
