"""Attacks on the doors of the data plane: connections and bodies that cost much.

    python -m experiments.attack.front_doors [ATTACK ...]

starts a router, a queue and a stub model on free ports of this machine, attacks the router or the queue, and
asks the router for ordinary inferences meanwhile, each over a connection of its own. Each attack has servers
of its own. The attacker and the ordinary client have the same address, and take their CPU time from the same
cores as the servers: the table tells how much.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from experiments.attack.figures import Figure, print_table
from experiments.attack.watched import Stop, stops
from ipa.adapters.processes import child_environment, free_port, kill, start
from ipa.serving.connections import raise_file_limit

STUB = Path(__file__).with_name("stub.py")
HOME, PIPELINE, STAGE = "127.0.0.1", "echo", "say"
WATCHED = ("router", "queue")
READY_S = 30.0
# An attack is under way after so many seconds, and what it took has been given back so long after its end.
BEGIN_S, REST_S = 0.5, 2.0
# Open files of the router and the queue, the soft limit of most systems.
FILES = 1024
# Open files of a server with 10 000 connections, and of the attacker.
MANY_FILES = 20_000
NO_STOP = Stop(0.0, 0.0, 0.0)
# The longest that one body may stop an event loop, and the largest part of the memory that is not given back.
LATE_MS, KEPT = 50.0, 0.25
# What the sender of a body that is refused is answered: its client's fault, the limit, or another coding.
REFUSED = {"400", "413", "415"}
# An ordinary request is answered within that, and as many of them as are asked for.
WITHIN_S = 0.5
RATE_RPS = 20.0
# The preface of HTTP/2, with which clients of gRPC begin.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The address of requests at each.
INFER = {"router": f"/v2/models/{PIPELINE}/infer", "queue": f"/v2/models/{STAGE}/infer"}
MB = 1_000_000


@dataclass
class Servers:
    """A router, its queue and its model, as processes."""

    ports: Mapping[str, int]
    processes: Mapping[str, psutil.Process]
    # What the event loops of router and queue were late by.
    lateness: Mapping[str, Path]

    def memory_mb(self, name: str) -> float:
        """The resident memory of one of them."""
        return float(self.processes[name].memory_info().rss) / MB

    def cpu_s(self, name: str) -> float:
        """The CPU time that one of them has taken."""
        times = self.processes[name].cpu_times()
        return float(times.user + times.system)

    def files(self, name: str) -> int:
        """Its open files."""
        return int(self.processes[name].num_fds())


@contextmanager
def servers(files: int = FILES) -> Iterator[Servers]:
    """Start them, each with at most that many open files."""
    ports = {name: free_port() for name in ("model", "queue", "router")}
    urls = {name: f"http://{HOME}:{port}" for name, port in ports.items()}
    part = {"replicas": [{"url": urls["model"], "variant": "stub"}]}
    own = {
        "model": {},
        "queue": {"IPA_STAGE": STAGE, "IPA_PARTS": json.dumps({"1": part})},
        "router": {"IPA_STAGES": f"{STAGE}={urls['queue']}"},
    }
    commands = {
        "model": [str(STUB), str(ports["model"]), "--stage", STAGE],
        "queue": ["", "ipa.dataplane.queue"],
        "router": ["", "ipa.dataplane.router"],
    }
    with ExitStack() as resources, tempfile.TemporaryDirectory() as folder:
        lateness = {name: Path(folder) / f"{name}.late" for name in WATCHED}
        for name, file in lateness.items():
            commands[name][:1] = ["-m", "experiments.attack.watched", str(file)]
        running: dict[str, psutil.Process] = {}
        for name, command in commands.items():
            log = resources.enter_context((Path(folder) / name).open("wb"))
            limited = ["sh", "-c", f'ulimit -n {files}; exec "$0" "$@"', sys.executable, *command]
            env = {"IPA_PIPELINE": PIPELINE, "IPA_PORT": str(ports[name]), **own[name]}
            process = start(limited, stdout=log, stderr=log, env={**child_environment(), **env})
            resources.callback(process.wait)
            resources.callback(kill, process)
            running[name] = psutil.Process(process.pid)
        yield Servers(ports, running, lateness)


async def _until_ready(target: Servers) -> None:
    give_up_s = time.monotonic() + READY_S
    while await ask(target, 1) != "200":
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"the router does not serve within {READY_S:g} s")
        await asyncio.sleep(0.1)


@dataclass
class Ordinary:
    """The outcomes of ordinary requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    times_s: list[float] = field(default_factory=list)

    @property
    def answered_ratio(self) -> float:
        """The share that was answered in time."""
        return self.outcomes["200"] / max(1, self.outcomes.total())


