"""The tail of the record, read from the store once for all of its followers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ipa.control.audit.checkpoints import SignedCheckpoint
from ipa.control.audit.record import Recorded

# The interval of reads of the store; a tick is some seconds.
POLL_S = 0.5
# Entries that are cached, about a kilobyte each; older ones are read again.
REMEMBERED = 1000
# A follower that missed more entries than this has to start anew: reading them all would take longer.
KEPT = 10_000


class FollowedRecord(Protocol):
    """The record that is followed."""

    def entries(self, after: int, limit: int, pipeline: str | None = None) -> Sequence[Recorded]:
        """Return the `limit` entries after `after`, oldest first."""

    def newest_seq(self) -> int:
        """Return the `seq` of the newest entry; 0 without entries."""

    def checkpoints(self, after: int, pipeline: str | None = None) -> Iterable[SignedCheckpoint]:
        """Return the checkpoints of entries after `after` that retention removed."""


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
        # The `seq` of the newest entry that was read.
        self._newest: int | None = None
        self._read_s = 0.0

    def newest(self, *, now: bool = False) -> int:
        """Return the `seq` of the newest entry, as of the last read; with `now` it reads first."""
        with self._lock:
            return self._refresh(now=now)

    def after(self, seq: int, limit: int = 100) -> Sequence[Recorded]:
        """Return the `limit` entries after `seq`, oldest first."""
        with self._lock:
            if seq >= self._refresh():
                return ()
            if self._recent and self._recent[0].seq <= seq + 1:
                return tuple(entry for entry in self._recent if entry.seq > seq)[:limit]
        return self._record.entries(seq, limit)

    def gone(self, seq: int) -> bool:
        """True if the entries after `seq` cannot be followed: too many, or of another store."""
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
