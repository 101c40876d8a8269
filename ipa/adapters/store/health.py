"""The health of a store's writes: the failures, their duration and their remedies."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ipa.model.errors import IpaError

LOG = logging.getLogger("ipa.store")
# A failure without a later write of its kind, good or bad, is forgotten after this long.
FORGET_S = 600.0
# An outage is logged at this interval: a thousand loops fail a hundred times a second.
LOG_EVERY_S = 60.0
# A hundred pipelines at a tick of 10 s write about this much in an hour or two; less on a small volume.
LOW_BYTES = 64 * 1024 * 1024
LOW_RATIO = 0.05
MAKE_ROOM = "Enlarge the volume or remove other files from it; `ipa store prune` removes old decisions."


@dataclass(slots=True)
class _Outage:
    """Failing writes of one kind, from the first to the last."""

    error: IpaError
    since_s: float
    last_s: float
    count: int = 0
    logged_s: float = float("-inf")


class WriteHealth:
    """The failures to write a store, each until a write of the same kind succeeds. Thread-safe.

    Kinds are separate, since on a full disk a small write may succeed while a decision does not fit.
    """

    def __init__(self, shown: str, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._shown, self._monotonic_s = shown, monotonic_s
        self._lock = threading.Lock()
        self._outages: dict[str, _Outage] = {}

    def failed(self, kind: str, error: IpaError) -> None:
        """Note and log a failed write."""
        now_s = self._monotonic_s()
        with self._lock:
            outage = self._outages.setdefault(kind, _Outage(error, now_s, now_s))
            outage.error, outage.last_s = error, now_s
            outage.count += 1
            if now_s - outage.logged_s < LOG_EVERY_S:
                return
            outage.logged_s = now_s
            count = outage.count
        LOG.error("%s (%s, failure %d). %s", error.message, kind, count, error.hint)

    def worked(self, kind: str) -> None:
        """Forget the failures of that kind."""
        if kind not in self._outages:
            return
        with self._lock:
            outage = self._outages.pop(kind, None)
        if outage is not None:
            lasted_s = self._monotonic_s() - outage.since_s
            LOG.warning(
                "the store %s can be written again after %.0f s (%s, %d failures)",
                self._shown, lasted_s, kind, outage.count,
            )  # fmt: skip

    def reasons(self) -> tuple[str, ...]:
        """Return why writes fail now, each with its remedy; empty if they work."""
        oldest_s = self._monotonic_s() - FORGET_S
        with self._lock:
            for kind in [kind for kind, outage in self._outages.items() if outage.last_s < oldest_s]:
                del self._outages[kind]
            return tuple(
                dict.fromkeys(f"{it.error.message}. {it.error.hint}" for it in self._outages.values())
            )


def is_low(free_bytes: int, total_bytes: int) -> bool:
    """True if writes to a disk with so much space may soon fail."""
    return free_bytes < min(LOW_BYTES, LOW_RATIO * total_bytes)


def low_disk(path: Path) -> str:
    """Return a warning if the disk is nearly full; else empty."""
    try:
        disk = shutil.disk_usage(path.parent)
    except OSError as error:
        return f"the free space on the disk of the store {path} cannot be read: {error.strerror}"
    if not is_low(disk.free, disk.total):
        return ""
    return f"the disk of the store {path} has {disk.free / 1e6:.1f} MB free. {MAKE_ROOM}"
