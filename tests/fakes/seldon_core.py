"""Seldon's own Python microservice, seldon-core 1.17.1, in an environment of its own and on loopback only.

1.17.1 is the last version under the Apache License, and wants older versions of packages that this project
has. `IPA_TEST_SELDON_PYTHON` names an interpreter that has it already.
"""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ipa.adapters.processes import child_environment, free_port, kill, start
from tests.fakes.own_environment import OwnEnvironment
from tests.fakes.waiting import until

VERSION = "1.17.1"
ENVIRONMENT = OwnEnvironment(
    "seldon-core",
    VERSION,
    f"import seldon_core; assert seldon_core.__version__ == {VERSION!r}",
    "IPA_TEST_SELDON_PYTHON",
    # NumPy 1 has no wheels for later ones.
    pythons=("3.11", "3.12"),
    # It has distutils, which Python has no longer from 3.12 on, and pkg_resources below 82.
    beside=("setuptools<81",),
)
START_S = 300.0

# The microservice binds 0.0.0.0 without asking: this has it bind 127.0.0.1, or the address of its own pod.
# Its children end with it, whatever ends it.
LAUNCHER = """
import ctypes, os, signal, socket, sys
own = os.environ.get("NODE_ADDRESS", "127.0.0.1")
bind = socket.socket.bind
def bind_loopback(self, address):
    is_any = isinstance(address, tuple) and address[0] in ("", "0.0.0.0")
    return bind(self, (own, *address[1:]) if is_any else address)
socket.socket.bind = bind_loopback
end_with_parent = ctypes.CDLL(None).prctl
os.register_at_fork(after_in_child=lambda: end_with_parent(1, signal.SIGKILL))
from seldon_core import microservice, wrapper
make = wrapper.get_grpc_server
def make_on_loopback(*given, **named):
    server = make(*given, **named)
    add = server.add_insecure_port
    server.add_insecure_port = lambda address: add(address.replace("0.0.0.0", own))
    return server
wrapper.get_grpc_server = make_on_loopback
microservice.main()
"""

# Classes as their owners write them.
CLASSES = '''
class Doubled:
    """A model: twice each number. It fails for negative ones."""

    def predict(self, X, names=None, meta=None):
        if (X < 0).any():
            raise ValueError("negative numbers")
        return X * 2

    def transform_input(self, X, names=None, meta=None):
        return X + 1

    def tags(self):
        return {"doubled": True}
'''


@dataclass(frozen=True)
class Microservice:
    """One that runs: the addresses of its servers."""

    rest: str
    grpc: str


@contextmanager
def microservices(
    interpreter: str, folder: Path, kinds: Mapping[str, str], env: Mapping[str, str] | None = None
) -> Iterator[list[Microservice]]:
    """A microservice of each class by its service type, in that environment; all ready, on loopback alone.

    A class is one of `CLASSES`, or has its module before its name.
    """
    (folder / "wrapped.py").write_text(CLASSES)
    with ExitStack() as resources:
        # All start at once, since each takes seconds.
        started = [_started(interpreter, folder, *kind, env or {}, resources) for kind in kinds.items()]
        yield [_ready(each) for each in started]


@dataclass(frozen=True)
class _Started:
    process: subprocess.Popen[bytes]
    log: Path
    ports: tuple[int, ...]


def _started(
    interpreter: str, folder: Path, name: str, kind: str, given: Mapping[str, str], resources: ExitStack
) -> _Started:
    ports = tuple(free_port() for _ in range(3))
    options = [f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    env = {**child_environment(), "PYTHONPATH": str(folder), "PREDICTIVE_UNIT_ID": name.lower(), **given}
    path = name if "." in name else f"wrapped.{name}"
    command = [interpreter, "-c", LAUNCHER, path, "--service-type", kind, *options]
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = start(command, stdout=output, stderr=output, env=env)
    resources.callback(process.wait)
    resources.callback(kill, process)
    return _Started(process, log, ports)


def _ready(started: _Started) -> Microservice:
    http, grpc, _ = started.ports
    rest = f"http://127.0.0.1:{http}"

    def is_ready() -> bool:
        assert started.process.poll() is None, f"it ended: {started.log.read_text()[-2000:]}"
        return _answers(f"{rest}/health/ping") and any(each.laddr.port == grpc for each in _listening())

    until(is_ready, START_S)
    _check_loopback(started.process.pid)
    return Microservice(rest, f"http://127.0.0.1:{grpc}")


def _listening() -> list[Any]:
    return [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]


def _check_loopback(pid: int) -> None:
    process = psutil.Process(pid)
    own = {pid, *(child.pid for child in process.children(recursive=True))}
    # gRPC's sockets take IPv4 as IPv6.
    addresses = {each.laddr.ip.removeprefix("::ffff:") for each in _listening() if each.pid in own}
    assert addresses == {"127.0.0.1"}, addresses


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False
