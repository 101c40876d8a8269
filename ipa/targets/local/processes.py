"""Starting and watching processes through a fork server (`ipa.targets.local.forkserver`)."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from ipa.adapters.processes import ONE_THREAD, JsonChild, child_environment
from ipa.model.errors import UnavailableError

# The fork server imports MLServer and the models' libraries first: seconds, more on a busy machine.
START_TIMEOUT_S = 120.0
# It kills its children at the end of its input, at once.
END_S = 10.0


class ForkedProcesses:
    """The processes of one pipeline. All end when `close` is called or when this process dies.

    `fds` are descriptors that may be passed on to them. They have of this process's environment only what
    `child_environment` passes, and what each is given.
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
            self._server = JsonChild(
                command, stderr=log, env={**child_environment(), **ONE_THREAD}, pass_fds=fds
            )
        self._reader = threading.Thread(target=self._read, name="forkserver", daemon=True)
        self._reader.start()

    def start_module(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cpus: Sequence[int],
        log: Path,
        fds: Sequence[int] = (),
        yields: bool = False,
    ) -> int:
        """The pid of a fork that runs `module.main()`; UnavailableError if the fork server is gone.

        With `yields` it has a lower priority than the others.
        """
        what = {"module": module, "arguments": [*arguments], "fds": [*fds], "yields": yields}
        return self._order(what, env, cpus, log)

    def start_command(
        self, command: Sequence[str], *, env: Mapping[str, str], cpus: Sequence[int], log: Path
    ) -> int:
        """The pid of a process that runs the command; UnavailableError if the fork server is gone.

        It has a lower priority than router and queues.
        """
        return self._order({"command": [*command], "yields": True}, env, cpus, log)

    def kill(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        with self._changed:
            self._write({"kill": pid, "signal": int(number)})

    def close(self) -> None:
        """End every process."""
        self._server.finish(END_S)
        self._reader.join()
        self._server.close()

    def _order(self, what: dict[str, Any], env: Mapping[str, str], cpus: Sequence[int], log: Path) -> int:
        number = next(self._orders)
        order = {"order": number, **what, "env": dict(env), "cpus": list(cpus), "log": str(log)}
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

    def _write(self, order: dict[str, Any]) -> None:
        if self.is_open:
            self._server.send(json.dumps(order))

    def _read(self) -> None:
        for message in self._server.answers():
            if "started" in message:
                with self._changed:
                    self._alive.add(message["pid"])
                    self._started[message["started"]] = message["pid"]
                    self._changed.notify_all()
            else:
                self._forget(message["exited"], message["code"])
        # The fork server is gone, and with it all its children: they are killed when it ends.
        with self._changed:
            self.is_open = False
            self._changed.notify_all()
        for pid in list(self._alive):
            self._forget(pid, -signal.SIGKILL)

    def _forget(self, pid: int, code: int) -> None:
        with self._changed:
            self._alive.discard(pid)
        self._on_exit(pid, code)
