"""A MILP solver in a process of its own, which is killed where it does not keep to its limit.

A solver's limit is a wish: it may sit for minutes in one step that does not look at the clock, and no thread
of ours can be taken back from it. A process can. It is kept for the next program, since starting it takes
longer than most programs; several threads get one each.

    python -m ipa.adapters.solvers.supervised gurobi

reads pickled (program, limit) pairs and writes pickled answers, each after its length in eight bytes. Both
ends are this package, over a pipe of its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import IO, Any

from ipa.model.errors import DeadlineError, IpaError, LicenceError, SolverError
from ipa.optimize.backends.answer import Solution
from ipa.optimize.bymilp import Maximise
from ipa.optimize.deadline import Deadline
from ipa.optimize.milp import Milp

# A solver may be so much late: it looks at the clock between steps.
GRACE_S = 1.0
# After so much more a process whose parent is gone ends by itself, whatever it does.
ORPHAN_S = 5.0
# Starting one imports the solver's library.
START_S = 30.0
LENGTH = struct.Struct("<Q")
# No answer is longer: a column takes nine bytes, and a program has some thousands of columns.
LONGEST = 1 << 28
# A licence that does not do is said so often, not with every plan.
SAY_AGAIN_S = 3600.0

log = logging.getLogger("ipa.solvers")

Command = Callable[[str], list[str]]


@cache
def supervised(name: str) -> Maximise:
    """The solver of that name in a process of its own; all pipelines share its processes."""
    return Supervised(name)


def command_of(name: str) -> list[str]:
    """How the solver of that name is started."""
    return [sys.executable, "-m", "ipa.adapters.solvers.supervised", name]


class Supervised:
    """A solver's `maximise` with the guarantee that it ends.

    Errors: those of the solver; DeadlineError where it had to be killed; SolverError where it died.
    """

    def __init__(
        self,
        name: str,
        command: Command = command_of,
        grace_s: float = GRACE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._command = command
        self._grace_s = grace_s
        self._now_s = now_s
        self._said_s: float | None = None
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def __call__(self, milp: Milp, deadline: Deadline) -> Solution:
        """The best columns that the solver finds in time."""
        worker = self._take()
        limit_s = deadline.remaining_s
        try:
            answer = worker.ask((milp, limit_s), limit_s + self._grace_s)
            if not isinstance(answer, Solution | IpaError):
                raise TypeError(f"a {type(answer).__name__}")
        except BaseException as error:
            worker.kill()
            if not isinstance(error, Exception):
                raise
            # On a busy machine its own alarm may come before us.
            late = TimeoutError() if worker.was_alarmed else error
            raise self._failure(late, limit_s) from error
        with self._lock:
            self._idle.append(worker)
        if isinstance(answer, LicenceError):
            self._say(answer)
        if isinstance(answer, IpaError):
            raise answer
        return answer

    def _failure(self, error: Exception, limit_s: float) -> IpaError:
        """What it means that a process gave no answer; what it sent may be anything."""
        if isinstance(error, TimeoutError):
            return DeadlineError(f"{self._name} did not keep to its limit of {limit_s:.3g} s and was stopped")
        if isinstance(error, EOFError | OSError):
            return SolverError(f"the process of {self._name} ended before it answered")
        return SolverError(f"the process of {self._name} answered what cannot be read")

    def _say(self, refusal: LicenceError) -> None:
        with self._lock:
            now_s = self._now_s()
            if self._said_s is not None and now_s - self._said_s < SAY_AGAIN_S:
                return
            self._said_s = now_s
        log.warning("%s", refusal.message)

    def close(self) -> None:
        """End the processes that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def _take(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Worker(self._command(self._name))


class _Worker:
    """One process and its pipe."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        try:
            self._read(START_S)
        except Exception as error:
            self.kill()
            raise SolverError(f"the solver's process did not start: {' '.join(command)}") from error

    def ask(self, question: Any, limit_s: float) -> Any:
        """The answer; TimeoutError where it is not there in time, EOFError where the process ended."""
        assert self._process.stdin is not None
        deadline = Deadline(limit_s)
        # It may be stopped, and a pipe holds less than a large program.
        _write(self._process.stdin, question, deadline)
        return self._read(deadline.remaining_s)

    def _read(self, limit_s: float) -> Any:
        assert self._process.stdout is not None
        return _received(self._process.stdout, Deadline(limit_s))

    @property
    def was_alarmed(self) -> bool:
        """Whether the system ended it, for it did not end by itself."""
        return self._process.returncode == -signal.SIGALRM

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _write(pipe: IO[bytes], message: Any, deadline: Deadline | None = None) -> None:
    """Write all of it; TimeoutError where a pipe that does not block is not read in time."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    whole = memoryview(LENGTH.pack(len(body)) + body)
    while whole:
        if deadline is not None:
            _wait(pipe, selectors.EVENT_WRITE, deadline)
        whole = whole[pipe.write(whole) or 0 :]


def _wait(pipe: IO[bytes], event: int, deadline: Deadline) -> None:
    with selectors.DefaultSelector() as ready:
        ready.register(pipe, event)
        if not ready.select(deadline.remaining_s):
            raise TimeoutError


def _received(pipe: IO[bytes], deadline: Deadline) -> Any:
    (length,) = LENGTH.unpack(_bytes(pipe, LENGTH.size, deadline))
    if length > LONGEST:
        raise ValueError(f"{length} bytes")
    # Only ever from the process that was started above, over a pipe that nobody else has.
    return pickle.loads(_bytes(pipe, length, deadline))  # noqa: S301


def _bytes(pipe: IO[bytes], count: int, deadline: Deadline) -> bytes:
    found = bytearray()
    while len(found) < count:
        _wait(pipe, selectors.EVENT_READ, deadline)
        part = pipe.read(count - len(found))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def serve(maximise: Callable[[Milp, Deadline], Solution], source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer programs until the source ends."""
    _send(sink, "ready")
    while header := source.read(LENGTH.size):
        (length,) = LENGTH.unpack(header)
        milp, limit_s = pickle.loads(source.read(length))  # noqa: S301
        # Whoever asked kills us where we do not end, unless it was killed itself: then the system does.
        signal.setitimer(signal.ITIMER_REAL, limit_s + ORPHAN_S)
        try:
            answer: Solution | IpaError = maximise(milp, Deadline(limit_s))
        except IpaError as error:
            answer = error
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _send(sink, answer)


def _send(sink: IO[bytes], message: Any) -> None:
    _write(sink, message)
    sink.flush()


def main() -> None:
    """Serve the solver that the command line names."""
    maximise = import_module(f"ipa.optimize.backends.{sys.argv[1]}").maximise
    # What a library may print must not come between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as sink:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(maximise, sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
