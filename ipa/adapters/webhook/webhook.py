"""The webhook: follows the record in a thread of its own and posts what is worth telling.

The record is the queue that outlives a restart: a cursor in the store says up to where it was told. Nothing
here is waited for by a control loop.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from ipa.adapters.kube.backoff import LONGEST_RETRY_AFTER_S, Backoff, retry_after_s
from ipa.adapters.webhook.guarded import DeliveryError, Sender
from ipa.adapters.webhook.message import headers_of, message_of
from ipa.control.audit.feed import RecordFeed
from ipa.control.audit.record import EntryKind, Recorded
from ipa.model.decision import Action
from ipa.model.errors import IpaError

log = logging.getLogger("ipa.webhook")

CURSOR = "webhook"
# Entries of one read.
BATCH = 500
# A receiver that is down is asked again so often.
BACKOFF = Backoff(first_s=1.0, longest_s=300.0)
# An event that the receiver refuses (4xx) is not worth more.
MOST_REFUSALS = 3
# These say "later", not "never".
LATER = frozenset({408, 425, 429})
# How long a stop waits for what is under way.
JOIN_S = 2.0


class Cursors(Protocol):
    """Places in the record, kept over restarts."""

    def cursor(self, name: str) -> int | None:
        """The place that was kept under this name."""
        ...

    def set_cursor(self, name: str, seq: int) -> None:
        """Keep it."""
        ...


@dataclass(frozen=True, slots=True)
class Receiver:
    """How it is told: from which source, with which key, all or only what changes; how many may wait."""

    source: str
    key: bytes
    only_changes: bool = True
    most_waiting: int = 1000


class Webhook:
    """Tells a receiver at least once of each event, in order; the oldest are dropped where too many wait.

    `leading`: whether this replica of the service is the one that tells.
    """

    def __init__(
        self,
        feed: RecordFeed,
        cursors: Cursors,
        sender: Sender,
        receiver: Receiver,
        *,
        leading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._feed, self._cursors, self._sender = feed, cursors, sender
        self._receiver, self._leading = receiver, leading
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._waiting: deque[Recorded] = deque()
        self._reasons: dict[str, str] = {}
        # Up to where the record was read, and up to where that is kept; None before it is known.
        self._read: int | None = None
        self._kept = 0
        # Whether something was told or dropped since.
        self._is_unkept = False
        self._failures = self._refusals = 0
        self._not_before_s = 0.0
        self.delivered = self.failed = self.dropped = 0

    @property
    def waiting(self) -> int:
        """Events that wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def close(self) -> None:
        """Tell no more; what was not told is told after the next start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
            except IpaError as error:
                log.warning("the record cannot be read for the webhook: %s", error.message)
            except Exception:
                # A fault of this program must not end the telling.
                log.exception("the webhook failed")
            left_s = self._not_before_s - time.monotonic()
            if not self._waiting or left_s > 0.0:
                self._stop.wait(self._feed.poll_s)
        self._sender.close()
        try:
            self._keep(at_least=1)
        except IpaError as error:
            log.warning("how far the webhook was told cannot be kept: %s", error.message)

    def _turn(self) -> None:
        """Read what is new, and tell one."""
        if not self._leading():
            # Whoever leads goes on from the cursor.
            self._waiting.clear()
            self._read = None
            return
        self._pull()
        if self._waiting and time.monotonic() >= self._not_before_s:
            self._tell(self._waiting[0])
        self._keep(at_least=BATCH)

    def _pull(self) -> None:
        if self._read is None:
            self._read = self._kept = self._begin()
        while found := self._feed.after(self._read, BATCH):
            self._read = found[-1].seq
            self._waiting.extend(entry for entry in found if self._is_told(entry))
            while len(self._waiting) > self._receiver.most_waiting:
                self._done()
                self.dropped += 1

    def _begin(self) -> int:
        """Where the last one ended; at the newest where there was none, or too much is to be told since."""
        kept, newest = self._cursors.cursor(CURSOR), self._feed.newest()
        if kept is None:
            self._cursors.set_cursor(CURSOR, newest)
            return newest
        if self._feed.gone(kept):
            log.warning("the webhook is not told entries %d to %d of the record", kept + 1, newest)
            self.dropped += max(newest - kept, 0)
            return newest
        return kept

    def _keep(self, at_least: int) -> None:
        """Keep how far it was told: where all was, or so much that it would be told again after a crash."""
        told = self._waiting[0].seq - 1 if self._waiting else self._read
        if told is None or told == self._kept:
            return
        if told - self._kept >= at_least or (self._is_unkept and not self._waiting):
            self._cursors.set_cursor(CURSOR, told)
            self._kept, self._is_unkept = told, False

    def _is_told(self, entry: Recorded) -> bool:
        """Whether to tell it: of holds, where not all are asked for, the first of a reason in a row."""
        values = entry.values
        if values["kind"] != EntryKind.DECISION:
            return True
        if self._receiver.only_changes and "@" in values["pipeline"]:
            # Of a policy that only says what it would do.
            return False
        pipeline, reason = values["pipeline"], values["what"]
        before, self._reasons[pipeline] = self._reasons.get(pipeline), reason
        is_new = reason != before or values["facts"]["action"] == Action.APPLY
        return is_new or not self._receiver.only_changes

    def _tell(self, entry: Recorded) -> None:
        message = message_of(entry, self._receiver.source)
        headers = headers_of(message, self._receiver.key, datetime.now(UTC))
        try:
            status, answered = self._sender.post(message.body, headers)
        except DeliveryError as error:
            self._later(str(error), None)
            return
        if 200 <= status < 300:
            self._done()
            self.delivered += 1
            self._failures, self._not_before_s = 0, 0.0
            return
        self._later(f"it answered {status}", retry_after_s(answered))
        if status < 500 and status not in LATER:
            self._refusals += 1
        if self._refusals >= MOST_REFUSALS:
            log.warning("event %s is dropped: the webhook's receiver refuses it", message.id)
            self._done()
            self.dropped += 1

    def _done(self) -> None:
        """The first that waits is no longer to be told."""
        self._waiting.popleft()
        self._refusals, self._is_unkept = 0, True

    def _later(self, why: str, asked_s: float | None) -> None:
        self.failed += 1
        self._failures += 1
        wait_s = BACKOFF.delay_s(self._failures, random.random())
        if asked_s is not None:
            wait_s = max(wait_s, min(asked_s, LONGEST_RETRY_AFTER_S))
        self._not_before_s = time.monotonic() + wait_s
        # One line an outage, not one a retry.
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        log.log(level, "the webhook's receiver did not take an event: %s; again in %.0f s", why, wait_s)
