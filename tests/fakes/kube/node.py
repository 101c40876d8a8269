"""A node: the pods of the fake cluster as real processes of this machine.

Each pod has an address of its own (127.64.0.1 and on; of another node 127.65.0.1 and on), as it would have a
network of its own; each of its
containers is a process with the CPUs that its limits allow, and the probes and the end that Seldon's operator
gives it. Containers are what their images run: `python -m MODULE` where the manifest says so, the
orchestrator, Seldon's own microservice with the class that MODEL_NAME names, or MLServer with the pipelines
of this repository. Names of Services lead to the ready pods
(`tests.fakes.kube.names`); Prometheus scrapes every container.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from ipa.adapters.processes import ONE_THREAD, free_port, start
from ipa.model.rolling import threads_of
from ipa.targets.local.forkserver import ForkedProcesses, serving_priority
from ipa.targets.local.replica import FRONTS, SERVER, write_cores
from tests.fakes.children import terminate, with_parent
from tests.fakes.kube.cluster import (
    ENGINE,
    HTTP_PORT,
    Cluster,
    ContainerState,
    Trouble,
    cores_of,
    deployment_name,
    entry_deployment,
    is_scheduled,
    service_of,
)
from tests.fakes.kube.names import HOSTS, OWN, SERVICES
from tests.fakes.kube.store import Json
from tests.fakes.seldon_core import LAUNCHER

# So often the controllers look, and at once when a container got ready or ended.
TICK_S = 0.25
# The second part of addresses: a node takes the first that no other has; Services are above.
BLOCKS, CLAIM_PORT = (64, 128), 4194
ENGINE_PORT = 8000
# Of an MLServer that is told none.
MLSERVER_PORT, MLSERVER_METRICS_PORT = 8080, 8082
# A container that ends is started again after this, and twice as long each time.
BACK_OFF_S = 10.0
PROBE_TIMEOUT_S = 1.0
# By these variables an image of Seldon's microservice is told its class, and what that is in the graph.
CLASS, SERVICE_TYPE = "MODEL_NAME", "SERVICE_TYPE"
# MLServer with several models.
STAGE = "ipa.dataplane.stage"
RUNTIMES = ("pipelines.ocr.runtime", "pipelines.digits.runtime", "pipelines.text.runtime")


@dataclass(slots=True)
class Container:
    """One process of a pod."""

    name: str
    spec: Json
    port: int
    probe: str
    scraped: tuple[int, str]
    log: Path
    pid: int = 0
    started_s: float = 0.0
    is_ready: bool = False
    is_probed: bool = False
    # Set once its process has ended.
    ended_s: float | None = None
    restarts: int = 0


@dataclass(slots=True)
class NodePod:
    """A pod: its containers share an address, and are ready and end together; each restarts by itself."""

    name: str
    app: str
    namespace: str
    sdep: str
    address: str
    containers: list[Container]
    # If it was ready at the last look.
    was_ready: bool = False
    # Set once it is taken away: when its containers are asked to end, and when they are made to.
    ask_s: float | None = None
    kill_s: float = 0.0
    is_asked: bool = False

    @property
    def is_ready(self) -> bool:
        """True if requests are led to it."""
        return self.ask_s is None and all(it.is_ready for it in self.containers)

    def container(self, name: str) -> Container:
        return next(it for it in self.containers if it.name == name)


@dataclass(frozen=True, slots=True)
class PodEvent:
    """A pod was started, got ready or was taken away; or its `container` ended or restarted."""

    at_s: float
    app: str
    pod: str
    what: str
    container: str = ""


@dataclass
class Node:
    """Runs the cluster's pods; use as a context manager. Its clock is that of the machine.

    A container is probed from `initial_delay_s` after its start on; a pod that is to end goes on for
    `pre_stop_s` first, and has `grace_s` in all. A container that ends by itself is started again after
    `back_off_s`, and twice as long each time. `folder` has a log for each container. `seldon_python` is an
    interpreter with Seldon's microservice, for pods of such images; `programs` are the modules that other
    images run.
    """

    cluster: Cluster
    folder: Path
    runtimes: Sequence[str] = RUNTIMES
    initial_delay_s: float = 0.3
    pre_stop_s: float = 2.0
    grace_s: float = 20.0
    back_off_s: float = BACK_OFF_S
    seldon_python: str = ""
    programs: Mapping[str, str] = field(default_factory=dict)
    monotonic: Callable[[], float] = time.monotonic
    events: list[PodEvent] = field(default_factory=list)
    _pods: dict[str, NodePod] = field(default_factory=dict)
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
        self._is_open = True
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node", daemon=True)

    def __enter__(self) -> Node:
        preloads = [
            "tests.fakes.kube.in_cluster",
            "tests.fakes.kube.executor",
            *FRONTS,
            SERVER,
            *self.runtimes,
        ]
        self._block, self._claim = _claimed_block()
        self._processes = ForkedProcesses(self.folder, preloads, self._exited)
        self._probes = ThreadPoolExecutor(4, thread_name_prefix="probe")
        self._client = httpx.Client(trust_env=False, timeout=PROBE_TIMEOUT_S)
        self.cluster.kubelet = self._state
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        self._news.set()
        self._thread.join()
        self._probes.shutdown()
        self._client.close()
        self._processes.close()
        self._claim.close()
        self.cluster.kubelet = None

    @property
    def environment(self) -> dict[str, str]:
        """The needs of a process beside `tests.fakes.kube.in_cluster` to reach Services by their names."""
        return {HOSTS: str(self.hosts)}

    @property
    def names(self) -> set[str]:
        """The names of all pods, those that end included."""
        return set(self._pods)

    def pods(self, app: str) -> list[NodePod]:
        """The pods of a Deployment that are not to end, those that are ready first."""
        pods = [it for it in self.all_pods(app) if it.ask_s is None]
        return sorted(pods, key=lambda it: not it.is_ready)

    def all_pods(self, app: str) -> list[NodePod]:
        """The pods of a Deployment, those that end included."""
        return [it for it in list(self._pods.values()) if it.app == app]

    def kill(self, pod: NodePod, container: str) -> None:
        """Kill the process of a container, as the kernel does where memory ends."""
        self._processes.kill(pod.container(container).pid, signal.SIGKILL)

    def _run(self) -> None:
        while self._is_open:
            with self.cluster.store.lock:
                self.cluster.tick()
                pods = {pod["metadata"]["name"]: pod for pod in self.cluster.store.everything("pods")}
                services = self._services()
            self._start_missing(pods)
            self._note_ends()
            self._end_spare(pods)
            self._probe()
            self._note_ready()
            self._tell(services)
            self._news.wait(TICK_S)
            self._news.clear()

    def _state(self, pod: Json) -> dict[str, ContainerState]:
        """The kubelet's statuses of a pod's containers."""
        here = self._pods.get(pod["metadata"]["name"])
        if here is None:
            return {one["name"]: (None, False) for one in pod["spec"]["containers"]}
        return {
            it.name: (Trouble.CRASH if it.ended_s is not None else None, it.is_ready)
            for it in here.containers
        }

    def _start_missing(self, pods: Mapping[str, Json]) -> None:
        now_s = self.monotonic()
        for name, pod in pods.items():
            here = self._pods.get(name)
            if here is None:
                if is_scheduled(pod):
                    self._run_pod(name, pod)
                continue
            for container in here.containers:
                if container.ended_s is None:
                    continue
                if now_s >= container.ended_s + self.back_off_s * 2 ** (container.restarts - 1):
                    self._start(here, container)
                    self._note(here, "restarted", container.name)

    def _run_pod(self, name: str, pod: Json) -> None:
        here = self._pods[name] = self._pod(name, pod)
        for container in here.containers:
            self._start(here, container)
        self._note(here, "started")

    def _pod(self, name: str, pod: Json) -> NodePod:
        self._count += 1
        address = f"127.{self._block}.{self._count // 250}.{self._count % 250 + 1}"
        metadata, specs = pod["metadata"], map(self._run_by, pod["spec"]["containers"])
        return NodePod(
            *(name, metadata["labels"]["app"], metadata.get("namespace", "default")),
            *(metadata["labels"].get("seldon-deployment-id", ""), address),
            [self._container(spec, self.folder / f"{name}.{spec['name']}.log") for spec in specs],
        )

    def _run_by(self, spec: Json) -> Json:
        """The container with the command of its image, if that is one of `programs`."""
        module = self.programs.get(spec.get("image", ""))
        return {**spec, "command": ["python", "-m", module]} if module else spec

    def _container(self, spec: Json, log: Path) -> Container:
        env = _env(spec)
        port = int(env.get("MLSERVER_HTTP_PORT", HTTP_PORT if "command" in spec else MLSERVER_PORT))
        if spec["name"] == ENGINE:
            port, probe, scraped = ENGINE_PORT, "/ready", (ENGINE_PORT, "/prometheus")
        elif "command" in spec:
            probe, scraped = "/v2/health/ready", (port, "/metrics")
        elif CLASS in env:
            probe, scraped = "/health/ping", (int(env["MLSERVER_METRICS_PORT"]), "/prometheus")
        else:
            probe = f"/v2/models/{env['MLSERVER_MODEL_NAME']}/ready"
            scraped = (
                int(env.get("MLSERVER_METRICS_PORT", MLSERVER_METRICS_PORT)),
                env.get("MLSERVER_METRICS_ENDPOINT", "/metrics"),
            )
        return Container(spec["name"], spec, port, probe, scraped, log)

    def _start(self, pod: NodePod, container: Container) -> None:
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
            OWN: pod.address,
            **_env(spec),
        }
        command = spec.get("command", [])
        is_model = spec["name"] != ENGINE and (not command or command[2] == STAGE)
        if spec["name"] == ENGINE:
            module, arguments = "tests.fakes.kube.executor", [*spec["args"], "--host", pod.address]
        elif command:
            module, arguments = command[2], command[3:]
        else:
            module, arguments = SERVER, ["start", str(self._empty())]
        if is_model and CLASS in env:
            microservice = [env[CLASS], "--service-type", env.get(SERVICE_TYPE, "MODEL")]
            order: Json = {"command": [self.seldon_python, "-c", LAUNCHER, *microservice], "yields": True}
        else:
            if is_model:
                env |= {"MLSERVER_HOST": pod.address, "MLSERVER_PARALLEL_WORKERS": "0"}
                env |= {"MLSERVER_DEBUG": "false"}
            order = {"module": module, "arguments": arguments, "yields": is_model}
        container.pid = self._processes.start(order, env=env, log=container.log)
        container.started_s, container.ended_s, container.is_ready = self.monotonic(), None, False

    def _empty(self) -> Path:
        """A folder without model settings: MLServer takes the model from its environment."""
        folder = self.folder / "models"
        folder.mkdir(exist_ok=True)
        return folder

    def _exited(self, pid: int, code: int) -> None:
        self._exits[pid] = code
        self._news.set()

    def _note_ends(self) -> None:
        now_s = self.monotonic()
        for pod in self._pods.values():
            for container in pod.containers:
                if container.pid in self._exits and container.ended_s is None:
                    container.ended_s, container.is_ready = now_s, False
                    container.restarts += 1
                    if pod.ask_s is None:
                        self._note(pod, "ended", container.name)

    def _end_spare(self, wanted: Mapping[str, Json]) -> None:
        now_s = self.monotonic()
        for name, pod in list(self._pods.items()):
            if name in wanted:
                continue
            if pod.ask_s is None:
                pod.ask_s, pod.kill_s = now_s + self.pre_stop_s, now_s + self.grace_s
                self._note(pod, "taken")
            running = [it for it in pod.containers if it.ended_s is None]
            if not running:
                del self._pods[name]
            elif now_s >= pod.kill_s:
                self._signal(running, signal.SIGKILL)
            elif now_s >= pod.ask_s and not pod.is_asked:
                pod.is_asked = True
                self._signal(running, signal.SIGTERM)

    def _signal(self, containers: Iterable[Container], number: signal.Signals) -> None:
        for container in containers:
            self._processes.kill(container.pid, number)

    def _probe(self) -> None:
        """Ask the containers that are not ready yet; one that is stays so until its process ends."""
        now_s = self.monotonic()
        for pod in self._pods.values():
            for container in pod.containers:
                is_due = now_s - container.started_s >= self.initial_delay_s
                if is_due and not (container.is_ready or container.is_probed) and container.ended_s is None:
                    container.is_probed = True
                    self._probes.submit(self._ask, pod, container)

    def _ask(self, pod: NodePod, container: Container) -> None:
        pid = container.pid
        url = f"http://{pod.address}:{container.port}{container.probe}"
        try:
            is_ready = self._client.get(url).status_code == httpx.codes.OK
        except httpx.HTTPError:
            is_ready = False
        container.is_probed = False
        if is_ready and container.pid == pid and pid not in self._exits:
            for each in _family(pid):
                serving_priority(each)
            container.is_ready = True
            self._news.set()

    def _note_ready(self) -> None:
        for pod in self._pods.values():
            if pod.is_ready and not pod.was_ready:
                self._note(pod, "ready")
            pod.was_ready = pod.is_ready

    def _services(self) -> dict[str, tuple[str, bool]]:
        """The Services by name, also of predictors: the Deployment each leads to, and if it is headless."""
        services: dict[str, tuple[str, bool]] = {}
        for it in self.cluster.store.everything("services"):
            name, spec = f"{it['metadata']['name']}.{it['metadata']['namespace']}", it["spec"]
            services[name] = spec["selector"]["app"], "clusterIP" in spec
        for sdep in self.cluster.store.everything("seldondeployments"):
            is_headless = "seldon.io/headless-svc" in sdep["spec"].get("annotations", {})
            for predictor in sdep["spec"]["predictors"]:
                services[service_of(sdep, predictor)] = entry_deployment(sdep, predictor), is_headless
                for index, component in enumerate(predictor["componentSpecs"]):
                    app = deployment_name(sdep, predictor, index)
                    for container in component["spec"]["containers"]:
                        services[service_of(sdep, predictor, container["name"])] = app, is_headless
        return services

    def _tell(self, services: Mapping[str, tuple[str, bool]]) -> None:
        """Write what the DNS and Prometheus' discovery of pods say."""
        ready: dict[str, list[str]] = {}
        for pod in self._pods.values():
            if pod.is_ready:
                ready.setdefault(pod.app, []).append(pod.address)
        for name in services:
            self._addresses.setdefault(name, f"{SERVICES}0.{len(self._addresses) + 1}")
        hosts = {
            name: {"address": "" if is_headless else self._addresses[name], "pods": ready.get(app, [])}
            for name, (app, is_headless) in services.items()
        }
        self._write(self.hosts, hosts)
        groups = [
            {
                "targets": [f"{pod.address}:{it.scraped[0]}"],
                "labels": {
                    "__metrics_path__": it.scraped[1],
                    "namespace": pod.namespace,
                    "pod": pod.name,
                    "container": it.name,
                    # As deploy/prometheus/podmonitor.yaml has it: the executor says so itself.
                    "deployment_name": "" if it.name == ENGINE else pod.sdep,
                },
            }
            for pod in self._pods.values()
            for it in pod.containers
            if it.ended_s is None and pod.ask_s is None
        ]
        self._write(self.targets, groups)

    def _write(self, path: Path, content: Any) -> None:
        text = json.dumps(content)
        if self._written.get(path) != text:
            self._written[path] = text
            part = path.with_suffix(".part")
            part.write_text(text)
            part.replace(path)

    def _note(self, pod: NodePod, what: str, container: str = "") -> None:
        self.events.append(PodEvent(self.monotonic(), pod.app, pod.name, what, container))


def _family(pid: int) -> list[int]:
    """The process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return [pid]


def _env(spec: Json) -> dict[str, str]:
    return {one["name"]: str(one.get("value", "")) for one in spec.get("env", [])}


def _claimed_block() -> tuple[int, socket.socket]:
    """The second part of a node's addresses, and the socket that keeps them from other nodes."""
    for block in range(*BLOCKS):
        claim = socket.socket()
        try:
            claim.bind((f"127.{block}.255.254", CLAIM_PORT))
        except OSError:
            claim.close()
        else:
            return block, claim
    raise RuntimeError("every block of addresses is taken by another node")


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
