"""Group commit: the writes of many threads in one transaction, since the disk is slower than a write."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

LOG = logging.getLogger("ipa.store")
T = TypeVar("T")
# Some megabytes; other writers of the store wait for the group.
MOST_TOGETHER = 64
# The longest wait for writes that are about to come, and the interval of looking for them.
LINGER_S = 0.02
LOOK_S = 0.001


class GroupCommit(Generic[T]):
    """A queue whose items are written in groups. `write` writes all items that it is given, or raises.

    A writer waits up to `LINGER_S` for more items while `more_come` is true. With a single thread each write
    is a group of its own.
    """

    def __init__(
        self, write: Callable[[Sequence[T]], None], more_come: Callable[[], bool] = lambda: False
    ) -> None:
        self._write, self._more_come = write, more_come
        self._waiting: deque[tuple[T, Future[None]]] = deque()
        # Held by the thread that writes a group.
        self._writing = threading.Lock()

    def add(self, item: T) -> None:
        """Write the item. If its group fails it is written alone, so errors are its own."""
        done: Future[None] = Future()
        self._waiting.append((item, done))
        while not done.done():
            with self._writing:
                # Another thread may have written it while this one waited.
                if not done.done():
                    self._linger()
                    self._write_group()
        done.result()

    def _linger(self) -> None:
        until_s = time.monotonic() + LINGER_S
        while self._more_come() and len(self._waiting) < MOST_TOGETHER and time.monotonic() < until_s:
            time.sleep(LOOK_S)

    def _write_group(self) -> None:
        """Write the items that have waited longest, and end their waiting."""
        group = [self._waiting.popleft() for _ in range(min(MOST_TOGETHER, len(self._waiting)))]
        try:
            self._write([item for item, _ in group])
        except BaseException as error:
            if len(group) == 1 or not isinstance(error, Exception):
                for _, done in group:
                    done.set_exception(error)
                return
            LOG.info("a group of %d writes failed; each is retried alone", len(group), exc_info=True)
            for item, done in group:
                try:
                    self._write([item])
                    done.set_result(None)
                except Exception as own:
                    done.set_exception(own)
            return
        for _, done in group:
            done.set_result(None)
