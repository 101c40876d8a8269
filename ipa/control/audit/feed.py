"""The record as it grows, for those who follow it: read from the store once, however many there are."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ipa.control.audit.checkpoints import SignedCheckpoint
from ipa.control.audit.record import Recorded

# How often the store is looked at; a tick is some seconds.
POLL_S = 0.5
# Entries that are remembered, about a kilobyte each; older ones are read again.
REMEMBERED = 1000
# Who comes back after more than this is told so instead: to read it all takes longer than to look anew.
KEPT = 10_000


class FollowedRecord(Protocol):
    """What is followed."""

    def entries(self, after: int, limit: int, pipeline: str | None = None) -> Sequence[Recorded]:
        """The `limit` entries after that `seq`, oldest first."""
        ...

    def newest_seq(self) -> int:
        """The `seq` of the newest entry; 0 where there is none."""
        ...

    def checkpoints(self, after: int, pipeline: str | None = None) -> Iterable[SignedCheckpoint]:
        """The checkpoints of what retention removed after that `seq`."""
        ...


class RecordFeed:
    """The newest entries of the record. Thread-safe; errors are the store's."""

    def __init__(
        self,
        record: FollowedRecord,
        monotonic_s: Callable[[], float],
        *,
        poll_s: float = POLL_S,
        kept: int = KEPT,
    ) -> None:
        self._record, self._monotonic_s = record, monotonic_s
        self.poll_s, self.kept = poll_s, kept
        self._lock = threading.Lock()
        self._recent: deque[Recorded] = deque(maxlen=REMEMBERED)
        # Every entry after this one that there is, is remembered or was.
        self._newest: int | None = None
        self._read_s = 0.0

    def newest(self, *, now: bool = False) -> int:
        """The `seq` of the newest entry at the last look; with `now` it is looked."""
        with self._lock:
            return self._refresh(now=now)

    def after(self, seq: int, limit: int = 100) -> Sequence[Recorded]:
        """The `limit` entries after that one, oldest first."""
        with self._lock:
            if seq >= self._refresh():
                return ()
            if self._recent and self._recent[0].seq <= seq + 1:
                return tuple(entry for entry in self._recent if entry.seq > seq)[:limit]
        return self._record.entries(seq, limit)

    def gone(self, seq: int) -> bool:
        """Whether what follows that entry is no longer to be had: too much, or of another store."""
        newest = self.newest()
        return seq > newest or newest - seq > self.kept

    def _refresh(self, *, now: bool = False) -> int:
        now_s = self._monotonic_s()
        if self._newest is None:
            self._newest = self._record.newest_seq()
        elif not now and now_s - self._read_s < self.poll_s:
            return self._newest
        while found := self._record.entries(self._newest, REMEMBERED):
            self._recent.extend(found)
            self._newest = found[-1].seq
        self._read_s = now_s
        return self._newest
