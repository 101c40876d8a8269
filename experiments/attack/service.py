"""The real service under attack: `ipa serve` as a process, over the fake API server and a metrics server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import psutil

from ipa.adapters.store import open_store
from ipa.files import load_pipelines
from ipa.model.plan import StageConfig
from ipa.targets.seldon.manifest import render
from tests.fakes.kube import FakeKube
from tests.fakes.services import FakeWorld
from tests.faults.prometheus import EPOCH_S, FakePrometheus

ROOT = Path(__file__).resolve().parents[2]
IPA = (sys.executable, "-c", "from ipa.cli.main import main; main()")
PIPELINE = "video"
# Short, so that a delay shows and a run of some minutes has hundreds of ticks; the service's own is 10 s.
TICK_S = 1.0
# A cluster of the fake moves on so often: a rollout takes a second.
CLUSTER_TICK_S = 0.25
# The load steps between these every so many seconds, so that the loop has something to write.
LOW_RPS, HIGH_RPS, STEP_S = 2.0, 14.0, 6.0
START_S = 60.0


class WallClock:
    """Seconds since the fake metrics server's epoch, by this machine's clock."""

    def monotonic_s(self) -> float:
        """Those seconds."""
        return time.time() - EPOCH_S


@dataclass
class Service:
    """A service process that can be killed and started again on the same port and store.

    `environment` adds to its settings, `arguments` to its command line.
    """

    folder: Path
    kube: FakeKube
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def store_url(self) -> str:
        """URL of its store."""
        return self.environment["IPA_STORE_URL"]

    @property
    def log(self) -> Path:
        """The file that its log goes to."""
        return self.folder / "service.log"

    @property
    def root_process(self) -> psutil.Process:
        """The running process."""
        assert self.process is not None
        return psutil.Process(self.process.pid)

    @property
    def memory_mb(self) -> float:
        """Megabytes of its process; those that it starts have bounds of their own."""
        return float(self.root_process.memory_info().rss) / 1e6

    def key(self, role: str, name: str) -> str:
        """A new API key of that role in the pipeline's namespace."""
        made = self.command("key", "create", "--role", role, "--namespace", "default", "--name", name)
        return made.strip().splitlines()[-1]

    def remember(self, decisions: int) -> None:
        """Give its store that many decisions with their inputs, as if it had run before."""
        world = FakeWorld().play(50)
        store = open_store(self.store_url)
        for number in range(decisions):
            made = world.recorded[number % len(world.recorded)]
            named = f"{PIPELINE}-before-{number}"
            store.record(replace(made, pipeline=PIPELINE, tick=number, decision_id=named))
        store.close()

    def command(self, *arguments: str) -> str:
        """The standard output of `ipa ARGUMENTS` with the service's settings."""
        command, folder = [*IPA, *arguments], self.folder
        done = subprocess.run(
            command, env=self.environment, cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout

    def start(self) -> float:
        """Start it; the seconds until it answers. RuntimeError if it ends or never answers."""
        began_s = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*IPA, "serve", "--target", "kubernetes", "--port", str(self.port), *self.arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        # One client: each of its own would load the certificates of all authorities.
        with httpx.Client(base_url=self.url, timeout=1.0, trust_env=False) as client:
            while time.monotonic() - began_s < START_S and self.process.poll() is None:
                try:
                    if client.get("/healthz").is_success:
                        return time.monotonic() - began_s
                except httpx.TransportError:
                    time.sleep(0.02)
        raise RuntimeError(f"the service did not start; its log ends: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """End it at once, as a lost node or the kernel does, with all that it started."""
        assert self.process is not None
        others = self.root_process.children(recursive=True)
        self.process.kill()
        self.process.wait()
        for each in others:
            if each.is_running():
                each.kill()

    def stop(self) -> None:
        """Tell it to end, and wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def service(
    folder: Path, *, auth: str = "", arguments: Sequence[str] = (), **settings: str
) -> Iterator[Service]:
    """A service ready to be started, over a cluster that lives and a load that steps."""
    pipeline = load_pipelines(ROOT / "pipelines")[PIPELINE]
    configs = tuple(StageConfig(stage.name, stage.variants[0].name, 1, 1.0, 2) for stage in pipeline.stages)

    def rate_rps(t_s: float) -> float:
        return HIGH_RPS if int(t_s // STEP_S) % 2 else LOW_RPS

    stop = threading.Event()
    with FakeKube(roll_ticks=1) as kube, FakePrometheus(WallClock(), rate_rps, pipeline) as prometheus:
        with kube.store.lock:
            kube.store.create("seldondeployments", pipeline.namespace, render(pipeline, configs))
        kube.tick(4)

        def live() -> None:
            while not stop.wait(CLUSTER_TICK_S):
                kube.tick()

        living = threading.Thread(target=live, daemon=True)
        living.start()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "IPA_PIPELINES_DIR": str(_only(PIPELINE, folder / "pipelines")),
            "IPA_PROFILES_DIR": str(ROOT / "profiles"),
            "IPA_STORE_URL": f"sqlite:///{folder}/ipa.sqlite3",
            "IPA_KUBECONFIG": str(kube.kubeconfig(folder)),
            "IPA_PROMETHEUS_URL": prometheus.url,
            "IPA_TICK_S": f"{TICK_S:g}",
            "IPA_SOLVER": "exact",
            "IPA_AUTH": auth,
            **settings,
        }
        made = Service(folder, kube, free_port(), environment, ("--mode", "active", *arguments))
        try:
            yield made
        finally:
            made.stop()
            stop.set()
            living.join()


def _only(name: str, folder: Path) -> Path:
    """The folder, with that pipeline of the repository alone."""
    shutil.copytree(ROOT / "pipelines" / name, folder / name)
    return folder


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
