"""Keeps one pipeline running as configured: a router, a queue a stage, and the stages' replicas."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import httpx

from ipa.adapters.local.affinity import CoreMeter, CpuMap
from ipa.adapters.local.processes import Processes, free_port
from ipa.adapters.local.replica import HOST, HUNG_AFTER, Phase, Replica, launch, local_run, preloads
from ipa.model.errors import ConfigurationError, ConflictError, UnavailableError
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig

log = logging.getLogger(__name__)

# How often to look while something changes, and while nothing does.
BUSY_S = 0.05
CALM_S = 1.0
HEALTH_CHECK_S = 2.0
REQUEST_TIMEOUT_S = 2.0
# A server with nothing in it ends at once; one that does not is killed.
STOP_GRACE_S = 3.0
# A replica that dies is replaced after this, doubled for each death in a row.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0
# So many new replicas in a row that die before they are ready make a change fail.
GIVE_UP_AFTER = 3


# What a queue was told: batch size, batch timeout, URLs of the replicas.
Told = tuple[int, float, tuple[str, ...]]


@dataclass(slots=True)
class StageRun:
    """What one stage should run and what runs."""

    stage: Stage
    config: StageConfig
    queue_port: int
    queue_pid: int = 0
    replicas: list[Replica] = field(default_factory=list)
    told: Told | None = None
    deaths: int = 0
    start_after_s: float = 0.0
    failure: str = ""

    @property
    def queue_url(self) -> str:
        """Base URL of its queue."""
        return f"http://{HOST}:{self.queue_port}"

    def ready(self) -> list[Replica]:
        """The replicas that serve the wanted variant on the wanted cores."""
        return [it for it in self.replicas if it.phase is Phase.READY and it.serves(self.config)]

    def is_settled(self) -> bool:
        """Whether exactly what is wanted runs, and the queue knows."""
        ready = self.ready()
        wanted = (self.config.batch_size, tuple(it.url for it in ready))
        told = (self.told[0], self.told[2]) if self.told else None
        return len(ready) == len(self.replicas) == self.config.replicas and told == wanted


class PipelineRunner:
    """One pipeline's processes. Wishes are set by any thread; one thread carries them out."""

    def __init__(
        self, pipeline: Pipeline, configs: Sequence[StageConfig], folder: Path, cpus: CpuMap
    ) -> None:
        self.pipeline = pipeline
        self._folder = folder
        self._cpus = cpus
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._is_stopping = False
        self._numbers = count(1)
        self._exits: deque[tuple[int, int]] = deque()
        self._meter = CoreMeter()
        self._client = httpx.Client(timeout=REQUEST_TIMEOUT_S, trust_env=False)
        self._router_port = free_port()
        self._router_pid = 0
        self._health_checked_s = 0.0
        self.restarts = 0
        self.revision = 1
        self.decision_id = ""
        wanted = checked(pipeline, configs)
        self._stages = [StageRun(pipeline.stage(it.stage), it, free_port()) for it in wanted]
        self._processes = Processes(folder, preloads(pipeline), self._exited)
        self._thread = threading.Thread(target=self._run, name=f"runner-{pipeline.name}", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Base URL of the router."""
        return f"http://{HOST}:{self._router_port}"

    @property
    def scrape_targets(self) -> list[str]:
        """host:port of router and queues."""
        return [f"{HOST}:{port}" for port in (self._router_port, *(it.queue_port for it in self._stages))]

    @property
    def core_seconds(self) -> float:
        """Core seconds of all replicas so far, those that overlap in a change included."""
        with self._lock:
            return self._meter.core_seconds(time.monotonic())

    def pids(self, stage: str) -> list[int]:
        """Process ids of the stage's replicas that serve."""
        with self._lock:
            run = next(it for it in self._stages if it.stage.name == stage)
            return [replica.pid for replica in run.replicas if replica.phase is Phase.READY]

    def state(self) -> tuple[str, list[tuple[StageConfig, int]], bool]:
        """The revision, each stage's wanted configuration and ready replicas, and whether it is settled."""
        with self._lock:
            seen = [(it.config, len(it.ready())) for it in self._stages]
            return str(self.revision), seen, all(it.is_settled() for it in self._stages)

    def wish(self, configs: Sequence[StageConfig], revision: str, decision_id: str) -> str:
        """The new revision; ConflictError where the present one is not `revision`."""
        wanted = checked(self.pipeline, configs)
        with self._lock:
            if revision != str(self.revision):
                raise ConflictError(
                    f"pipeline {self.pipeline.name} is at revision {self.revision}, not {revision}",
                    hint="Read it again and decide again",
                )
            self.revision += 1
            self.decision_id = decision_id
            for run, config in zip(self._stages, wanted, strict=True):
                run.config = config
                run.failure = ""
                run.deaths = 0
                run.start_after_s = 0.0
            self._wake.set()
            return str(self.revision)

    def progress(self) -> tuple[bool, list[str], list[str]]:
        """Whether it is settled, what failed, and what it waits for."""
        with self._lock:
            failed = [f"{it.stage.name}: {it.failure}" for it in self._stages if it.failure]
            waits = [
                f"{it.stage.name}: {len(it.ready())} of {it.config.replicas} replicas ready"
                for it in self._stages
                if not it.is_settled()
            ]
        return not waits, failed, waits

    def is_answering(self) -> bool:
        """Whether the router answers."""
        try:
            return self._client.get(f"{self.endpoint}/v2/health/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End every process."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join()
        self._processes.close()
        with self._lock:
            self._cpus.release(str(self._log("router")))
            for run in self._stages:
                self._cpus.release(str(self._log(f"queue-{run.stage.name}")))
                for replica in run.replicas:
                    self._gone(replica)
                run.replicas.clear()
        self._client.close()

    def _run(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                self._pass()
            except UnavailableError as error:
                log.warning("%s; starting all of %s anew", error.message, self.pipeline.name)
                self._restart_all()
            is_busy = not all(it.is_settled() for it in self._stages)
            self._wake.wait(BUSY_S if is_busy else CALM_S)

    def _restart_all(self) -> None:
        self._processes.close()
        self._processes = Processes(self._folder, preloads(self.pipeline), self._exited)

    def _pass(self) -> None:
        """Move everything one step towards what is wanted."""
        self._note_exits()
        if not self._processes.is_open:
            raise UnavailableError("the process that starts model servers has ended")
        self._keep_router_and_queues()
        self._check_health()
        for run in self._stages:
            self._note_ready(run)
            self._start_missing(run)
            with self._lock:
                self._drain_surplus(run)
                wanted = self._wanted_of_queue(run)
            self._stop_drained(run, self._tell_queue(run, wanted))

    def _keep_router_and_queues(self) -> None:
        for run in self._stages:
            if not run.queue_pid:
                name = run.stage.name
                arguments = ["--pipeline", self.pipeline.name, "--stage", name, "--port", str(run.queue_port)]
                run.queue_pid = self._start("ipa.dataplane.queue", arguments, f"queue-{name}")
                run.told = None
        if not self._router_pid:
            arguments = ["--pipeline", self.pipeline.name, "--port", str(self._router_port)]
            for run in self._stages:
                arguments += ["--stage", f"{run.stage.name}={run.queue_url}"]
            if self.pipeline.drop_after_s is not None:
                arguments += ["--drop-after-s", str(self.pipeline.drop_after_s)]
            self._router_pid = self._start("ipa.dataplane.router", arguments, "router")

    def _start(self, module: str, arguments: list[str], name: str) -> int:
        log_path = self._log(name)
        cpus = self._cpus.place(str(log_path))
        pid = self._processes.start_module(module, arguments, env={}, cpus=cpus, log=log_path)
        self._cpus.started(str(log_path), pid)
        return pid

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _check_health(self) -> None:
        now_s = time.monotonic()
        if now_s - self._health_checked_s < HEALTH_CHECK_S:
            return
        self._health_checked_s = now_s
        for run in self._stages:
            for replica in list(run.replicas):
                if replica.phase is not Phase.READY:
                    continue
                replica.failed_checks = 0 if replica.is_ready(self._client) else replica.failed_checks + 1
                if replica.failed_checks >= HUNG_AFTER:
                    log.warning("%s does not answer; killing it", replica.key)
                    self._processes.kill(replica.pid, signal.SIGKILL)

    def _note_ready(self, run: StageRun) -> None:
        for replica in run.replicas:
            if replica.phase is Phase.STARTING and replica.is_ready(self._client):
                log.info("%s is ready after %.2f s", replica.key, time.monotonic() - replica.started_s)
                with self._lock:
                    replica.phase = Phase.READY
                    run.deaths = 0

    def _start_missing(self, run: StageRun) -> None:
        now_s = time.monotonic()
        with self._lock:
            config = run.config
            coming = [it for it in run.replicas if it.phase in {Phase.STARTING, Phase.READY}]
            missing = config.replicas - sum(it.serves(config) for it in coming)
            if run.failure or now_s < run.start_after_s:
                return
        for _ in range(missing):
            number = next(self._numbers)
            replica = launch(self._processes, self._cpus, self._folder, self.pipeline, config, number, now_s)
            with self._lock:
                run.replicas.append(replica)
                self._meter.add(replica.cores, now_s)

    def _drain_surplus(self, run: StageRun) -> None:
        """Old replicas go once the new ones are ready; of too many equal ones, the youngest."""
        if len(run.ready()) < run.config.replicas:
            return
        keep = run.ready()[: run.config.replicas]
        for replica in run.replicas:
            if replica not in keep and replica.phase in {Phase.STARTING, Phase.READY}:
                replica.phase = Phase.DRAINING

    def _wanted_of_queue(self, run: StageRun) -> Told:
        ready = [it for it in run.replicas if it.phase is Phase.READY]
        batch_size = run.config.batch_size
        if run.told and not any(it.serves(run.config) for it in ready):
            # Until the first new one serves, the old variant keeps the batch size it was planned with.
            batch_size = run.told[0]
        return batch_size, run.stage.batch_timeout_s, tuple(it.url for it in ready)

    def _tell_queue(self, run: StageRun, wanted: Told) -> list[str] | None:
        """The URLs that still drain; None where the queue did not answer."""
        address = f"{run.queue_url}/admin/config"
        try:
            if run.told != wanted:
                keys = ("batch_size", "batch_timeout_s", "replicas")
                response = self._client.put(address, json=dict(zip(keys, wanted, strict=True)))
            elif any(it.phase is Phase.DRAINING for it in run.replicas):
                response = self._client.get(address)
            else:
                return []
            response.raise_for_status()
        except httpx.HTTPError:
            run.told = None
            return None
        run.told = wanted
        return [str(url) for url in response.json()["draining"]]

    def _stop_drained(self, run: StageRun, draining: list[str] | None) -> None:
        now_s = time.monotonic()
        for replica in list(run.replicas):
            if replica.phase is Phase.DRAINING and draining is not None and replica.url not in draining:
                replica.phase = Phase.STOPPING
                replica.started_s = now_s
                self._processes.kill(replica.pid, signal.SIGTERM)
            elif replica.phase is Phase.STOPPING and now_s - replica.started_s > STOP_GRACE_S:
                self._processes.kill(replica.pid, signal.SIGKILL)

    def _exited(self, pid: int, code: int) -> None:
        # Called by the thread that also hears of starts: it must not wait for this runner.
        self._exits.append((pid, code))
        self._wake.set()

    def _note_exits(self) -> None:
        while self._exits:
            pid, code = self._exits.popleft()
            with self._lock:
                if pid == self._router_pid:
                    self._router_pid = 0
                    self._cpus.release(str(self._log("router")))
                    self.restarts += 1
                for run in self._stages:
                    self._note_exit(run, pid, code)

    def _note_exit(self, run: StageRun, pid: int, code: int) -> None:
        if pid == run.queue_pid:
            run.queue_pid = 0
            self._cpus.release(str(self._log(f"queue-{run.stage.name}")))
            self.restarts += 1
        for replica in [it for it in run.replicas if it.pid == pid]:
            run.replicas.remove(replica)
            self._gone(replica)
            if replica.phase in {Phase.STARTING, Phase.READY}:
                self._died(run, replica, code)

    def _gone(self, replica: Replica) -> None:
        self._meter.add(-replica.cores, time.monotonic())
        self._cpus.release(str(replica.log))

    def _died(self, run: StageRun, replica: Replica, code: int) -> None:
        self.restarts += 1
        log.warning("%s ended with %d: %s", replica.key, code, replica.last_words())
        run.deaths += 1
        if run.deaths >= GIVE_UP_AFTER and replica.phase is Phase.STARTING and replica.serves(run.config):
            run.failure = f"{replica.variant} ends before it is ready: {replica.last_words()}"
        # The first is replaced at once: it was probably killed, and requests wait for it.
        wait_s = FIRST_BACKOFF_S * 2 ** (run.deaths - 1) if run.deaths > 1 else 0.0
        run.start_after_s = time.monotonic() + min(MAX_BACKOFF_S, wait_s)


def checked(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[StageConfig]:
    """One configuration a stage in the pipeline's order, all of them runnable here.

    ConflictError where stages are missing or unknown; NotFoundError and ConfigurationError for variants;
    ConfigurationError for a graph that is no chain.
    """
    if not pipeline.is_chain:
        raise ConfigurationError(
            f"pipeline {pipeline.name} is no chain of stages, and the local runtime runs chains only",
            hint="Run it on Seldon (`--target kubernetes`), or give it a graph such as [a, b].",
        )
    by_stage = {config.stage: config for config in configs}
    names = [stage.name for stage in pipeline.stages]
    if len(by_stage) < len(configs):
        raise ConfigurationError(
            f"pipeline {pipeline.name} cannot run several configurations side by side on this machine",
            hint="Run it on Kubernetes for that, or ask for one configuration alone.",
        )
    if sorted(by_stage) != sorted(names):
        raise ConflictError(
            f"pipeline {pipeline.name} has the stages {', '.join(names)}, the change {', '.join(by_stage)}"
        )
    for config in configs:
        local_run(pipeline, config.stage, config.variant)
    return [replace(by_stage[name]) for name in names]
