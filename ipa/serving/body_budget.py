"""Bounds on request bodies: bytes held at once, and work in the event loop."""

from __future__ import annotations

import asyncio
import ctypes
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple, Unpack

A = TypeVarTuple("A")
R = TypeVar("R")
# Bodies that are read on in one round of the event loop. Each takes some tenths of a millisecond, and every
# other request waits for the round to end several times before it is answered.
READ_A_ROUND = 8
# A block of this many bytes or more has its own pages, which go back to the system once it is freed. It is
# glibc's own bound, which it raises to the largest block that was freed: it would keep the next one like it.
OWN_PAGES_BYTES = 128 << 10
# Of malloc.h.
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
# Seconds after which a request, or a client, that found no room may come again.
RETRY_S = 1
# Every bracket becomes a square one; other characters go.
_STRUCTURE = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},:"))
# One thread: what it computes shares one interpreter with the event loop, which more threads would delay.
_ASIDE = ThreadPoolExecutor(1, "bodies")


async def aside(is_large: bool, function: Callable[[Unpack[A]], R], *arguments: *A) -> R:
    """The result of the function, which runs in a thread if `is_large`, so as not to block the event loop."""
    if not is_large:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_ASIDE, function, *arguments)


def structure(text: bytes) -> bytes:
    """Return the text's brackets (all as square ones), commas and colons outside of strings.

    It makes a fixed number of passes over the text, each in C: linear for any text, JSON or not.
    """
    # Without escaped characters every other piece between quotes is outside of strings.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(plain.split(b'"')[::2]).translate(_STRUCTURE, _NO_STRUCTURE)


def give_back_bodies() -> None:
    """Make the allocator return the memory of bodies to the system as soon as it is free."""
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
        # Each thread would else keep what it freed for itself.
        set_option(M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return free pages to the system, including those between used ones, which glibc would keep."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


class NoRoomError(Exception):
    """The bodies of other requests use all memory for bodies."""

    def __init__(self) -> None:
        super().__init__(
            "the bodies of other requests use all the memory for bodies; send it again in a moment"
        )


class Incoming:
    """A request body as it arrives; `size_bytes` of memory count for it in the budget."""

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self.deadline = deadline
        # In one block: many small ones would leave holes that no larger one fits in.
        self.data = bytearray()
        self.size_bytes = 0
        self.is_dropped = False


class BodyBudget:
    """A bound on the bytes of all request bodies held at once. For one event loop.

    Beyond it the largest body that is still incomplete is dropped: a client that sends slowly, or never ends,
    cannot keep room from small requests.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._incomplete: set[Incoming] = set()
        self.held_bytes = 0

    def add(self, body: Incoming, data: bytes) -> None:
        """Append data that has arrived; NoRoomError if there is no room for it."""
        self._incomplete.add(body)
        self.hold(body, len(data))
        body.data += data

    def hold(self, body: Incoming, size: int) -> None:
        """Count this many more bytes for the body; without room NoRoomError, and the body is released."""
        while self.held_bytes + size > self._most_bytes:
            largest = max(
                {body, *self._incomplete},
                key=lambda each: each.size_bytes + (size if each is body else 0),
            )
            self.release(largest)
            if largest is body:
                raise NoRoomError
            largest.is_dropped = True
            if not largest.deadline.expired():
                largest.deadline.reschedule(asyncio.get_running_loop().time())
        body.size_bytes += size
        self.held_bytes += size

    def complete(self, body: Incoming) -> bytes:
        """Return the whole body, which counts against the budget until `release`."""
        self._incomplete.discard(body)
        data = bytes(body.data)
        body.data.clear()
        return data

    def release(self, body: Incoming) -> None:
        """Stop counting the body against the budget."""
        self._incomplete.discard(body)
        self.held_bytes -= body.size_bytes
        body.data.clear()
        body.size_bytes = 0


class Turns:
    """Lets a fixed number of waiting tasks continue in each round of the event loop, in order of arrival."""

    def __init__(self, each_round: int = READ_A_ROUND) -> None:
        self._each_round = each_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._passed = 0
        self._is_scheduled = False

    async def take(self) -> None:
        """Wait until this task may continue."""
        loop = asyncio.get_running_loop()
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._round, loop)
        if self._passed < self._each_round and not self._waiting:
            self._passed += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._each_round:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._passed += 1
        self._is_scheduled = self._passed > 0
        if self._is_scheduled:
            loop.call_soon(self._round, loop)
