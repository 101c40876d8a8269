"""The faults, and their times."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """The fate of a request instead of, or after, its being served."""

    STATUS = "answer with an error status"
    HANG = "no answer at all"
    LOST_BEFORE = "connection closed, nothing applied"
    LOST_AFTER = "applied, then connection closed"
    TRUNCATED = "applied, half of the JSON sent"
    HTML = "a proxy's page with status 200"
    WRONG_KIND = "another kind of object with status 200"
    DRIP = "applied, the answer sent a byte at a time and never whole"
    RESET = "nothing applied, connection reset"
    FAILURE = "nothing applied, a Status Failure with status 200"
    SILENT = "a watch that is accepted and then says nothing for ever, not even that it ends"
    EXPIRED = "a watch that is accepted and then says 410 in its stream"


@dataclass
class Fault:
    """A fault for the next `times` requests with that verb and resource (empty: any)."""

    kind: FaultKind
    verb: str = ""
    resource: str = ""
    status: int = 500
    reason: str = "InternalError"
    times: int = 1
    is_dry_run: bool | None = None
    # What the answer asks for with Retry-After, as it is sent.
    retry_after: str | None = None


@dataclass
class FaultSchedule:
    """The faults still to come, in order."""

    faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        with self._lock:
            self.faults.append(fault)

    def take(self, verb: str, resource: str, *, is_dry_run: bool) -> Fault | None:
        """The fault that hits this request; it then has one time less."""
        with self._lock:
            for fault in self.faults:
                if fault.verb not in ("", verb) or fault.resource not in ("", resource):
                    continue
                if fault.is_dry_run is not None and fault.is_dry_run != is_dry_run:
                    continue
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None
