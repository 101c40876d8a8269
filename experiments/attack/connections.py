"""Attacks with many connections: a thousand clients that send much, slowly or never to an end.

    python -m experiments.attack.connections [--connections N] [--seconds S] [ATTACK ...]

It starts `ipa demo` on a free port and attacks it from 127.0.0.2, once also from the address of the other
client. The table has for each attack what it did to the service: its memory, when connections were closed,
how long another client waited for /healthz and for a list of pipelines meanwhile, and whether the control
loop kept its ticks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from ipa.serving.connections import raise_file_limit

OTHER_ADDRESS = "127.0.0.2"
HOME = "127.0.0.1"
MB = 1_000_000
# What another client asks for meanwhile.
PATHS = ("/healthz", "/v1/pipelines")
BLOCK = 16 << 10
HOST = b"Host: 127.0.0.1\r\n"
POST = b"POST /v1/pipelines HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class Attack:
    """The bytes that each connection sends: a beginning, then the same block again and again up to a size."""

    name: str
    begin: bytes
    block: bytes = b""
    # Bytes in all; 0 for the beginning alone, and more than anybody waits for without an end.
    size_bytes: int = 0
    # Seconds between two blocks.
    every_s: float = 0.0
    # Connect again as soon as the connection is closed.
    is_stubborn: bool = False
    source: str = OTHER_ADDRESS

    @property
    def waits(self) -> bool:
        """True if it does little until the service closes its connections."""
        return not self.is_stubborn and (not self.block or self.every_s > 0)


ENDLESS = 1 << 40
LINE = b"X-Filler: " + b"x" * 1000 + b"\r\n"
ATTACKS = (
    Attack("1 MB bodies", POST + b"Content-Length: 1000000\r\n\r\n", b" " * BLOCK, MB),
    Attack("1 MB bodies but for a byte", POST + b"Content-Length: 1000000\r\n\r\n", b" " * BLOCK, MB - 1),
    Attack(
        "bodies without an end",
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        b"4000\r\n" + b" " * BLOCK + b"\r\n",
        ENDLESS,
    ),
    Attack("headers without an end", b"GET / HTTP/1.1\r\n" + HOST, LINE * 16, ENDLESS),
    Attack("headers, a line a second", b"GET / HTTP/1.1\r\n" + HOST, b"X: y\r\n", ENDLESS, every_s=1.0),
    Attack("half a request", b"GET /v1/pipel"),
    Attack("nothing", b""),
    Attack("half a request, again and again", b"GET /v1/pipel", is_stubborn=True),
    Attack("half a request, same address", b"GET /v1/pipel", is_stubborn=True, source=HOME),
    Attack("idle after a request", b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"),
)


@dataclass
class Figures:
    """The effects of an attack."""

    attack: str
    opened: int = 0
    # Connections open at once, as the service had them.
    most_open: int = 0
    still_open: int = 0
    # From connecting to being closed; of those still open, until now.
    longest_s: float = 0.0
    grown_mb: float = 0.0
    # By path: requests of the other client, those that were not answered 200, and the longest.
    requests: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    worst_s: dict[str, float] = field(default_factory=dict)
    skipped_ticks: int = 0


@dataclass(eq=False)
class _Client:
    """One connection of the attacker."""

    attack: Attack
    connection: socket.socket
    began_s: float
    sent: int = 0
    unsent: bytes = b""
    next_s: float = 0.0

    def due(self, now_s: float) -> bool:
        """True if there is something to send."""
        if not self.unsent and now_s >= self.next_s and self.sent < self.attack.size_bytes:
            room = self.attack.size_bytes - self.sent
            self.unsent = self.attack.block[:room]
            self.sent += len(self.unsent)
            self.next_s = now_s + self.attack.every_s
        return bool(self.unsent)


class Attacker:
    """Opens the connections of an attack and serves them until all are closed or the time is over."""

    def __init__(
        self, attack: Attack, host: str, port: int, connections: int, process: psutil.Process | None
    ):
        self._attack, self._place, self._connections = attack, (host, port), connections
        self._process = process
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self.figures = Figures(attack.name)

    def run(self, seconds: float) -> Figures:
        """Attack for that long at the most."""
        before = self._memory()
        began_s = time.monotonic()
        looked_s = 0.0
        try:
            while self.figures.opened < self._connections or self._clients:
                now_s = time.monotonic()
                if now_s - began_s > seconds:
                    break
                self._open(now_s)
                self._turn(now_s)
                if now_s - looked_s > 0.1:
                    looked_s = now_s
                    self.figures.grown_mb = max(self.figures.grown_mb, (self._memory() - before) / 1e6)
                    self.figures.most_open = max(self.figures.most_open, self._open_there())
            self.figures.still_open = 0 if self._attack.is_stubborn else len(self._clients)
            for client in list(self._clients):
                self._close(client)
        finally:
            self._selector.close()
        return self.figures

    def _open(self, now_s: float) -> None:
        """Connect as long as there are fewer than wanted; some at a time."""
        for _ in range(50):
            is_enough = len(self._clients) >= self._connections
            if is_enough or (self.figures.opened >= self._connections and not self._attack.is_stubborn):
                return
            connection = socket.socket()
            connection.setblocking(False)
            connection.bind((self._attack.source, 0))
            connection.connect_ex(self._place)
            client = _Client(self._attack, connection, now_s, unsent=self._attack.begin)
            self._clients.add(client)
            self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
            self.figures.opened += 1

    def _turn(self, now_s: float) -> None:
        for client in self._clients:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.due(now_s) else 0)
            if self._selector.get_key(client.connection).events != wanted:
                self._selector.modify(client.connection, wanted, client)
        for key, events in self._selector.select(0.02):
            client = key.data
            try:
                if events & selectors.EVENT_READ and not client.connection.recv(1 << 16):
                    self._close(client)
                elif events & selectors.EVENT_WRITE:
                    client.unsent = client.unsent[client.connection.send(client.unsent) :]
            except BlockingIOError:
                continue
            except OSError:
                self._close(client)

    def _close(self, client: _Client) -> None:
        self.figures.longest_s = max(self.figures.longest_s, time.monotonic() - client.began_s)
        self._selector.unregister(client.connection)
        client.connection.close()
        self._clients.discard(client)

    def _memory(self) -> int:
        return self._process.memory_info().rss if self._process else 0

    def _open_there(self) -> int:
        """Files that the service has open."""
        return self._process.num_fds() if self._process else 0


@contextmanager
def probed(host: str, port: int, paths: Sequence[str], figures: Figures) -> Iterator[None]:
    """Have another client ask those paths meanwhile, and put what it found into the figures."""
    command = [sys.executable, "-m", "experiments.attack.prober", host, str(port), *paths]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as prober:
        assert prober.stdin is not None
        assert prober.stdout is not None
        prober.stdout.readline()
        try:
            yield
        finally:
            prober.stdin.close()
            answers = json.loads(prober.stdout.readline() or "{}")
            for path, counts in answers.items():
                figures.requests[path] = counts["asked"]
                figures.failed[path] = counts["failed"]
                figures.worst_s[path] = counts["worst_s"]


def attack(
    what: Attack,
    host: str,
    port: int,
    *,
    connections: int = 1000,
    seconds: float = 15.0,
    pid: int | None = None,
    paths: Sequence[str] = PATHS,
    skipped_ticks: Callable[[], int] = lambda: 0,
) -> Figures:
    """Attack the service there; `pid` is its process, `skipped_ticks` returns their number so far."""
    raise_file_limit()
    attacker = Attacker(what, host, port, connections, psutil.Process(pid) if pid else None)
    skipped = skipped_ticks()
    with probed(host, port, paths, attacker.figures):
        attacker.run(seconds)
    attacker.figures.skipped_ticks = skipped_ticks() - skipped
    return attacker.figures


@contextmanager
def demo(environ: dict[str, str] | None = None) -> Iterator[tuple[str, int, int]]:
    """`ipa demo` on a free port: its host, port and process id."""
    command = [sys.executable, "-c", "from ipa.cli.main import main; main()", "demo", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as service:
        try:
            assert service.stdout is not None
            line = next(line for line in service.stdout if "http://" in line)
            place = re.search(r"http://([0-9.]+):([0-9]+)", line)
            assert place is not None
            yield place[1], int(place[2]), service.pid
        finally:
            service.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                service.wait(30)
            if service.poll() is None:
                service.kill()


def skipped_ticks(host: str, port: int) -> int:
    """Ticks that the service skipped, by its metrics."""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode("latin-1")
    return round(sum(float(value) for value in re.findall(r"^ipa_skipped_ticks_total\S* (\S+)", text, re.M)))


def table(several: Sequence[Figures]) -> str:
    """The figures, a line an attack."""
    lines = [
        f"{'attack':34} {'opened':>7} {'files':>6} {'left':>5} {'closed s':>8} {'+MB':>6} {'healthz s':>9} "
        f"{'list s':>7} {'failed':>8} {'skipped':>7}"
    ]
    for each in several:
        failed = f"{sum(each.failed.values())}/{sum(each.requests.values())}"
        worst = [each.worst_s.get(path, float("nan")) for path in PATHS]
        lines.append(
            f"{each.attack:34} {each.opened:7} {each.most_open:6} {each.still_open:5} {each.longest_s:8.2f} "
            f"{each.grown_mb:6.0f} {worst[0]:9.3f} {worst[1]:7.3f} {failed:>8} {each.skipped_ticks:7}"
        )
    return "\n".join(lines)


def main(tell: Callable[[str], object] = print) -> int:
    """Attack the demo and print the figures."""
    options = argparse.ArgumentParser(prog="python -m experiments.attack.connections", description=__doc__)
    options.add_argument("--connections", type=int, default=1000)
    options.add_argument("--seconds", type=float, default=15.0, help="of each attack, at the most")
    options.add_argument("attacks", nargs="*", help="only those whose names contain one of these")
    args = options.parse_args()
    several = []
    for what in ATTACKS:
        if args.attacks and not any(part in what.name for part in args.attacks):
            continue
        # A service of its own each time: memory that was once taken stays with a process.
        with demo() as (host, port, pid):
            figures = attack(
                what,
                host,
                port,
                connections=args.connections,
                seconds=args.seconds,
                pid=pid,
                skipped_ticks=lambda host=host, port=port: skipped_ticks(host, port),  # type: ignore[misc]
            )
            several.append(figures)
    tell(table(several))
    return 0


if __name__ == "__main__":
    sys.exit(main())
