"""Worker processes that answer one question at a time, and are killed if they exceed its time limit.

A worker reads pickled questions with their limits and writes pickled answers, each after its length in eight
bytes. Both ends are this package, over a private socket. Workers are reused; concurrent callers get one each.
Threads and tasks of an event loop can ask.
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
from ipa.control.loop.time_limit import COMPUTE_LOCK
from ipa.model.errors import DeadlineError, IpaError, SolverError
from ipa.optimize.deadline import Deadline

A = TypeVar("A")
# A worker whose parent is gone exits this long after its limit.
ORPHAN_S = 5.0
# Starting a worker imports libraries.
START_S = 30.0
LENGTH = struct.Struct("<Q")
# Bound of a message: a column takes nine bytes, and a program has some thousands of columns.
LONGEST = 1 << 28
# Bytes of one read; most answers are shorter.
CHUNK = 1 << 16
# A cancelled question may take this much longer: about as long as starting another worker.
UNWANTED_S = 1.0
# The variables by which Gurobi finds its files and its licence.
SOLVER_VARIABLES = ("GRB_", "GUROBI_")


class WorkerPool:
    """The workers of one kind; `command` starts a worker. `name` is its name in errors.

    Errors: DeadlineError (a worker was killed), SolverError (a worker died).
    """

    def __init__(self, name: str, command: Callable[[], list[str]], grace_s: float) -> None:
        self._name, self._command, self._grace_s = name, command, grace_s
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, question: Any, limit_s: Callable[[], float], kind: type[A]) -> A:
        """Return the answer of a worker; raise its answer if that is an IpaError."""
        worker = self._take() or Worker(self._command())
        seconds = limit_s()
        with COMPUTE_LOCK.away():
            return asyncio.run(self._answer(worker, question, seconds, kind))

    async def ask_async(self, question: Any, limit_s: float, kind: type[A]) -> A:
        """Return the answer of a worker, as `ask` does, in an event loop.

        When cancelled, it first waits `UNWANTED_S` for the answer, which mostly comes sooner than another
        worker would start. When it returns, the worker is idle or was killed.
        """
        asking = asyncio.ensure_future(self._ask_async(question, limit_s, kind))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            await asyncio.wait([asking], timeout=UNWANTED_S)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            raise

    async def _ask_async(self, question: Any, limit_s: float, kind: type[A]) -> A:
        return await self._answer(self._take() or await self._started(), question, limit_s, kind)

    async def _answer(self, worker: Worker, question: Any, limit_s: float, kind: type[A]) -> A:
        with self._held(worker, limit_s):
            answer = await worker.ask((question, limit_s), limit_s + self._grace_s)
            if not isinstance(answer, kind | IpaError):
                raise TypeError(f"a {type(answer).__name__}")
        if isinstance(answer, IpaError):
            raise answer
        return answer

    def close(self) -> None:
        """Stop the idle workers."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def _take(self) -> Worker | None:
        """The worker that answered last: its cache is the newest."""
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, worker: Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    async def _started(self) -> Worker:
        """A new worker. If the caller is cancelled, it is kept for the next question."""
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
        """Keep the worker if it answers; else kill it and raise the matching error."""
        try:
            yield
        except BaseException as error:
            worker.kill()
            if not isinstance(error, Exception):
                raise
            # On a busy machine the worker's own alarm may fire before our deadline.
            late = TimeoutError() if worker.was_alarmed else error
            raise self._failure(late, limit_s) from error
        self._keep(worker)

    def _failure(self, error: Exception, limit_s: float) -> IpaError:
        """The error for a worker that gave no valid answer."""
        if isinstance(error, TimeoutError):
            return DeadlineError(f"{self._name} exceeded its limit of {limit_s:.3g} s and was stopped")
        if isinstance(error, EOFError | OSError):
            return SolverError(f"the process of {self._name} died before it answered")
        return SolverError(f"the process of {self._name} sent an invalid answer")


class Worker:
    """A process and its socket."""

    def __init__(self, command: list[str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # One process per question: the threads of the vector library would compete for the cores.
            env = {**child_environment(*SOLVER_VARIABLES), **ONE_THREAD}
            self._process = start(command, stdin=theirs.fileno(), stdout=theirs.fileno(), env=env)
        self._socket.setblocking(False)
        try:
            asyncio.run(asyncio.wait_for(self._receive(), START_S))
        except Exception as error:
            self.kill()
            raise SolverError(f"the process did not start: {' '.join(command)}") from error

    async def ask(self, question: Any, limit_s: float) -> Any:
        """Return the answer. Errors: TimeoutError (not in time), EOFError (the process exited)."""
        async with asyncio.timeout(limit_s):
            # The process may hang, and a socket buffers less than a large program.
            await asyncio.get_running_loop().sock_sendall(self._socket, framed(question))
            return await self._receive()

    async def _receive(self) -> Any:
        loop, message = asyncio.get_running_loop(), bytearray()
        while missing(message):
            part = await loop.sock_recv(self._socket, CHUNK)
            if not part:
                raise EOFError
            message += part
        # Safe to unpickle: it comes from our own process, over a socket that no other process has.
        return pickle.loads(memoryview(message)[LENGTH.size :])  # noqa: S301

    @property
    def was_alarmed(self) -> bool:
        """True if the process was ended by its own alarm."""
        return self._process.returncode == -signal.SIGALRM

    def kill(self) -> None:
        """Kill the process."""
        kill(self._process)
        self._process.wait()
        self._socket.close()


def framed(message: Any) -> bytes:
    """Return the message as it is sent over the socket, after its length."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def missing(message: bytearray) -> int:
    """Return how many more bytes the message needs, as far as known; ValueError: it is invalid."""
    if len(message) < LENGTH.size:
        return LENGTH.size - len(message)
    (length,) = LENGTH.unpack_from(message)
    if length > LONGEST or len(message) > LENGTH.size + length:
        raise ValueError(f"{length} bytes")
    return int(LENGTH.size + length - len(message))


def serve_parent(answer: Callable[[Any, Deadline], Any]) -> None:
    """Answer the parent's questions until it exits."""
    # Output that a library prints must not mix with the answers.
    with os.fdopen(take_output(), "wb") as sink:
        serve(answer, sys.stdin.buffer, sink)


def serve(answer: Callable[[Any, Deadline], Any], source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer questions until the end of the source."""
    # Imported objects stay alive: collecting over them would take longer than most answers.
    gc.freeze()
    _send(sink, "ready")
    while header := source.read(LENGTH.size):
        (length,) = LENGTH.unpack(header)
        question, limit_s = pickle.loads(source.read(length))  # noqa: S301
        # The caller kills a worker that is late; if the caller itself was killed, the alarm does.
        signal.setitimer(signal.ITIMER_REAL, limit_s + ORPHAN_S)
        try:
            result = answer(question, Deadline(limit_s))
        except IpaError as error:
            result = error
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _send(sink, result)


def _send(sink: IO[bytes], message: Any) -> None:
    sink.write(framed(message))
    sink.flush()
