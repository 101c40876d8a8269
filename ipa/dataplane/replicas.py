"""Which replica is given the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# A replica that broke a connection is left alone this long; the supervisor replaces a dead one in seconds.
BACKOFF_S = 0.2
# Of so many last batches the quickest is taken as the service time that no answer can beat.
REMEMBERED_BATCHES = 20


@dataclass(slots=True)
class Replica:
    """One model server: batches in it now, when it was last given one, until when it is left alone."""

    url: str
    in_flight: int = 0
    last_used: int = 0
    down_until_s: float = 0.0


class Replicas:
    """The replicas of a stage. One that is taken out of the list finishes its batch first (it drains)."""

    def __init__(self, urls: Sequence[str], *, batches_each: int = 1) -> None:
        self._batches_each = batches_each
        self._active: dict[str, Replica] = {url: Replica(url) for url in urls}
        self._draining: dict[str, Replica] = {}
        self._uses = 0
        self._services_s: deque[float] = deque(maxlen=REMEMBERED_BATCHES)

    @property
    def least_service_s(self) -> float:
        """The quickest of the last batches; 0 until one was seen."""
        return min(self._services_s, default=0.0)

    def set_urls(self, urls: Sequence[str]) -> None:
        """Serve with these from now on; others drain. What was learnt of service times is forgotten."""
        wanted = dict.fromkeys(urls)
        if wanted.keys() == self._active.keys():
            return
        known = self._active | self._draining
        self._active = {url: known.get(url) or Replica(url) for url in wanted}
        self._draining = {url: it for url, it in known.items() if url not in wanted and it.in_flight}
        self._services_s.clear()

    def has_idle(self, now_s: float) -> bool:
        """Whether a batch could be given away now."""
        return bool(self._idle(now_s))

    def acquire(self, now_s: float) -> Replica:
        """The least loaded idle replica, of equals the one longest unused. There must be one."""
        chosen = min(self._idle(now_s), key=lambda replica: (replica.in_flight, replica.last_used))
        self._uses += 1
        chosen.in_flight += 1
        chosen.last_used = self._uses
        return chosen

    def _idle(self, now_s: float) -> list[Replica]:
        return [
            replica
            for replica in self._active.values()
            if replica.in_flight < self._batches_each and replica.down_until_s <= now_s
        ]

    def release(self, replica: Replica, service_s: float) -> None:
        """It has answered after so long."""
        self._services_s.append(service_s)
        self._leave(replica)

    def lost(self, replica: Replica, now_s: float) -> None:
        """Its connection broke; leave it alone for a while."""
        replica.down_until_s = now_s + BACKOFF_S
        self._leave(replica)

    def next_up_s(self, now_s: float) -> float | None:
        """When the next replica that was left alone is tried again."""
        waits = (replica.down_until_s for replica in self._active.values())
        return min((until for until in waits if until > now_s), default=None)

    def to_json(self) -> dict[str, Any]:
        """The active replicas with their batches in flight, and those that still drain."""
        return {
            "replicas": [{"url": it.url, "in_flight": it.in_flight} for it in self._active.values()],
            "draining": list(self._draining),
        }

    def _leave(self, replica: Replica) -> None:
        replica.in_flight -= 1
        if not replica.in_flight:
            self._draining.pop(replica.url, None)
