"""Group commit: the writes of many threads in one transaction, since the disk is slower than a write."""

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
# Some megabytes; other writers of the store wait for the group.
MOST_TOGETHER = 64
# The longest wait for writes that are about to come, and the interval of looking for them.
LINGER_S = 0.02
LOOK_S = 0.001


class _State(Enum):
    WAITING = auto()
    # This thread writes its item and those that wait behind it.
    LEADS = auto()
    WRITTEN = auto()
    # The transaction of its group failed.
    ALONE = auto()


class _Waiting(Generic[T]):
    """An item, and the event that wakes its thread, once."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.state = _State.WAITING
        self.woken = threading.Event()

    def wake(self, state: _State) -> None:
        self.state = state
        self.woken.set()


class GroupCommit(Generic[T]):
    """A queue whose items are written in groups. `write` writes all items that it is given, or raises.

    A writer waits up to `LINGER_S` for more items while `more_come` is true. With a single thread each write
    is a group of its own.
    """

    def __init__(
        self, write: Callable[[Sequence[T]], None], more_come: Callable[[], bool] = lambda: False
    ) -> None:
        self._write, self._more_come = write, more_come
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting[T]] = deque()
        self._is_writing = False

    def add(self, item: T) -> None:
        """Write the item. If its group fails it is written alone, so errors are its own."""
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
        """Wake the thread that has waited longest to write the next group."""
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
            LOG.info("a group of %d writes failed; each is retried alone", len(group), exc_info=True)
        finally:
            for each in group:
                each.wake(state)
            with self._lock:
                self._lead_next()
