"""Router and queues on this machine: their sockets outlive their processes; how a queue is configured."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ipa.dataplane.environment import ADMIN_TOKEN, METRICS_SOCKET, PORT, SOCKET, told_limits
from ipa.dataplane.http import FIRST_PART, PART_HEADER
from ipa.dataplane.stagequeue import KEYS, QueueConfig, parse_config
from ipa.model.errors import InputError, UnavailableError
from ipa.targets.local.affinity import CpuMap
from ipa.targets.local.processes import ForkedProcesses
from ipa.targets.local.replica import HOST, HUNG_AFTER

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
    """A socket that listens on that port of this machine, 0 for one that is free. OSError: it is in use."""
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


def router_socket(port: int, kept: Path) -> socket.socket:
    """The socket of a router: on that port, for 0 on that of the last run if it is free, else on any.

    `kept` is the file that keeps the port. UnavailableError: that port is in use, and not by a service that
    is ending.
    """
    if port:
        made = _fixed_socket(port)
    else:
        try:
            made = listening_socket(int(kept.read_text(encoding="ascii")))
        except (OSError, ValueError, OverflowError):
            made = listening_socket()
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(str(made.getsockname()[1]), encoding="ascii")
    return made


def _fixed_socket(port: int) -> socket.socket:
    give_up_s = time.monotonic() + PORT_S
    while True:
        try:
            return listening_socket(port)
        except OSError as error:
            if time.monotonic() > give_up_s:
                raise UnavailableError(
                    f"the router cannot listen on {HOST}:{port}: {error.strerror}",
                    hint="Choose another port with IPA_ROUTER_PORT, or as `local: {port: ...}` in the file.",
                ) from error
            time.sleep(FIRST_BACKOFF_S)


@dataclass(slots=True)
class Front:
    """One router or queue, started again whenever it ends.

    Its sockets are this process's: while it is replaced, connections wait in them and are not refused. One
    is for its metrics, which a thread of it answers, however busy it is.
    `environment` is asked for at each start. `token` is that of the running process, new with each start.
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
    def port(self) -> int:
        """The port it listens on."""
        return int(self.socket.getsockname()[1])

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
        return f"http://{HOST}:{self.port}"

    @property
    def is_up(self) -> bool:
        """True if it was started long enough ago to answer."""
        return self.pid != 0 and time.monotonic() - self.started_s > START_S

    @property
    def log(self) -> Path:
        """The path of its log; also its name in the CPU map."""
        return self.folder / f"{self.name}.log"

    def start(self, processes: ForkedProcesses, cpus: CpuMap) -> None:
        """Start it; UnavailableError if nothing can be started now."""
        token = secrets.token_urlsafe(32)
        fd, metrics_fd = self.fds
        place = {PORT: str(self.port), SOCKET: str(fd), METRICS_SOCKET: str(metrics_fd)}
        pid = processes.start_module(
            self.module,
            # For `ps` alone; what every user of this machine can read has no token.
            [self.folder.name, self.name],
            env={**self.environment(), **place, ADMIN_TOKEN: token, **told_limits()},
            cpus=cpus.place(str(self.log)),
            log=self.log,
            fds=self.fds,
        )
        cpus.started(str(self.log), pid)
        self.pid, self.token, self.failed_checks, self.started_s = pid, token, 0, time.monotonic()

    def ended(self, cpus: CpuMap) -> None:
        """Record that the process exited."""
        now_s = time.monotonic()
        is_early = now_s - self.started_s < SHORT_LIFE_S
        self.backoff_s = min(MAX_BACKOFF_S, 2 * self.backoff_s or FIRST_BACKOFF_S) if is_early else 0.0
        self.pid, self.start_after_s = 0, now_s + self.backoff_s
        cpus.release(str(self.log))

    def is_hung(self, is_answering: bool) -> bool:
        """Note a health check; return True once HUNG_AFTER in a row failed, if it had the time to start."""
        self.failed_checks = 0 if is_answering else self.failed_checks + 1
        return self.failed_checks >= HUNG_AFTER and self.is_up

    def close(self, cpus: CpuMap) -> None:
        """Give up its ports."""
        cpus.release(str(self.log))
        self.socket.close()
        self.metrics_socket.close()


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Report of a queue: its configuration, and the URLs of replicas that drain or seem to hang."""

    config: QueueConfig
    draining: tuple[str, ...]
    suspects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouterReport:
    """Report of a router: the percent of the requests of each part that has any, and those on their way."""

    shares: Mapping[str, int]
    in_flight: Mapping[str, int]


def ask_queue(
    client: httpx.Client, queue: Front, part: str, config: QueueConfig | None = None
) -> QueueReport:
    """Return the report of a part's queue, which is given that configuration if there is one.

    Errors: httpx.HTTPError or ValueError if it sends no report, or an invalid one.
    """
    seen = _ask(client, queue, None if config is None else config.to_json(), part)
    try:
        configured = parse_config({key: seen[key] for key in KEYS})
        return QueueReport(configured, tuple(seen["draining"]), tuple(seen["suspects"]))
    except (LookupError, TypeError, InputError) as error:
        raise ValueError(f"{queue.name} answered {str(seen)[:300]}") from error


def ask_router(client: httpx.Client, router: Front, order: Mapping[str, Any] | None = None) -> RouterReport:
    """Return the report of a router, given the shares and times of the order. Errors as `ask_queue`."""
    seen = _ask(client, router, order)
    try:
        return RouterReport(dict(seen["shares"]), dict(seen["in_flight"]))
    except (LookupError, TypeError) as error:
        raise ValueError(f"{router.name} answered {str(seen)[:300]}") from error


def _ask(client: httpx.Client, front: Front, order: Mapping[str, Any] | None, part: str = FIRST_PART) -> Any:
    method, body = ("GET", None) if order is None else ("PUT", json.dumps(order))
    headers = {"authorization": f"Bearer {front.token}", PART_HEADER: part}
    response = client.request(method, f"{front.url}/admin/config", headers=headers, content=body)
    response.raise_for_status()
    return response.json()
