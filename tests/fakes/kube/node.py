"""A node: the pods of the fake cluster as real processes of this machine.

Each pod has an address of its own (127.0.64.1 and on), as it would have a network of its own, the CPUs that
its limits allow, and the probes and the end that Seldon's operator gives it. Containers are what their images
run: `python -m MODULE` where the manifest says so, the orchestrator, or MLServer with the pipelines of this
repository. Names of Services lead to the ready pods (`tests.fakes.kube.names`); Prometheus scrapes every pod.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ipa.adapters.processes import ONE_THREAD, free_port, start, terminate, with_parent
from ipa.model.rolling import threads_of
from ipa.targets.local.affinity import CpuMap
from ipa.targets.local.forkserver import serving_priority
from ipa.targets.local.processes import ForkedProcesses
from ipa.targets.local.replica import FRONTS, SERVER, write_cores
from tests.fakes.kube.cluster import ENGINE, HTTP_PORT, Cluster, Trouble, cores_of, service_of
from tests.fakes.kube.names import HOSTS, OWN, SERVICES
from tests.fakes.kube.store import Json

TICK_S = 0.25
ENGINE_PORT = 8000
# A container that ends is started again after this, and twice as long each time.
BACK_OFF_S = 10.0
PROBE_TIMEOUT_S = 1.0
RUNTIMES = ("pipelines.ocr.runtime", "pipelines.digits.runtime", "pipelines.text.runtime")


@dataclass(slots=True)
class Container:
    """The process of a pod, which has one container."""

    pod: str
    app: str
    namespace: str
    deployment: str
    spec: Json
    address: str
    port: int
    probe: str
    scraped: tuple[int, str]
    log: Path
    pid: int = 0
    started_s: float = 0.0
    is_ready: bool = False
    # Set once its process has ended.
    ended_s: float | None = None
    restarts: int = 0
    # Set once its pod is gone: when it is asked to end, and when it is made to.
    ask_s: float | None = None
    kill_s: float = 0.0
    is_asked: bool = False

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class PodEvent:
    """A pod of a Deployment that was started, became ready, ended by itself, or was taken away."""

    at_s: float
    app: str
    pod: str
    what: str


@dataclass
class Node:
    """Runs the cluster's pods; use as a context manager. Its clock is that of the machine.

    A pod is probed from `initial_delay_s` after its start on; one that is to end goes on for `pre_stop_s`
    first, and has `grace_s` in all. `folder` has a log for each pod.
    """

    cluster: Cluster
    folder: Path
    runtimes: Sequence[str] = RUNTIMES
    initial_delay_s: float = 0.3
    pre_stop_s: float = 2.0
    grace_s: float = 20.0
    monotonic: Callable[[], float] = time.monotonic
    events: list[PodEvent] = field(default_factory=list)
    _containers: dict[str, Container] = field(default_factory=dict)
    _exits: dict[int, int] = field(default_factory=dict)
    # Of Services, for good.
    _addresses: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hosts = self.folder.resolve() / "hosts.json"
        self.targets = self.folder.resolve() / "targets.json"
        self._written: dict[Path, str] = {}
        self._write(self.hosts, {})
        self._write(self.targets, [])
        self._cpus = CpuMap()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node", daemon=True)

    def __enter__(self) -> Node:
        preloads = [
            "tests.fakes.kube.in_cluster",
            "tests.fakes.kube.executor",
            *FRONTS,
            SERVER,
            *self.runtimes,
        ]
        self._processes = ForkedProcesses(self.folder, preloads, self._exited)
        self._probes = ThreadPoolExecutor(4, thread_name_prefix="probe")
        self._client = httpx.Client(trust_env=False, timeout=PROBE_TIMEOUT_S)
        self.cluster.kubelet = self._state
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._probes.shutdown()
        self._client.close()
        self._processes.close()
        self.cluster.kubelet = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs beside `tests.fakes.kube.in_cluster` to reach Services by their names."""
        return {HOSTS: str(self.hosts)}

    def running(self, app: str) -> list[Container]:
        """The containers of a Deployment that run, those that are ready first."""
        found = [it for it in self._containers.values() if it.app == app and it.ended_s is None]
        return sorted(found, key=lambda it: not it.is_ready)

    def kill(self, app: str) -> str:
        """Kill the process of one of a Deployment's pods, as the kernel does where memory ends; its pod."""
        container = self.running(app)[0]
        self._processes.kill(container.pid, signal.SIGKILL)
        return container.pod

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            with self.cluster.store.lock:
                self.cluster.tick()
                pods = {pod["metadata"]["name"]: pod for pod in self.cluster.store.everything("pods")}
                services = self._services()
            self._start_missing(pods)
            self._end_spare(pods)
            self._probe()
            self._tell(services)

    def _state(self, pod: Json) -> tuple[Trouble | None, bool]:
        """What the kubelet says of a pod."""
        container = self._containers.get(pod["metadata"]["name"])
        if container is None:
            return None, False
        if container.ended_s is not None and container.restarts:
            return Trouble.CRASH, False
        return None, container.is_ready

    def _start_missing(self, pods: Mapping[str, Json]) -> None:
        now_s = self.monotonic()
        for name, pod in pods.items():
            container = self._containers.get(name)
            if container is None and _is_scheduled(pod):
                container = self._containers[name] = self._container(name, pod)
                self._start(container)
            elif container and container.ended_s is not None:
                again_s = container.ended_s + BACK_OFF_S * 2 ** (container.restarts - 1)
                if now_s >= again_s:
                    self._start(container)

    def _container(self, name: str, pod: Json) -> Container:
        self._count += 1
        address = f"127.0.{64 + self._count // 250}.{self._count % 250 + 1}"
        (spec,) = pod["spec"]["containers"]
        env = _env(spec)
        port = int(env.get("MLSERVER_HTTP_PORT", HTTP_PORT))
        if spec["name"] == ENGINE:
            port, probe, scraped = ENGINE_PORT, "/ready", (ENGINE_PORT, "/prometheus")
        elif "command" in spec:
            probe, scraped = "/v2/health/ready", (port, "/metrics")
        else:
            probe = f"/v2/models/{env['MLSERVER_MODEL_NAME']}/ready"
            scraped = int(env["MLSERVER_METRICS_PORT"]), env["MLSERVER_METRICS_ENDPOINT"]
        metadata = pod["metadata"]
        return Container(
            *(name, metadata["labels"]["app"], metadata.get("namespace", "default")),
            *("" if spec["name"] == ENGINE else metadata["labels"]["seldon-deployment-id"], spec),
            *(address, port, probe, scraped, self.folder / f"{name}.log"),
        )

    def _start(self, container: Container) -> None:
        spec, cores = container.spec, cores_of({"containers": [container.spec]})
        threads = str(threads_of(cores))
        cores_file = container.log.with_suffix(".cores")
        write_cores(cores_file, cores)
        env = {
            **ONE_THREAD,
            "OMP_NUM_THREADS": threads,
            "IPA_CORES": f"{cores:g}",
            "IPA_CORES_FILE": str(cores_file),
            "IPA_THREADS": threads,
            HOSTS: str(self.hosts),
            OWN: container.address,
            **_env(spec),
        }
        cpus = self._cpus.place(container.pod, cores)
        command = spec.get("command", [])
        is_model = spec["name"] != ENGINE and not command
        if spec["name"] == ENGINE:
            module, arguments = "tests.fakes.kube.executor", [*spec["args"], "--host", container.address]
        elif command:
            module, arguments = command[2], command[3:]
        else:
            module, arguments = SERVER, ["start", str(self._empty())]
            env |= {"MLSERVER_HOST": container.address, "MLSERVER_PARALLEL_WORKERS": "0"}
            env |= {"MLSERVER_DEBUG": "false"}
        container.pid = self._processes.start_module(
            module, arguments, env=env, cpus=cpus, log=container.log, yields=is_model
        )
        container.started_s, container.ended_s, container.is_ready = self.monotonic(), None, False
        self._cpus.started(container.pod, container.pid)
        self._note(container, "started")

    def _empty(self) -> Path:
        """A folder without model settings: MLServer takes the model from its environment."""
        folder = self.folder / "models"
        folder.mkdir(exist_ok=True)
        return folder

    def _exited(self, pid: int, code: int) -> None:
        self._exits[pid] = code

    def _end_spare(self, pods: Iterable[str]) -> None:
        now_s = self.monotonic()
        for name, container in list(self._containers.items()):
            if container.pid in self._exits and container.ended_s is None:
                container.ended_s, container.is_ready = now_s, False
                container.restarts += 1
                if name in pods:
                    self._note(container, "ended")
            if name in pods:
                continue
            if container.ask_s is None:
                container.ask_s, container.kill_s = now_s + self.pre_stop_s, now_s + self.grace_s
                container.is_ready = False
                self._note(container, "taken")
            if container.ended_s is not None:
                self._cpus.release(name)
                del self._containers[name]
            elif now_s >= container.kill_s:
                self._processes.kill(container.pid, signal.SIGKILL)
            elif now_s >= container.ask_s and not container.is_asked:
                container.is_asked = True
                self._processes.kill(container.pid, signal.SIGTERM)

    def _probe(self) -> None:
        """Ask the containers that are not ready yet; one that is stays so until its process ends."""
        now_s = self.monotonic()
        asked = [
            it
            for it in self._containers.values()
            if not it.is_ready
            and it.ended_s is None
            and it.ask_s is None
            and now_s - it.started_s >= self.initial_delay_s
        ]
        for container, is_ready in zip(asked, self._probes.map(self._answers, asked), strict=True):
            if is_ready:
                container.is_ready = True
                serving_priority(container.pid)
                self._note(container, "ready")

    def _answers(self, container: Container) -> bool:
        try:
            return self._client.get(container.url + container.probe).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _services(self) -> dict[str, tuple[str, bool]]:
        """The Services of every predictor by name: the Deployment each leads to, and if it is headless."""
        found: dict[str, tuple[str, bool]] = {}
        store = self.cluster.store
        for sdep in store.everything("seldondeployments"):
            is_headless = "seldon.io/headless-svc" in sdep["spec"].get("annotations", {})
            for predictor in sdep["spec"]["predictors"]:
                prefix = f"{sdep['metadata']['name']}-{predictor['name']}"
                own = [
                    one["metadata"]["name"]
                    for one in store.find("deployments", sdep["metadata"]["namespace"])
                    if one["metadata"]["name"].startswith(f"{prefix}-")
                    and one["metadata"]["ownerReferences"][0]["uid"] == sdep["metadata"]["uid"]
                ]
                for app in own:
                    container = app.removeprefix(f"{prefix}-").partition("-")[2]
                    if app.endswith("-svc-orch"):
                        found[service_of(sdep, predictor)] = app, is_headless
                        continue
                    found[service_of(sdep, predictor, container)] = app, is_headless
                    if "seldon.io/no-engine" in predictor.get("annotations", {}):
                        found[service_of(sdep, predictor)] = app, is_headless
        return found

    def _tell(self, services: Mapping[str, tuple[str, bool]]) -> None:
        """Write what the DNS and Prometheus' discovery of pods say."""
        ready: dict[str, list[str]] = {}
        for container in self._containers.values():
            if container.is_ready:
                ready.setdefault(container.app, []).append(container.address)
        for name in services:
            self._addresses.setdefault(name, f"{SERVICES}0.{len(self._addresses) + 1}")
        hosts = {
            name: {"address": "" if is_headless else self._addresses[name], "pods": ready.get(app, [])}
            for name, (app, is_headless) in services.items()
        }
        self._write(self.hosts, hosts)
        groups = [
            {
                "targets": [f"{it.address}:{it.scraped[0]}"],
                "labels": {
                    "__metrics_path__": it.scraped[1],
                    "namespace": it.namespace,
                    "pod": it.pod,
                    "container": it.spec["name"],
                    # As `ipa render --monitors` has it: the executor says so itself.
                    "deployment_name": it.deployment,
                },
            }
            for it in self._containers.values()
            if it.ended_s is None and it.ask_s is None
        ]
        self._write(self.targets, groups)

    def _write(self, path: Path, content: Any) -> None:
        text = json.dumps(content)
        if self._written.get(path) != text:
            self._written[path] = text
            part = path.with_suffix(".part")
            part.write_text(text)
            part.replace(path)

    def _note(self, container: Container, what: str) -> None:
        self.events.append(PodEvent(self.monotonic(), container.app, container.pod, what))

    def counts(self, since_s: float, until_s: float) -> Counter[tuple[str, str]]:
        """How often what became of pods of each Deployment, in that time: {(app, what): times}."""
        return Counter((it.app, it.what) for it in self.events if since_s <= it.at_s < until_s)


