"""Processes of a pipeline, forked off one that has imported all: the fork server and its client.

Importing MLServer takes seconds of CPU, which on a small machine slows serving processes. A fork of this
process has the imports already and shares their memory: it serves in a fraction of a second.

    python -m ipa.targets.local.forkserver --preload mlserver.cli.main pipelines.digits.runtime ...

Orders come as JSON lines on standard input, answers and exits go as JSON lines to standard output:

    {"order": 1, "module": "mlserver.cli.main", "arguments": ["start", "."], "env": {}, "log": ""}
    {"order": 2, "command": ["./server", "9000"], "env": {}, "log": ""}
    {"kill": 4711, "signal": 15}
    {"started": 1, "pid": 4711}
    {"exited": 4711, "code": -9}

A model server's order has `"yields": true`: it starts at a lower priority than router and queues, so that its
start does not keep them from answering.

`fds` of an order are the descriptors of this process that the child keeps, such as a listening socket; all
others are closed. `env` is not readable by other users, as a command line would be.

When standard input ends, as it does when the parent dies in whatever way, every child is killed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from subprocess import PIPE, TimeoutExpired
from typing import Any, NoReturn

from setproctitle import setproctitle

from ipa.adapters.processes import (
    ONE_THREAD,
    child_environment,
    end_with_parent,
    kill,
    start,
    take_output,
)
from ipa.model.errors import UnavailableError

# The fork server imports MLServer and the models' libraries first: seconds, more on a busy machine.
START_TIMEOUT_S = 120.0
# It kills its children at the end of its input, at once.
END_S = 10.0

# Steps of priority between router and queues and the model servers: each is a fifth less of a shared CPU.
RAISED_NICE = 5
# A model server that starts yields to those that serve, by so much more, until `serving_priority`.
STARTING_NICE = 10
# Where priorities cannot be raised, model servers yield less: they yield to others on the machine as well.
LOWERED_NICE = 2


def serving_priority(pid: int) -> None:
    """Raise a started model server to the service's own priority, if it had a lower one.

    The service calls it.
    """
    with suppress(PermissionError, FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            os.setpriority(os.PRIO_PROCESS, int(thread), os.getpriority(os.PRIO_PROCESS, 0))


class ForkServer:
    """Forks children and reports their exits. It raises its own and their priority if permitted."""

    def __init__(self, orders: int, answers: int) -> None:
        # By how much the priority of model servers is lower, and by how much more while they start.
        self._yield_nice, self._start_nice = RAISED_NICE, STARTING_NICE
        try:
            os.nice(-RAISED_NICE)
        except PermissionError:
            self._yield_nice, self._start_nice = LOWERED_NICE, 0
        self._pid = os.getpid()
        self._orders = orders
        self._answers = answers
        self._children: set[int] = set()
        self._buffer = b""

    def run(self) -> None:
        """Serve orders until the end of the input; then kill every child."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # A terminal's interrupt goes to the whole group, but the parent decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with selectors.DefaultSelector() as selector:
            selector.register(self._orders, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            is_open = True
            while is_open:
                for key, _ in selector.select():
                    if key.fd == wake_read:
                        os.read(wake_read, 4096)
                        while self._children:
                            pid, status = os.waitpid(-1, os.WNOHANG)
                            if pid == 0:
                                break
                            self._children.discard(pid)
                            self._say({"exited": pid, "code": os.waitstatus_to_exitcode(status)})
                    else:
                        is_open = self._read_orders()
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _read_orders(self) -> bool:
        chunk = os.read(self._orders, 65536)
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "kill" not in order:
                pid = os.fork()
                if pid == 0:
                    self._become(order)
                self._children.add(pid)
                self._say({"started": order["order"], "pid": pid})
            elif order["kill"] in self._children:
                os.kill(order["kill"], order["signal"])
        return bool(chunk)

    def _say(self, message: dict[str, Any]) -> None:
        os.write(self._answers, json.dumps(message).encode() + b"\n")

    def _become(self, order: dict[str, Any]) -> NoReturn:
        """In the child: run the order, and exit."""
        code = 1
        try:
            os.setpgid(0, 0)
            end_with_parent(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            for fd in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208
                if fd > 2 and fd not in order.get("fds", ()):
                    with suppress(OSError):  # the listing's own, closed by now
                        os.close(fd)
            os.environ.update(order["env"])
            if order.get("yields"):
                os.nice(self._yield_nice + self._start_nice)
            if "command" in order:
                os.execvp(order["command"][0], order["command"])  # noqa: S606
            sys.argv = [order["module"], *order["arguments"]]
            setproctitle(" ".join(sys.argv))
            importlib.import_module(order["module"]).main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:  # the child must never return into the parent's loop
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


class ForkedProcesses:
    """The processes of one pipeline. All end when `close` is called or when this process dies.

    `fds` are descriptors that may be passed to them. Their environment is `child_environment()` with the
    variables of each order.
    """

    def __init__(
        self,
        folder: Path,
        preload: Sequence[str],
        on_exit: Callable[[int, int], None],
        fds: Sequence[int] = (),
    ) -> None:
        self._on_exit = on_exit
        self._alive: set[int] = set()
        self._started: dict[int, int] = {}
        self._changed = threading.Condition()
        self._orders = count(1)
        self.is_open = True  # processes can be started
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "forkserver.log"
        command = [sys.executable, "-m", "ipa.targets.local.forkserver", "--preload", *preload]
        with self._log.open("ab") as log:
            env = {**child_environment(), **ONE_THREAD}
            self._server = start(command, stdin=PIPE, stdout=PIPE, stderr=log, env=env, pass_fds=fds)
        assert self._server.stdin is not None and self._server.stdout is not None
        self._orders_out, self._answers = self._server.stdin, self._server.stdout
        self._reader = threading.Thread(target=self._read, name="forkserver", daemon=True)
        self._reader.start()

    def start(self, what: Mapping[str, Any], *, env: Mapping[str, str], log: Path) -> int:
        """The pid of a new process; UnavailableError if the fork server is gone.

        `what` is its order: `module` and `arguments`, or `command`, with `fds` and `yields`.
        """
        number = next(self._orders)
        order = {"order": number, **what, "env": dict(env), "log": str(log)}
        with self._changed:
            self._write(order)
            self._changed.wait_for(
                lambda: number in self._started or not self.is_open, timeout=START_TIMEOUT_S
            )
            if number not in self._started:
                raise UnavailableError(
                    "the process that starts model servers exited", hint=f"See {self._log}"
                )
            return self._started.pop(number)

    def kill(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        with self._changed:
            self._write({"kill": pid, "signal": int(number)})

    def close(self) -> None:
        """End every process."""
        with suppress(BrokenPipeError):
            self._orders_out.close()
        with suppress(TimeoutExpired):
            self._server.wait(END_S)
        kill(self._server)
        self._reader.join()
        self._server.wait()
        self._answers.close()

    def _write(self, order: dict[str, Any]) -> None:
        if self.is_open and not self._orders_out.closed:
            with suppress(BrokenPipeError):
                self._orders_out.write(json.dumps(order).encode() + b"\n")
                self._orders_out.flush()

    def _read(self) -> None:
        for line in self._answers:
            message = json.loads(line)
            with self._changed:
                if "started" in message:
                    self._alive.add(message["pid"])
                    self._started[message["started"]] = message["pid"]
                    self._changed.notify_all()
                    continue
                self._alive.discard(message["exited"])
            self._on_exit(message["exited"], message["code"])
        # The fork server is gone, and with it all its children: they are killed when it ends.
        with self._changed:
            self.is_open = False
            self._changed.notify_all()
        for pid in self._alive:
            self._on_exit(pid, -signal.SIGKILL)


def main() -> None:
    """Import the shared modules, then serve orders."""
    parser = argparse.ArgumentParser(prog="python -m ipa.targets.local.forkserver")
    parser.add_argument("--preload", nargs="*", default=[], metavar="MODULE")
    # A separate descriptor, so that output of imports and children is not taken for an answer.
    answers = take_output()
    for module in parser.parse_args().preload:
        importlib.import_module(module)
    # Hide the preloaded modules: a search for a model server by name must not find this process.
    setproctitle("ipa.targets.local.forkserver")
    # Objects that the collector does not touch stay shared between the children.
    gc.freeze()
    ForkServer(0, answers).run()


if __name__ == "__main__":
    main()
