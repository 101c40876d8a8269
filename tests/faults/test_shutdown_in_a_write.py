"""The real service told to stop (SIGTERM) while its patch is under way."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.bootstrap.pipeline_registry import Roster
from ipa.files import dump_profile, pipeline_to_mapping
from ipa.targets.seldon.manifest import read
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.api import Request
from tests.fakes.kube.samples import create
from tests.fakes.looped import PIPELINE
from tests.fakes.world import PROFILES, SMALLEST
from tests.faults.table import Case

pytestmark = [pytest.mark.local]

# Kubernetes gives a pod so long.
GRACE_S = 30.0
WANTED = [
    {"stage": config.stage, "variant": config.variant, "batch_size": 1, "cores": 1.0, "replicas": 2}
    for config in SMALLEST
]


@dataclass
class Patches:
    """Holds the service's patch at the API server until it may go on."""

    kube: FakeKube
    arrived: threading.Event = field(default_factory=threading.Event)
    goes_on: bool = False

    def before(self, request: Request) -> None:
        if request.verb == "patch" and request.resource == "seldondeployments" and not request.is_dry_run:
            self.arrived.set()
            # Waiting lets go of the store, so that others are served meanwhile.
            self.kube.store.changed.wait_for(lambda: self.goes_on, timeout=60.0)

    def go_on(self) -> None:
        with self.kube.store.lock:
            self.goes_on = True
            self.kube.store.changed.notify_all()


@contextmanager
def serving(folder: Path, kube: FakeKube) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ipa serve` on that cluster with an election, active; its process and its address."""
    for kind, name, text in (
        ("pipelines", "pipeline", yaml.safe_dump(pipeline_to_mapping(PIPELINE), sort_keys=False)),
        *(("profiles", stage, dump_profile(profile)) for stage, profile in PROFILES.items()),
    ):
        home = folder / kind / "pages"
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{name}.yaml").write_text(text)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("IPA_")},
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONUNBUFFERED": "1",
        "IPA_KUBECONFIG": str(kube.kubeconfig(folder)),
        "IPA_KUBE_TIMEOUT_S": "3",
        "IPA_STORE_URL": f"sqlite:///{folder / 's.sqlite3'}",
        # Nothing listens there: the load is not seen, so only people's requests are written.
        "IPA_PROMETHEUS_URL": "http://127.0.0.1:9",
        "IPA_LEADER_ELECTION": "on",
        "IPA_LEASE_NAMESPACE": "default",
        "IPA_LEASE_IDENTITY": "first",
        # A leader begins once a lease has passed in which another could still have led.
        "IPA_LEASE_S": "3",
        "IPA_LEASE_RENEW_DEADLINE_S": "2",
        "IPA_LEASE_RETRY_S": "0.2",
        "IPA_TICK_S": "1",
    }
    command = [sys.executable, "-c", "from ipa.cli.main import main; main()", "serve", "pages"]
    command += ["--target", "kubernetes", "--mode", "active", "--port", "0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    with process:
        try:
            assert process.stdout is not None
            url = next(line for line in process.stdout if "http://" in line).split()[-1]
            yield process, url
        finally:
            process.kill()


def lease_of(kube: FakeKube) -> dict[str, Any]:
    leases = kube.store.everything("leases")
    return dict(leases[0]["spec"]) if leases else {}


def wait_until_leading(kube: FakeKube) -> None:
    with kube.store.lock:
        kube.store.changed.wait_for(lambda: bool(lease_of(kube).get("holderIdentity")), timeout=30.0)
    assert lease_of(kube)["holderIdentity"].startswith("first")


def wait_until_deaf(url: str) -> None:
    """Return when nothing listens there any more: the service has begun to stop."""
    address = (httpx.URL(url).host, httpx.URL(url).port or 0)
    until_s = monotonic() + GRACE_S
    while monotonic() < until_s:
        try:
            socket.create_connection(address, 1.0).close()
        except OSError:
            return
    raise AssertionError("the service did not begin to stop")


def applied(folder: Path) -> int:
    other = sqlite3.connect(folder / "s.sqlite3")
    count = other.execute("SELECT count(*) FROM ipa_entries WHERE action = 'apply'").fetchone()[0]
    other.close()
    return int(count)


def ask(url: str, arrived: threading.Event) -> threading.Thread:
    """Ask for the wanted configuration, in a thread, until it is being written."""

    def send() -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=60.0) as client:
            until_s = monotonic() + GRACE_S
            while not arrived.is_set() and monotonic() < until_s:
                try:
                    tag = client.get("/v1/pipelines/pages/status").headers["ETag"]
                    headers = {"If-Match": tag}
                    client.post("/v1/pipelines/pages/apply", json={"configs": WANTED}, headers=headers)
                except httpx.HTTPError:
                    # The service ended before it answered.
                    return
                # Refused while it stands by.
                arrived.wait(0.1)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("how", ["answered late", "never answered"])
def test_a2_told_to_stop_in_the_middle_of_a_patch(case: Case, tmp_path: Path, how: str) -> None:
    case.title += f": {how}"
    with FakeKube() as kube:
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        create(client, PIPELINE, SMALLEST)
        kube.tick(6)
        kube.writes.clear()
        patches = Patches(kube)
        if how == "never answered":
            kube.fault(FaultKind.LOST_AFTER, verb="patch", is_dry_run=False)
        kube.before = patches.before
        with serving(tmp_path, kube) as (process, url):
            wait_until_leading(kube)
            asking = ask(url, patches.arrived)
            assert patches.arrived.wait(30.0)
            told_s = monotonic()
            process.send_signal(signal.SIGTERM)
            wait_until_deaf(url)
            patches.go_on()
            code = process.wait(GRACE_S)
            ended_s = monotonic() - told_s
            asking.join()
        written = [one for one in kube.writes if one.resource == "seldondeployments"]
        live = read(PIPELINE, kube.store.get("seldondeployments", "default", "pages"))
        lease = lease_of(kube)
        client.close()
    case.equal("exit code", code, 0)
    case.at_most("exit s (grace 30)", ended_s, GRACE_S)
    case.equal("writes", len(written), 1)
    case.equal("writes on record", applied(tmp_path), 1)
    case.equal("replicas wanted run", [config.replicas for config in live], [2, 2])
    case.equal("lease holder after the exit", lease.get("holderIdentity") or "nobody", "nobody")
    case.at_most("remaining lease s", lease["leaseDurationSeconds"], 1)


def test_r21_a_stop_waits_for_ticks_by_the_real_clock(case: Case) -> None:
    """A simulated clock runs ahead of the real one: the last tick met a closed store."""
    waited: list[float] = []
    ahead = VirtualClock()
    ahead.wait(1e9)
    roster = SimpleNamespace(turns=SimpleNamespace(join=waited.append), clock=ahead)
    Roster.join(roster, 15.0)
    case.equal("seconds that running ticks have", waited, [15.0])