def _env(spec: Json) -> dict[str, str]:
    return {one["name"]: str(one.get("value", "")) for one in spec.get("env", [])}


def _is_scheduled(pod: Json) -> bool:
    return any(
        it["type"] == "PodScheduled" and it["status"] == "True" for it in pod["status"].get("conditions", [])
    )


@contextmanager
def prometheus_of(node: Node, folder: Path, interval_s: float = 2.0) -> Iterator[str]:
    """The URL of a real Prometheus that scrapes the node's pods."""
    folder.mkdir(parents=True, exist_ok=True)
    interval = f"{interval_s:g}s"
    discovery = {"files": [str(node.targets)], "refresh_interval": "1s"}
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [{"job_name": "pods", "file_sd_configs": [discovery]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    binary, port = shutil.which("prometheus"), free_port()
    if binary is None:
        raise RuntimeError("there is no `prometheus` on the PATH")
    url = f"http://127.0.0.1:{port}"
    command = [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        process = start(with_parent(command), stdout=log, stderr=log)
    try:
        with httpx.Client(trust_env=False, timeout=1.0) as client:
            until_s = time.monotonic() + 30.0
            while time.monotonic() < until_s and process.poll() is None:
                try:
                    if client.get(f"{url}/-/ready").is_success:
                        break
                except httpx.HTTPError:
                    pass
                time.sleep(0.05)
        yield url
    finally:
        terminate(process, 5.0)
