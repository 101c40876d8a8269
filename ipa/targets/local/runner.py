"""The processes of one pipeline: a router, a queue per stage, and the stages' replicas."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from ipa.control.ports import Rollout, RolloutPhase, StageState, WorkloadState
from ipa.dataplane.http import FIRST_PART, PARTS
from ipa.model.decision import Change
from ipa.model.errors import READ_AGAIN, ConflictError, UnavailableError
from ipa.model.measured import resident_variants, stand_ins
from ipa.model.parts import order_of, paired, parts_of, share_of
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig, cores_of
from ipa.profiling.points import largest_batch, profiled_times
from ipa.serving.batchqueue import QueueConfig
from ipa.targets.local.forkserver import ForkedProcesses, serving_priority
from ipa.targets.local.front import Front, PartRun, StageRun, router_socket
from ipa.targets.local.replica import (
    HUNG_AFTER,
    Phase,
    Replica,
    VariantLoader,
    check_adoptable,
    checked,
    launch,
    model_of,
    preloads,
    switch,
)

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
# A change fails after this many new replicas in a row that die before they are ready.
GIVE_UP_AFTER = 3
# Health checks at once: some replicas may not answer for the whole of REQUEST_TIMEOUT_S.
PROBES = 8


class PipelineRunner:
    """One pipeline's processes. Any thread sets the wanted state; one thread carries it out."""

    def __init__(
        self, pipeline: Pipeline, configs: Sequence[StageConfig], folder: Path, port: int = 0
    ) -> None:
        wanted = checked(pipeline, configs)
        # First, since it may fail and nothing has to be closed yet.
        listener = router_socket(port, folder / "router.port")
        self.pipeline = pipeline
        # The same with the pins of people, which say what queues may choose.
        self._pinned = pipeline
        self._folder = folder
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._is_stopping = False
        self._numbers = count(1)
        self._exits: deque[tuple[int, int]] = deque()
        # The cores of all replicas now, and their core seconds until a moment.
        self._cores = self._core_seconds = self._metered_s = 0.0
        self._client = httpx.Client(timeout=REQUEST_TIMEOUT_S, trust_env=False)
        self._probes = ThreadPoolExecutor(PROBES, thread_name_prefix=f"probe-{pipeline.name}")
        self._loader = VariantLoader(pipeline, folder, self._client, self._wake)
        self._health_checked_s = 0.0
        # Of its processes that ended unasked and were replaced.
        self.restarts = 0
        self.corrections = 0
        self.revision = 1
        self.decision_id = ""
        self._queues = {stage.name: self._queue(stage) for stage in pipeline.stages}
        self._parts: list[PartRun] = []
        for part in parts_of(wanted):
            self._open(part)
        # The shares that the router has: in a change those before, until all parts carry what they get.
        self._shares = self._wanted_shares()
        self._router_order = self._order_of_router(self._shares)
        self._router = Front(
            "ipa.dataplane.router", "router", folder, self._router_environment, socket=listener
        )
        # Base URL of the router.
        self.endpoint = self._router.url
        self.fronts = (*self._queues.values(), self._router)
        self._processes = self._start_processes()
        self._thread = threading.Thread(target=self._run, name=f"runner-{pipeline.name}", daemon=True)
        self._thread.start()

    def _queue(self, stage: Stage) -> Front:
        def environment() -> dict[str, str]:
            # The restarted process keeps its configuration: requests wait for it.
            runs = [run for run in self._stages if run.stage.name == stage.name]
            parts = {run.part: run.applied.to_json() for run in runs if run.applied}
            return {
                **{"IPA_PIPELINE": self.pipeline.name, "IPA_STAGE": stage.name},
                **{"IPA_MODEL": model_of(stage), "IPA_PARTS": json.dumps(parts)},
            }

        return Front("ipa.dataplane.queue", f"queue-{stage.name}", self._folder, environment)

    @property
    def _stages(self) -> list[StageRun]:
        """Every stage of every part."""
        return [run for part in list(self._parts) for run in part.runs]

    def _active(self) -> list[PartRun]:
        """The wanted parts."""
        return [part for part in self._parts if not part.is_going]

    def _wanted_shares(self) -> dict[str, int]:
        """The wanted percent of the requests of each part that is to have any."""
        return {it.name: share for it in self._active() if (share := share_of(it.configs))}

    def _open(self, configs: Sequence[StageConfig]) -> None:
        """Run the configurations as a part: one that is going and has the same variants, else a new one."""
        variants = [config.variant for config in configs]
        for part in self._parts:
            if part.is_going and [config.variant for config in part.configs] == variants:
                part.want(configs)
                return
        name = next(it for it in PARTS if all(part.name != it for part in self._parts))
        runs = [StageRun(name, self.pipeline.stage(it.stage), it, self._queues[it.stage]) for it in configs]
        self._parts = [*self._parts, PartRun(name, runs)]

    @property
    def scrape_targets(self) -> list[str]:
        """host:port of the metrics of router and queues."""
        return [front.metrics_address for front in (self._router, *self._queues.values())]

    @property
    def core_seconds(self) -> float:
        """Core seconds of all replicas so far, those that overlap in a change included."""
        self._meter(0.0)
        return self._core_seconds

    def _meter(self, cores: float) -> None:
        """Add this many cores to the count from now on."""
        with self._lock:
            now_s = time.monotonic()
            self._core_seconds += self._cores * (now_s - self._metered_s)
            self._cores, self._metered_s = self._cores + cores, now_s

    def pids(self, stage: str) -> list[int]:
        """Process ids of the stage's replicas that serve."""
        with self._lock:
            runs = [it for it in self._stages if it.stage.name == stage]
            return [it.pid for run in runs for it in run.replicas if it.phase is Phase.READY]

    def front_pids(self) -> dict[str, int]:
        """Process ids of router and queues by their names; 0 while one is starting."""
        return {front.name: front.pid for front in self.fronts}

    def read(self, pinned: Pipeline) -> WorkloadState:
        """The revision, each stage's wanted configuration and ready replicas, and whether it is settled.

        Parts are in their order. `pinned` is the pipeline with the pins of people, which queues follow.
        """
        with self._lock:
            self._pinned = pinned
            active = sorted(self._active(), key=lambda part: order_of(part.configs))
            stages = [
                StageState(run.config, len(run.ready()), part=part.name)
                for part in active
                for run in part.runs
            ]
            return WorkloadState(str(self.revision), tuple(stages), self._is_settled())

    def write(self, change: Change) -> str:
        """Return the new revision; ConflictError if the present one is not that of the change."""
        wanted = checked(self.pipeline, change.configs)
        with self._lock:
            problem = ""
            if change.revision != str(self.revision):
                problem = f"is at revision {self.revision}, not {change.revision}"
            elif len(self._parts) + len(parts_of(wanted)) > len(PARTS):
                problem = "still ends the configurations of earlier changes"
            if problem:
                raise ConflictError(f"pipeline {self.pipeline.name} {problem}", hint=READ_AGAIN)
            self.revision += 1
            self.decision_id = change.decision_id
            self._loader.adopt(self.pipeline)
            free = self._active()
            for before, after in paired([config for part in free for config in part.configs], wanted):
                here = next((part for part in free if part.configs == before), None)
                if here is not None:
                    free.remove(here)
                    if after is None:
                        here.is_going = True
                    else:
                        here.want(after)
                elif after is not None:
                    self._open(after)
            for run in self._stages:
                run.failure, run.deaths, run.start_after_s = "", 0, 0.0
            self._wake.set()
            return str(self.revision)

    def _is_settled(self) -> bool:
        """True if the wanted parts run as wanted, with their share of the requests, and no others run."""
        is_alone = not any(part.is_going for part in self._parts)
        return is_alone and self._is_shared_out() and all(it.is_settled() for it in self._stages)

    def check(self, pipeline: Pipeline) -> None:
        """ConflictError if these processes cannot run the pipeline after the change of its file."""
        with self._lock:
            check_adoptable(self.pipeline, pipeline)

    def adopt(self, pipeline: Pipeline) -> None:
        """Take over the pipeline's changed file."""
        with self._lock:
            self.pipeline = self._pinned = pipeline
            self._loader.adopt(pipeline)
            for run in self._stages:
                run.stage, run.failure, run.deaths = pipeline.stage(run.stage.name), "", 0
            self._wake.set()

    def progress(self) -> Rollout:
        """The state of the rollout of the wanted configurations."""
        with self._lock:
            runs = [run for part in self._active() for run in part.runs]
            failed = [f"{it.stage.name}: {it.failure}" for it in runs if it.failure]
            waits = [
                f"{it.stage.name}: {len(it.ready())} of {it.config.replicas} replicas ready"
                for it in runs
                if not it.is_settled()
            ]
            if not self._is_shared_out():
                waits.append("requests are routed as before until all of these serve")
            waits += [f"{', '.join(map(str, part.configs))} ends" for part in self._parts if part.is_going]
            if failed:
                return Rollout(RolloutPhase.FAILED, "; ".join(failed))
            if self._is_settled():
                return Rollout(RolloutPhase.READY)
            return Rollout(RolloutPhase.PROGRESSING, "; ".join(waits))

    def is_answering(self) -> bool:
        """True if the router answers."""
        try:
            return self._client.get(f"{self.endpoint}/v2/health/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End every process."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join()
        self._probes.shutdown()
        self._processes.close()
        self._loader.close()
        with self._lock:
            for front in self.fronts:
                front.close()
            for run in self._stages:
                for replica in run.replicas:
                    self._meter(-replica.cores)
                run.replicas.clear()
        self._client.close()

    def _run(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                self._pass()
            except UnavailableError as error:
                log.warning("%s; starting all of %s anew", error.message, self.pipeline.name)
                self._processes.close()
                self._processes = self._start_processes()
            with self._lock:
                is_busy = not self._is_settled() or not all(front.pid for front in self.fronts)
            self._wake.wait(BUSY_S if is_busy else CALM_S)

    def _start_processes(self) -> ForkedProcesses:
        fds = [fd for front in self.fronts for fd in front.fds]
        return ForkedProcesses(self._folder, preloads(self.pipeline), self._exited, fds)

    def _pass(self) -> None:
        """Move everything one step towards the wanted state."""
        self._note_exits()
        if not self._processes.is_open:
            raise UnavailableError("the process that starts model servers exited")
        for front in self.fronts:
            if not front.pid and time.monotonic() >= front.start_after_s:
                front.start(self._processes)
        self._check_health()
        self._share_out()
        for run in self._stages:
            for replica in run.replicas:
                if replica.phase is Phase.STARTING and replica.is_ready(self._client):
                    log.info("%s is ready after %.2f s", replica.key, time.monotonic() - replica.started_s)
                    serving_priority(replica.pid)
                    with self._lock:
                        replica.phase, run.deaths = Phase.READY, 0
            self._start_missing(run)
            with self._lock:
                self._load_variants(run)
                self._drain_surplus(run)
                wanted = self._wanted_of_queue(run)
            applied = run.applied.to_json() if run.applied else None
            report = self._follow(run.queue, run.part, applied, wanted.to_json())
            run.applied = run.applied if report is None else wanted
            for replica in run.replicas:
                is_suspect = report is not None and replica.url in report.get("suspects", ())
                if is_suspect and replica.phase in {Phase.READY, Phase.DRAINING}:
                    log.warning("%s has worked on a batch for too long; killing it", replica.key)
                    self._processes.kill(replica.pid, signal.SIGKILL)
            self._stop_drained(run, None if report is None else report.get("draining"))
        with self._lock:
            self._parts = [part for part in self._parts if not part.has_ended]

    def _share_out(self) -> None:
        """Move requests to the wanted parts once all of these carry theirs; end parts without requests."""
        with self._lock:
            shares, going = self._shares, [part for part in self._parts if part.is_going]
            if all(run.carries() for part in self._active() for run in part.runs):
                shares = self._wanted_shares()
            order = self._order_of_router(shares)
        report = self._follow(self._router, FIRST_PART, self._router_order, order)
        if report is None:
            return
        with self._lock:
            self._shares, self._router_order = shares, order
            for part in going:
                if (
                    part.is_going
                    and part.name not in shares
                    and not report.get("in_flight", {}).get(part.name)
                ):
                    for run in part.runs:
                        run.config = replace(run.config, replicas=0)

    def _order_of_router(self, shares: dict[str, int]) -> dict[str, Any]:
        times = {"sla_s": self.pipeline.sla.latency_s, "drop_after_s": self.pipeline.deadline_s}
        return {"shares": shares, **times}

    def _router_environment(self) -> dict[str, str]:
        return {
            "IPA_PIPELINE": self.pipeline.name,
            "IPA_STAGES": " ".join(f"{stage}={queue.url}" for stage, queue in self._queues.items()),
            "IPA_DROP_AFTER_S": str(self.pipeline.deadline_s),
            "IPA_SLA_S": str(self.pipeline.sla.latency_s),
            "IPA_SHARES": json.dumps(self._shares),
        }

    def _follow(
        self, front: Front, part: str, applied: dict[str, Any] | None, order: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The report of a router or queue, after sending the order if it is new; None if it sends none.

        If its settings differ from the order although it was sent, it is sent again.
        """
        if not front.pid:
            return None
        is_answering, report = True, None
        try:
            if applied == order:
                report = front.ask(self._client, part)
                if any(report.get(key) != value for key, value in order.items()):
                    self.corrections += 1
                    log.warning("%s was changed to %s; restoring it", front.name, str(report)[:300])
                    report = None
            report = report or front.ask(self._client, part, order)
        except (httpx.HTTPError, ValueError) as error:
            log.debug("%s did not answer: %s", front.name, error)
            is_answering = not isinstance(error, httpx.TimeoutException)
        if front.is_hung(is_answering):
            log.warning("%s of %s does not answer; killing it", front.name, self.pipeline.name)
            front.failed_checks = 0
            self._processes.kill(front.pid, signal.SIGKILL)
        return report

    def _check_health(self) -> None:
        now_s = time.monotonic()
        if now_s - self._health_checked_s < HEALTH_CHECK_S:
            return
        self._health_checked_s = now_s
        ready = [it for run in self._stages for it in run.replicas if it.phase is Phase.READY]
        for replica, is_ready in zip(
            ready, self._probes.map(lambda it: it.is_ready(self._client), ready), strict=True
        ):
            replica.failed_checks = 0 if is_ready else replica.failed_checks + 1
            if replica.failed_checks >= HUNG_AFTER:
                log.warning("%s does not answer; killing it", replica.key)
                self._processes.kill(replica.pid, signal.SIGKILL)

    def _start_missing(self, run: StageRun) -> None:
        now_s = time.monotonic()
        with self._lock:
            config = run.config
            coming = [it for it in run.replicas if it.phase in {Phase.STARTING, Phase.READY}]
            missing = config.replicas - sum(it.fits(config) for it in coming)
            if run.failure or now_s < run.start_after_s:
                return
        for _ in range(missing):
            number = next(self._numbers)
            replica = launch(self._processes, self._folder, self.pipeline, config, number, now_s)
            with self._lock:
                run.replicas.append(replica)
                self._meter(replica.cores)

    def _load_variants(self, run: StageRun) -> None:
        """Load the resident variants, and switch to the wanted one if it is loaded."""
        if run.stage.residents == 1:
            return

        def resize(replica: Replica, cores: float) -> None:
            before = replica.cores
            try:
                replica.resize(cores)
                self._meter(cores - before)
            except OSError as error:
                run.failure = f"{replica.key} cannot be resized to {cores_of(cores)}: {error}"

        config, replicas, may_shrink = run.config, run.replicas, self._is_shared_out()
        self._loader.follow(config, replicas)
        switch(self.pipeline, config, replicas, resize, may_shrink=may_shrink)
        if not run.ready():
            run.failure = run.failure or self._loader.failure(config, replicas)

    def _is_shared_out(self) -> bool:
        """True if requests are split as wanted."""
        return self._shares == self._wanted_shares()

    def _drain_surplus(self, run: StageRun) -> None:
        """Drain old replicas once the new ones are ready; of too many equal ones, the youngest.

        Until requests are split as wanted, all of them are needed.
        """
        if len(run.ready()) < run.config.replicas or not self._is_shared_out():
            return
        keep = run.ready()[: run.config.replicas]
        for replica in run.replicas:
            if replica not in keep and replica.phase in {Phase.STARTING, Phase.READY}:
                replica.phase = Phase.DRAINING

    def _wanted_of_queue(self, run: StageRun) -> QueueConfig:
        ready = [it for it in run.replicas if it.phase is Phase.READY]
        batch_size = run.config.batch_size
        serves = any(it.serves(run.config) for it in ready)
        if run.applied and not (serves and self._is_shared_out()):
            # Until the first new one serves, and requests go as planned, the old one keeps its batch size.
            batch_size = run.applied.batch_size
        pinned = self._pinned.stage(run.stage.name)
        largest_batch_size = largest_batch(pinned, self.pipeline.bounds, batch_size)
        others = {it.url: self._stand_ins(run, it) for it in ready}
        variants = {it.url: (it.variant, *others[it.url][0]) for it in ready}
        heavier = {url: names for url, (_, names) in others.items() if names}
        cores = min((it.cores for it in ready), default=run.config.cores)
        profiled_s = profiled_times(run.stage, self.pipeline.bounds, cores)
        timeout_s = run.stage.batch_timeout_s
        return QueueConfig(batch_size, largest_batch_size, timeout_s, variants, profiled_s, heavier)

    def _stand_ins(self, run: StageRun, replica: Replica) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The lighter and the heavier variants that its queue may choose instead of the one that it runs.

        None while the wanted variant has to be loaded first: it may replace one of them.
        """
        resident: Sequence[str] = ()
        if run.config.variant in replica.loaded:
            resident = resident_variants(self.pipeline, run.stage.name, run.config.variant)
        there = replica.loaded.intersection(resident)
        lighter, heavier = stand_ins(self._pinned, run.stage.name, replica.variant, there)
        replica.set_stand_ins(lighter + heavier, time.monotonic())
        return lighter, heavier

    def _stop_drained(self, run: StageRun, draining: Sequence[str] | None) -> None:
        now_s = time.monotonic()
        for replica in list(run.replicas):
            if replica.phase is Phase.DRAINING and draining is not None and replica.url not in draining:
                replica.phase = Phase.STOPPING
                replica.started_s = now_s
                self._processes.kill(replica.pid, signal.SIGTERM)
            elif replica.phase is Phase.STOPPING and now_s - replica.started_s > STOP_GRACE_S:
                self._processes.kill(replica.pid, signal.SIGKILL)

    def _exited(self, pid: int, code: int) -> None:
        # Called by the thread that also reports starts, so it must not wait for this runner.
        self._exits.append((pid, code))
        self._wake.set()

    def _note_exits(self) -> None:
        while self._exits:
            pid, code = self._exits.popleft()
            for front in (it for it in self.fronts if it.pid == pid):
                log.warning("%s of %s ended; starting it again", front.name, self.pipeline.name)
                front.ended()
                self.restarts += 1
            with self._lock:
                for run in self._stages:
                    for replica in [it for it in run.replicas if it.pid == pid]:
                        run.replicas.remove(replica)
                        self._meter(-replica.cores)
                        if replica.phase in {Phase.STARTING, Phase.READY}:
                            self.restarts += 1
                            run.deaths += 1
                            words = replica.last_words()
                            log.warning("%s ended with %d: %s", replica.key, code, words)
                            if (
                                run.deaths >= GIVE_UP_AFTER
                                and replica.phase is Phase.STARTING
                                and replica.serves(run.config)
                            ):
                                run.failure = f"{replica.variant} ends before it is ready: {words}"
                            # The first is replaced at once: it was probably killed, and requests wait for it.
                            wait_s = FIRST_BACKOFF_S * 2 ** (run.deaths - 1) if run.deaths > 1 else 0.0
                            run.start_after_s = time.monotonic() + min(MAX_BACKOFF_S, wait_s)
