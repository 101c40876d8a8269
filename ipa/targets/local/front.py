"""Router and queues on this machine, whose sockets outlive their processes; the state of stages and parts."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ipa.dataplane.environment import ADMIN_TOKEN, MAX_BODY, MAX_HELD, METRICS_SOCKET, PORT, SOCKET
from ipa.dataplane.http import FIRST_PART, PART_HEADER
from ipa.metering.traces import VARIABLES
from ipa.model.errors import UnavailableError
from ipa.model.parts import Configs
from ipa.model.pipeline import Stage
from ipa.model.plan import StageConfig
from ipa.serving.batchqueue import QueueConfig
from ipa.targets.local.forkserver import ForkedProcesses
from ipa.targets.local.replica import HOST, HUNG_AFTER, Phase, Replica

# Connections that wait to be accepted while the process is replaced: 1 s at more than a machine serves.
BACKLOG = 2048
# One that dies this soon after its start is started again after a pause, twice as long each time. A start
# costs a tenth of a second of CPU time, so that even one that never works takes little of the machine.
SHORT_LIFE_S = 0.5
# On a busy machine it may take seconds until one that was started answers.
START_S = 10.0
FIRST_BACKOFF_S = 0.05
# The processes of a service that was killed end within a second, and its ports are free then.
PORT_S = 3.0
MAX_BACKOFF_S = 0.5


def listening_socket(port: int = 0) -> socket.socket:
    """A socket that listens on that port of this machine, on any free one for 0. OSError: it is in use."""
    made = socket.socket()
    # Connections that ended just now would keep a service that is started again from its port.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def router_socket(port: int, port_file: Path) -> socket.socket:
    """The socket of a router on that port; for 0 on the port of the last run if it is free, else on any.

    `port_file` keeps the port for the next run. UnavailableError: another process keeps using the port.
    """
    wanted, give_up_s = port, time.monotonic() + PORT_S
    if not port:
        with suppress(OSError, ValueError):
            wanted = int(port_file.read_text(encoding="ascii"))
    while True:
        try:
            made = listening_socket(wanted)
            break
        except (OSError, OverflowError) as error:
            if wanted and not port:
                wanted = 0
            elif time.monotonic() > give_up_s:
                raise UnavailableError(
                    f"the router cannot listen on {HOST}:{wanted}: {error}",
                    hint="Choose another port with IPA_ROUTER_PORT, or as `local: {port: ...}` in the file.",
                ) from error
            else:
                time.sleep(FIRST_BACKOFF_S)
    port_file.parent.mkdir(parents=True, exist_ok=True)
    port_file.write_text(str(made.getsockname()[1]), encoding="ascii")
    return made


@dataclass(slots=True)
class Front:
    """One router or queue, started again whenever it ends.

    Its sockets belong to this process: while the router or queue is replaced, connections wait in them and
    are not refused. One socket is for its metrics, which a thread answers, however busy it is. `environment`
    is called at each start. `token` is that of the running process, new with each start.
    """

    module: str
    name: str
    folder: Path
    environment: Callable[[], dict[str, str]]
    metrics_socket: socket.socket = field(default_factory=listening_socket)
    socket: socket.socket = field(default_factory=listening_socket)
    pid: int = 0
    token: str = ""
    failed_checks: int = 0
    started_s: float = 0.0
    start_after_s: float = 0.0
    backoff_s: float = 0.0

    @property
    def metrics_address(self) -> str:
        """host:port of its metrics."""
        return f"{HOST}:{self.metrics_socket.getsockname()[1]}"

    @property
    def fds(self) -> list[int]:
        """The descriptors of its sockets."""
        return [self.socket.fileno(), self.metrics_socket.fileno()]

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{HOST}:{self.socket.getsockname()[1]}"

    @property
    def log(self) -> Path:
        """The path of its log."""
        return self.folder / f"{self.name}.log"

    def start(self, processes: ForkedProcesses) -> None:
        """Start the process; UnavailableError if no process can be started now."""
        token = secrets.token_urlsafe(32)
        fd, metrics_fd = self.fds
        passed = {
            name: value
            for name, value in os.environ.items()
            if name in (MAX_BODY, MAX_HELD) or name.startswith(VARIABLES)
        }
        place = {PORT: str(self.socket.getsockname()[1]), SOCKET: str(fd), METRICS_SOCKET: str(metrics_fd)}
        pid = processes.start(
            # The arguments are for `ps` alone: what every user of this machine can read has no token.
            {"module": self.module, "arguments": [self.folder.name, self.name], "fds": self.fds},
            env={**self.environment(), **place, ADMIN_TOKEN: token, **passed},
            log=self.log,
        )
        self.pid, self.token, self.failed_checks, self.started_s = pid, token, 0, time.monotonic()

    def ended(self) -> None:
        """Record that the process exited."""
        now_s = time.monotonic()
        is_early = now_s - self.started_s < SHORT_LIFE_S
        self.backoff_s = min(MAX_BACKOFF_S, 2 * self.backoff_s or FIRST_BACKOFF_S) if is_early else 0.0
        self.pid, self.start_after_s = 0, now_s + self.backoff_s

    def is_hung(self, is_answering: bool) -> bool:
        """Record a health check; True once HUNG_AFTER checks failed in a row after the time to start."""
        self.failed_checks = 0 if is_answering else self.failed_checks + 1
        is_up = self.pid != 0 and time.monotonic() - self.started_s > START_S
        return self.failed_checks >= HUNG_AFTER and is_up

    def ask(
        self, client: httpx.Client, part: str = FIRST_PART, order: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return its report about a part, after sending the order if there is one.

        Errors: httpx.HTTPError or ValueError if it sends no report.
        """
        method, body = ("GET", None) if order is None else ("PUT", json.dumps(order))
        headers = {"authorization": f"Bearer {self.token}", PART_HEADER: part}
        response = client.request(method, f"{self.url}/admin/config", headers=headers, content=body)
        response.raise_for_status()
        report: dict[str, Any] = response.json()
        return report

    def close(self) -> None:
        """Close its sockets."""
        self.socket.close()
        self.metrics_socket.close()


