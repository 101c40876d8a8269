"""What became of the changes, put into the record: a hook of the control loop."""

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
    """Notes that a change was accepted, landed, failed or was taken back. What cannot be noted is logged.

    The decision that a change comes from is in the record before it is written; this is only what followed.
    """

    def __init__(self, note: Callable[[Entry], None]) -> None:
        self._note = note

    def __call__(self, decision: Decision, snapshot: Snapshot) -> None:
        """Note what this tick saw end and what it began, at its time."""
        found = []
        if snapshot.ended is not None and snapshot.ended.change is not None:
            found.append(of_ended(decision.pipeline, snapshot.ended, decision.at))
        if decision.action is Action.APPLY and snapshot.phase is ActuationPhase.WAITING_READY:
            found.append(of_applied(decision, decision.at))
        try:
            for entry in found:
                # Others compute while the disk is waited for.
                with COMPUTE_LOCK.away():
                    self._note(entry)
        except IpaError as error:
            log.error("%s: what became of a change cannot be recorded: %s", decision.pipeline, error)
