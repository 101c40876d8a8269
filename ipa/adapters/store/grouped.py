"""Writes of many threads in one transaction: waiting for the disk takes longer than writing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

LOG = logging.getLogger("ipa.store")
T = TypeVar("T")
# Some megabytes; others of the store wait behind it.
MOST_TOGETHER = 64


class _State(Enum):
    WAITING = auto()
    WRITTEN = auto()
    # The transaction that it was part of failed, whoever was to blame.
    ALONE = auto()


@dataclass
class _Waiting(Generic[T]):
    item: T
    state: _State = _State.WAITING


class Grouped(Generic[T]):
    """Hands `write` what came while it wrote before. It writes all of what it is given, or raises.

    Nobody waits for others to come: where one thread writes, each write is its own.
    """

    def __init__(self, write: Callable[[Sequence[T]], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._waiting: list[_Waiting[T]] = []
        self._is_writing = False

    def add(self, item: T) -> None:
        """Return once it is written. Where it fails among others it is tried alone: errors are its own."""
        mine = _Waiting(item)
        with self._changed:
            self._waiting.append(mine)
        while mine.state is _State.WAITING:
            with self._changed:
                self._changed.wait_for(lambda: mine.state is not _State.WAITING or not self._is_writing)
                group = self._take() if mine.state is _State.WAITING else []
            if group:
                self._write_group(group)
        if mine.state is _State.ALONE:
            self._write([item])

    def _take(self) -> list[_Waiting[T]]:
        """What is to be written next, by this thread."""
        self._is_writing = True
        group, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
        return group

    def _write_group(self, group: Sequence[_Waiting[T]]) -> None:
        state = _State.ALONE
        try:
            self._write([each.item for each in group])
            state = _State.WRITTEN
        except Exception:
            if len(group) == 1:
                raise
            LOG.info("%d writes failed together, each is tried alone", len(group), exc_info=True)
        finally:
            with self._changed:
                for each in group:
                    each.state = state
                self._is_writing = False
                self._changed.notify_all()