async def ask(target: Servers, number: int) -> str:
    """The status of an ordinary request, or what happened instead."""
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [number]}]}
    ).encode()
    request = post(INFER["router"], body)
    try:
        async with asyncio.timeout(WITHIN_S):
            return await _answer(target.ports["router"], request)
    except TimeoutError:
        return "late"
    except (OSError, asyncio.IncompleteReadError, IndexError) as error:
        return type(error).__name__


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A request of HTTP/1.1."""
    given = {"host": HOME, "connection": "close", "content-length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def _answer(port: int, request: bytes) -> str:
    reader, writer = await asyncio.open_connection(HOME, port)
    try:
        writer.write(request)
        head = await reader.readline()
        return head.split()[1].decode()
    finally:
        writer.transport.abort()


async def ordinary(target: Servers, seconds: float) -> Ordinary:
    """Send ordinary requests at a fixed rate, whether or not answers come."""
    tally = Ordinary()

    async def one(number: int) -> None:
        sent_s = time.monotonic()
        tally.outcomes[await ask(target, number)] += 1
        tally.times_s.append(time.monotonic() - sent_s)

    async with asyncio.TaskGroup() as tasks:
        for number in range(round(seconds * RATE_RPS)):
            tasks.create_task(one(number))
            await asyncio.sleep(1 / RATE_RPS)
    return tally


# What an attack does until it is cancelled; it counts what it was answered.
Attack = Callable[[Servers, Counter[str]], Awaitable[None]]


@dataclass(frozen=True)
class Door:
    """An attack, the server it is made on, for how long, and by how much its memory may grow."""

    name: str
    attack: Attack
    on: str = "router"
    seconds: float = 3.0
    most_mb: float = 300.0
    files: int = FILES
    # The attack is one of bodies that are refused.
    is_body: bool = False


async def _open(target: Servers, on: str = "router") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOME, target.ports[on])


async def nothing(target: Servers, outcomes: Counter[str]) -> None:
    """The effect of the machine itself on ordinary requests."""


def held(begin: bytes, count: int = 700, on: str = "router") -> Attack:
    """Connections that begin so and say nothing more; each that is closed is opened again at once."""

    async def attack(target: Servers, outcomes: Counter[str]) -> None:
        async def one() -> None:
            while True:
                try:
                    reader, writer = await _open(target, on)
                except OSError as error:
                    outcomes[type(error).__name__] += 1
                    await asyncio.sleep(0.01)
                    continue
                outcomes["opened"] += 1
                try:
                    writer.write(begin)
                    while await reader.read(4096):
                        pass
                except OSError as error:
                    outcomes[type(error).__name__] += 1
                finally:
                    writer.transport.abort()

        await asyncio.gather(*(one() for _ in range(count)))

    return attack


def bodies(body: bytes, headers: Mapping[str, str], senders: int, on: str = "router") -> Attack:
    """The same request again and again, by that many senders."""
    request = post(INFER[on], body, headers)

    async def attack(target: Servers, outcomes: Counter[str]) -> None:
        async def one() -> None:
            while True:
                try:
                    outcomes[await _answer(target.ports[on], request)] += 1
                except (OSError, IndexError) as error:
                    outcomes[type(error).__name__] += 1
                await asyncio.sleep(0.05)

        await asyncio.gather(*(one() for _ in range(senders)))

    return attack


def binary_body(shape: str, raw: bytes) -> tuple[bytes, dict[str, str]]:
    """A request with a tensor of BYTES as bytes after its JSON."""
    head = {"name": "x", "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [head]}).replace('"parameters"', f'"shape": {shape}, "parameters"').encode()
    return text + raw, {"inference-header-content-length": str(len(text))}


def json_body(values: bytes, shape: str = "[1]") -> bytes:
    """A request whose tensor has that text for its data."""
    text = f'{{"inputs": [{{"name": "x", "datatype": "INT64", "shape": {shape}, "data": ['.encode()
    return text + values + b"]}]}"


def doors() -> Iterator[Door]:
    """All attacks; the bodies are made only when it is their turn."""
    yield Door("no attack", nothing)
    body = bytes(8 * MB)
    for on in WATCHED:
        yield Door(f"700 idle connections, {on}", held(b"", on=on), on)
        yield Door(f"700 half requests, {on}", held(post(INFER[on], b"{}")[:-1], on=on), on)
    yield Door("10 100 idle connections", held(b"", 10_100), files=MANY_FILES, seconds=8.0)
    yield Door("100 clients of HTTP/2", held(PREFACE, 100))
    yield Door("30 bodies of 60 MB", bodies(bytes(60 * MB), {}, 30))
    yield Door("100 bodies of 8 MB without an end", held(post(INFER["router"], body)[:-1], 100))
    for on in ("router", "queue"):
        for size in (8, 16) if on == "queue" else (16,):
            body, headers = binary_body("[1]", bytes(size * MB))
            yield Door(
                f"{size} MB of BYTES in a wrong shape, {on}", bodies(body, headers, 2, on), on, is_body=True
            )
        for size in (8, 60) if on == "queue" else (60,):
            lists = json_body(b"[]," * (size * MB // 3) + b"[]")
            yield Door(f"{size} MB of JSON of empty lists, {on}", bodies(lists, {}, 2, on), on, is_body=True)
    deflated = {"content-encoding": ", ".join(["deflate"] * 7000)}
    yield Door("8 MB with layers of compression", bodies(bytes(8 * MB), deflated, 8), is_body=True)
    numbers = json_body(b"1," * (4 * MB - 100) + b"1", f"[{4 * MB - 99}]")
    yield Door("8 MB of JSON of numbers, queue", bodies(numbers, {}, 2, "queue"), "queue", is_body=True)


def attack(door: Door) -> list[Figure]:
    """Make the attack on servers of its own, and return its figures."""
    raise_file_limit()
    with servers(door.files) as target:
        return asyncio.run(_attack(door, target))


async def _attack(door: Door, target: Servers) -> list[Figure]:
    by_outcome: Counter[str] = Counter()
    most_files = 0

    async def weigh() -> None:
        nonlocal peak_mb, most_files
        while True:
            peak_mb = max(peak_mb, target.memory_mb(door.on))
            most_files = max(most_files, target.files(door.on))
            await asyncio.sleep(0.05)

    # In a process of its own, which the attack does not delay. It starts beside the servers.
    ports = json.dumps(dict(target.ports))
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __spec__.name, "--ordinary", ports, str(door.seconds)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert asking.stdin is not None and asking.stdout is not None
    await asking.stdout.readline()
    await _until_ready(target)
    before_mb = peak_mb = target.memory_mb(door.on)
    # Connections that the server resets are what an attack is for.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    attacked_s = time.monotonic()
    tasks = [asyncio.ensure_future(door.attack(target, by_outcome)), asyncio.create_task(weigh())]
    await asyncio.sleep(BEGIN_S)
    began_s, before_s, own_s = time.monotonic(), target.cpu_s(door.on), time.process_time()
    output, _ = await asking.communicate(b"\n")
    lasted_s = time.monotonic() - began_s
    cores, own_cores = (target.cpu_s(door.on) - before_s) / lasted_s, (time.process_time() - own_s) / lasted_s
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    given = json.loads(output)
    outcomes = Counter[str](given["outcomes"])
    answered = outcomes["200"] / max(1, outcomes.total())
    words = ", ".join(f"{count} × {name}" for name, count in by_outcome.most_common(6))
    others = ", ".join(f"{count} × {name}" for name, count in outcomes.items())
    stopped = max(stops(target.lateness[door.on], attacked_s), key=lambda each: each.late_s, default=NO_STOP)
    await asyncio.sleep(REST_S)
    after_mb = target.memory_mb(door.on)
    accepted = sum(count for name, count in by_outcome.items() if name.isdigit() and name not in REFUSED)
    attacker = f"attacker {own_cores:.2f}, ordinary client {given['cpu_s'] / lasted_s:.2f}"
    return [
        Figure("ordinary requests answered in 0.5 s, ratio", answered, at_least=0.99, note=others),
        Figure("slowest ordinary answer s", max(given["times_s"], default=0.0)),
        Figure(
            *("event loop late by ms", 1e3 * stopped.late_s, LATE_MS if door.is_body else None),
            note=f"CPU {1e3 * stopped.cpu_s:.0f} ms",
        ),
        Figure("CPU of the server, cores", cores, note=attacker),
        Figure("memory grown MB", peak_mb - before_mb, at_most=door.most_mb, note=words),
        Figure("memory kept MB", after_mb - before_mb, at_most=KEPT * door.most_mb),
        Figure("most files", most_files, at_most=door.files),
        *([Figure("answers that accept a body", accepted, at_most=0)] if door.is_body else []),
    ]


def run(tell: Callable[[str], None], only: tuple[str, ...] = ()) -> dict[str, list[Figure]]:
    """All attacks, or those whose names have one of the words."""
    figures: dict[str, list[Figure]] = {}
    for door in doors():
        if only and not any(word in door.name for word in only):
            continue
        figures[door.name] = attack(door)
        tell(f"{door.name}: done")
    return figures


def _ordinary(ports: Mapping[str, int], seconds: float) -> None:
    """Ask from the first line on of standard input, and print what became of it."""
    print("ready", flush=True)
    sys.stdin.readline()
    tally = asyncio.run(ordinary(Servers(ports, {}, {}), seconds))
    values = {"outcomes": tally.outcomes, "times_s": tally.times_s, "cpu_s": time.process_time()}
    print(json.dumps(values))


def main() -> int:
    """Attack, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.attack.front_doors", description=__doc__)
    parser.add_argument("only", nargs="*", help="words of the names of attacks; all without")
    parser.add_argument("--ordinary", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ordinary:
        _ordinary(json.loads(given.ordinary[0]), float(given.ordinary[1]))
        return 0
    return print_table(run(lambda line: print(line, flush=True), tuple(given.only)))


if __name__ == "__main__":
    sys.exit(main())
