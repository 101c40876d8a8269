"""Processes that answer questions one after the other, and are killed where they do not in time.

Each reads pickled questions with their limits and writes pickled answers, each after its length in eight
bytes. Both ends are this package, over a socket of its own. Processes are kept for the next question; several
who ask at once get one each. A thread waits for its answer, and so does a task of an event loop.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import pickle
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

from ipa.adapters.processes import ONE_THREAD, child_environment, kill, start, take_output
from ipa.control.loop.compute_lock import COMPUTE_LOCK
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
# Read at once; most answers are shorter.
CHUNK = 1 << 16
# An answer that nobody waits for any more may take so long: about what starting another process would.
UNWANTED_S = 1.0
# Where Gurobi finds itself and its licence.
SOLVER_VARIABLES = ("GRB_", "GUROBI_")


class WorkerPool:
    """The workers of one kind; `command` starts one more. `name` is what people are told.

    DeadlineError where one had to be killed; SolverError where it died.
    """

    def __init__(self, name: str, command: Callable[[], list[str]], grace_s: float) -> None:
        self._name, self._command, self._grace_s = name, command, grace_s
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, question: Callable[[Worker], Any], limit_s: Callable[[], float], kind: type[A]) -> A:
        """The answer to what is asked of one of them; errors of ours that it answers are raised."""
        worker = self._take() or Worker(self._command())
        seconds = limit_s()
        with self._held(worker, seconds):
            asked = question(worker), seconds
            with COMPUTE_LOCK.away():
                answer = worker.ask(asked, seconds + self._grace_s)
            found = _of_kind(answer, kind)
        return _answered(found)

    async def asked(self, question: Callable[[Worker], Any], limit_s: float, kind: type[A]) -> A:
        """As `ask`, for an event loop.

        Cancelled, it first waits a moment for the answer, which mostly comes sooner than another process
        would start. Once it ends the process is free or was killed.
        """
        asking = asyncio.ensure_future(self._asked(question, limit_s, kind))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            await asyncio.wait([asking], timeout=UNWANTED_S)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            raise

    async def _asked(self, question: Callable[[Worker], Any], limit_s: float, kind: type[A]) -> A:
        worker = self._take() or await self._started()
        with self._held(worker, limit_s):
            answer = await worker.asked((question(worker), limit_s), limit_s + self._grace_s)
            found = _of_kind(answer, kind)
        return _answered(found)

    def close(self) -> None:
        """End the processes that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def _take(self) -> Worker | None:
        """The one that answered last: what it keeps is the newest."""
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, worker: Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    async def _started(self) -> Worker:
        """One more, which takes a while. It is kept where nobody waits for it any more."""
        starting = asyncio.ensure_future(asyncio.to_thread(Worker, self._command()))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._keep_started)
            raise

    def _keep_started(self, starting: asyncio.Future[Worker]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            self._keep(starting.result())

    @contextmanager
    def _held(self, worker: Worker, limit_s: float) -> Iterator[None]:
        """Keep the worker where it answers; where it does not kill it, and say what that means."""
        try:
            yield
        except BaseException as error:
            worker.kill()
            if not isinstance(error, Exception):
                raise
            # On a busy machine its own alarm may come before us.
            late = TimeoutError() if worker.was_alarmed else error
            raise self._failure(late, limit_s) from error
        self._keep(worker)

    def _failure(self, error: Exception, limit_s: float) -> IpaError:
        """What it means that a process gave no answer; what it sent may be anything."""
        if isinstance(error, TimeoutError):
            return DeadlineError(f"{self._name} did not keep to its limit of {limit_s:.3g} s and was stopped")
        if isinstance(error, EOFError | OSError):
            return SolverError(f"the process of {self._name} ended before it answered")
        return SolverError(f"the process of {self._name} answered what cannot be read")


def _of_kind(answer: Any, kind: type[A]) -> A | IpaError:
    if isinstance(answer, kind | IpaError):
        return answer
    raise TypeError(f"a {type(answer).__name__}")


def _answered(found: A | IpaError) -> A:
    if isinstance(found, IpaError):
        raise found
    return found


class Worker:
    """One process and its socket. `known` is what it was sent that it keeps."""

    def __init__(self, command: list[str]) -> None:
        self.known: dict[int, object] = {}
        self._socket, theirs = socket.socketpair()
        with theirs:
            # There is a process for each question: threads of the vector library would wait for each other.
            env = {**child_environment(*SOLVER_VARIABLES), **ONE_THREAD}
            self._process = start(command, stdin=theirs.fileno(), stdout=theirs.fileno(), env=env)
        try:
            self._receive(Deadline(START_S))
        except Exception as error:
            self.kill()
            raise SolverError(f"the process did not start: {' '.join(command)}") from error

    def ask(self, question: Any, limit_s: float) -> Any:
        """The answer; TimeoutError where it is not there in time, EOFError where the process ended."""
        deadline = Deadline(limit_s)
        # It may be stopped, and a socket holds less than a large program.
        self._wait_until(deadline)
        self._socket.sendall(framed(question))
        return self._receive(deadline)

    async def asked(self, question: Any, limit_s: float) -> Any:
        """As `ask`, for an event loop."""
        loop, found = asyncio.get_running_loop(), bytearray()
        self._socket.setblocking(False)
        async with asyncio.timeout(limit_s):
            await loop.sock_sendall(self._socket, framed(question))
            while missing(found):
                _add(found, await loop.sock_recv(self._socket, CHUNK))
        return _unframed(found)

    def _receive(self, deadline: Deadline) -> Any:
        found = bytearray()
        while missing(found):
            self._wait_until(deadline)
            _add(found, self._socket.recv(CHUNK))
        return _unframed(found)

    def _wait_until(self, deadline: Deadline) -> None:
        """Have the socket wait no longer; TimeoutError where the time is up."""
        left_s = deadline.remaining_s
        if not left_s:
            raise TimeoutError
        self._socket.settimeout(left_s)

    @property
    def was_alarmed(self) -> bool:
        """Whether the system ended it, for it did not end by itself."""
        return self._process.returncode == -signal.SIGALRM

    def kill(self) -> None:
        """End the process, whatever it does."""
        kill(self._process)
        self._process.wait()
        self._socket.close()


def framed(message: Any) -> bytes:
    """The message as it is sent."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def missing(found: bytearray) -> int:
    """How many bytes are known to be missing of a message; ValueError where it is none of ours."""
    if len(found) < LENGTH.size:
        return LENGTH.size - len(found)
    (length,) = LENGTH.unpack_from(found)
    if length > LONGEST or len(found) > LENGTH.size + length:
        raise ValueError(f"{length} bytes")
    return int(LENGTH.size + length - len(found))


def _add(found: bytearray, part: bytes) -> None:
    if not part:
        raise EOFError
    found += part


def _unframed(found: bytearray) -> Any:
    # Only ever from the process that was started above, over a socket that nobody else has.
    return pickle.loads(memoryview(found)[LENGTH.size :])  # noqa: S301


def serve_parent(answer: Callable[[Any, Deadline], Any]) -> None:
    """Answer what comes from the parent until it ends."""
    # What a library may print must not come between the answers.
    with os.fdopen(take_output(), "wb") as sink:
        serve(answer, sys.stdin.buffer, sink)


def serve(answer: Callable[[Any, Deadline], Any], source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer questions until the source ends."""
    # What was imported stays: to look through it again and again would take longer than most answers.
    gc.freeze()
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
    sink.write(framed(message))
    sink.flush()
