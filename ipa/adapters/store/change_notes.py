"""The control loop's hook that records the outcomes of changes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ipa.control.audit.record import Entry, of_applied, of_ended
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.loop.compute_lock import COMPUTE_LOCK
from ipa.control.loop.snapshot import Snapshot
from ipa.model.decision import Action, Decision
from ipa.model.errors import IpaError

log = logging.getLogger("ipa.store")


class Changes:
    """The hook. It records that a change was accepted, became ready, failed or was rolled back.

    The decision behind a change is in the record before the change is written, so an outcome that cannot be
    recorded is only logged.
    """

    def __init__(self, note: Callable[[Entry], None]) -> None:
        self._note = note

    def __call__(self, decision: Decision, snapshot: Snapshot) -> None:
        """Record the change that ended in this tick, and the one that it started."""
        found = []
        if snapshot.ended is not None and snapshot.ended.change is not None:
            found.append(of_ended(decision.pipeline, snapshot.ended, decision.at))
        if decision.action is Action.APPLY and snapshot.phase is ActuationPhase.WAITING_READY:
            found.append(of_applied(decision, decision.at))
        try:
            for entry in found:
                # Other loops may compute while this one waits for the disk.
                with COMPUTE_LOCK.away():
                    self._note(entry)
        except IpaError as error:
            log.error("%s: the outcome of a change cannot be recorded: %s", decision.pipeline, error)
