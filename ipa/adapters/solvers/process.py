"""Processes that answer questions one after the other, and are killed where they do not in time.

Each reads pickled questions with their limits and writes pickled answers, each after its length in eight
bytes. Both ends are this package, over a pipe of its own. Processes are kept for the next question; several
threads get one each.
"""

from __future__ import annotations

import atexit
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, TypeVar

from ipa.control.computing import COMPUTING
from ipa.model.errors import DeadlineError, IpaError, SolverError
from ipa.optimize.deadline import Deadline

A = TypeVar("A")
# After so much more a process whose parent is gone ends by itself, whatever it does.
ORPHAN_S = 5.0
# Starting one imports libraries.
START_S = 30.0
LENGTH = struct.Struct("<Q")
# No question and no answer is longer: a column takes nine bytes, and a program has some thousands of columns.
LONGEST = 1 << 28


class Processes:
    """Those of one kind; `command` starts one more. `name` is what people are told.

    DeadlineError where one had to be killed; SolverError where it died.
    """

    def __init__(self, name: str, command: Callable[[], list[str]], grace_s: float) -> None:
        self._name, self._command, self._grace_s = name, command, grace_s
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, question: Callable[[Worker], Any], limit_s: Callable[[], float], kind: type[A]) -> A:
        """The answer to what is asked of one of them; errors of ours that it answers are raised."""
        worker = self._take()
        seconds = limit_s()
        try:
            asked = question(worker), seconds
            with COMPUTING.away():
                answer = worker.ask(asked, seconds + self._grace_s)
            if not isinstance(answer, (kind, IpaError)):
                raise TypeError(f"a {type(answer).__name__}")
        except BaseException as error:
            worker.kill()
            if not isinstance(error, Exception):
                raise
            # On a busy machine its own alarm may come before us.
            late = TimeoutError() if worker.was_alarmed else error
            raise self._failure(late, seconds) from error
        with self._lock:
            self._idle.append(worker)
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

    def close(self) -> None:
        """End the processes that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def _take(self) -> Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Worker(self._command())


class Worker:
    """One process and its pipe. `known` is what it was sent that it keeps."""

    def __init__(self, command: list[str]) -> None:
        self.known: dict[int, object] = {}
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        try:
            self._read(START_S)
        except Exception as error:
            self.kill()
            raise SolverError(f"the process did not start: {' '.join(command)}") from error

    def ask(self, question: Any, limit_s: float) -> Any:
        """The answer; TimeoutError where it is not there in time, EOFError where the process ended."""
        assert self._process.stdin is not None
        deadline = Deadline(limit_s)
        # It may be stopped, and a pipe holds less than a large program.
        write(self._process.stdin, question, deadline)
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


def write(pipe: IO[bytes], message: Any, deadline: Deadline | None = None) -> None:
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


def serve_parent(answer: Callable[[Any, Deadline], Any]) -> None:
    """Answer what comes from the parent until it ends."""
    # What a library may print must not come between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as sink:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(answer, sys.stdin.buffer, sink)


def serve(answer: Callable[[Any, Deadline], Any], source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer questions until the source ends."""
    _send(sink, "ready")
    while header := source.read(LENGTH.size):
        (length,) = LENGTH.unpack(header)
        question, limit_s = pickle.loads(source.read(length))  # noqa: S301
        # Whoever asked kills us where we do not end, unless it was killed itself: then the system does.
        signal.setitimer(signal.ITIMER_REAL, limit_s + ORPHAN_S)
        try:
            found = answer(question, Deadline(limit_s))
        except IpaError as error:
            found = error
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _send(sink, found)


def _send(sink: IO[bytes], message: Any) -> None:
    write(sink, message)
    sink.flush()