@dataclass(slots=True)
class StageRun:
    """The wanted and the running configuration of one stage, or of one part's stage."""

    part: str
    stage: Stage
    config: StageConfig
    queue: Front
    replicas: list[Replica] = field(default_factory=list)
    applied: QueueConfig | None = None
    deaths: int = 0
    start_after_s: float = 0.0
    failure: str = ""

    def ready(self) -> list[Replica]:
        """The replicas that serve the wanted variant on the wanted cores."""
        return [it for it in self.replicas if it.phase is Phase.READY and it.serves(self.config)]

    def carries(self) -> bool:
        """True if enough replicas of the wanted size or larger serve, and the queue has the configuration."""
        able = [it for it in self.replicas if it.phase is Phase.READY and it.carries(self.config)]
        running = self.applied.running if self.applied else {}
        return sum(running.get(it.url) == it.variant for it in able) >= self.config.replicas

    def is_settled(self) -> bool:
        """True if exactly the wanted configuration runs, and the queue has it."""
        ready = self.ready()
        wanted = (self.config.batch_size, {it.url: it.variant for it in ready})
        applied = (self.applied.batch_size, self.applied.running) if self.applied else None
        return len(ready) == len(self.replicas) == self.config.replicas and applied == wanted


@dataclass(slots=True)
class PartRun:
    """One of the configurations side by side, under its name in router, queues and metrics.

    `is_going`: it serves the requests that it already has, and then ends.
    """

    name: str
    runs: list[StageRun]
    is_going: bool = False

    @property
    def configs(self) -> Configs:
        """The wanted configuration of each stage."""
        return tuple(run.config for run in self.runs)

    @property
    def has_ended(self) -> bool:
        """True if it is not wanted and none of its replicas is left."""
        return self.is_going and not any(run.config.replicas or run.replicas for run in self.runs)

    def want(self, configs: Sequence[StageConfig]) -> None:
        """Set the wanted configuration of each stage."""
        self.is_going = False
        for run, config in zip(self.runs, configs, strict=True):
            run.config = config
