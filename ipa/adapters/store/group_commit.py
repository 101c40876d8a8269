"""Writes of many threads in one transaction: waiting for the disk takes longer than writing."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Generic, TypeVar

LOG = logging.getLogger("ipa.store")
T = TypeVar("T")
# Some megabytes; others of the store wait behind it.
MOST_TOGETHER = 64
# Where others are about to come they are waited for so long at most, and looked for so often.
LINGER_S = 0.02
LOOK_S = 0.001


class _State(Enum):
    WAITING = auto()
    # It is this one's turn to write, itself and what waits behind it.
    LEADS = auto()
    WRITTEN = auto()
    # The transaction that it was part of failed, whoever was to blame.
    ALONE = auto()


class _Waiting(Generic[T]):
    """An item, and the thread that waits for it: each is woken by itself, and once."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.state = _State.WAITING
        self.woken = threading.Event()

    def wake(self, state: _State) -> None:
        self.state = state
        self.woken.set()


class GroupCommit(Generic[T]):
    """Hands `write` what came while it wrote before. It writes all of what it is given, or raises.

    Who writes waits a moment for others while `more_come`: where one thread writes, each write is its own.
    """

    def __init__(
        self, write: Callable[[Sequence[T]], None], more_come: Callable[[], bool] = lambda: False
    ) -> None:
        self._write, self._more_come = write, more_come
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting[T]] = deque()
        self._is_writing = False

    def add(self, item: T) -> None:
        """Return once it is written. Where it fails among others it is tried alone: errors are its own."""
        mine = _Waiting(item)
        with self._lock:
            self._waiting.append(mine)
            if not self._is_writing:
                self._lead_next()
        mine.woken.wait()
        if mine.state is _State.LEADS:
            self._linger()
            self._write_group()
        if mine.state is _State.ALONE:
            self._write([item])

    def _linger(self) -> None:
        until_s = time.monotonic() + LINGER_S
        while self._more_come() and len(self._waiting) < MOST_TOGETHER and time.monotonic() < until_s:
            time.sleep(LOOK_S)

    def _lead_next(self) -> None:
        """Have whoever waits longest write next."""
        self._is_writing = bool(self._waiting)
        if self._waiting:
            self._waiting[0].wake(_State.LEADS)

    def _write_group(self) -> None:
        with self._lock:
            group = [self._waiting.popleft() for _ in range(min(MOST_TOGETHER, len(self._waiting)))]
        state = _State.ALONE
        try:
            self._write([each.item for each in group])
            state = _State.WRITTEN
        except Exception:
            if len(group) == 1:
                raise
            LOG.info("%d writes failed together, each is tried alone", len(group), exc_info=True)
        finally:
            for each in group:
                each.wake(state)
            with self._lock:
                self._lead_next()
