"""The webhook: it follows the record in a thread of its own and posts the events to the receiver.

The record is the queue that survives a restart: a cursor in the store marks the last entry delivered. No
control loop waits for the webhook.
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

from ipa.adapters.kube.backoff import LONGEST_RETRY_AFTER_S, Backoff, retry_after_s
from ipa.adapters.store.store import Store
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
# The retries of a receiver that is down.
BACKOFF = Backoff(first_s=1.0, longest_s=300.0)
# An event that the receiver refuses (4xx) is tried this often.
MOST_REFUSALS = 3
# Statuses that mean "later", not "never".
LATER = frozenset({408, 425, 429})
# How long `close` waits for the delivery under way.
JOIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """The delivery: event source, signing key, all decisions or only changes, and the most that may wait."""

    source: str
    key: bytes
    only_changes: bool = True
    most_waiting: int = 1000


class Webhook:
    """At-least-once, ordered delivery of events. If too many wait, the oldest are dropped.

    `cursors` keeps the position in the record; `leading` is true in the replica of the service that delivers.
    """

    def __init__(
        self,
        feed: RecordFeed,
        cursors: Store,
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
        # The last entry read, None before the first, and the cursor in the store.
        self._read: int | None = None
        self._kept = 0
        # True if an event was delivered or dropped since the cursor was stored.
        self._is_unkept = False
        self._failures = self._refusals = 0
        self._not_before_s = 0.0
        self.delivered = self.failed = self.dropped = 0

    @property
    def waiting(self) -> int:
        """The number of events that wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the delivery."""
        self._thread.start()

    def close(self) -> None:
        """Stop the delivery; the next start continues with the events that wait."""
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
                # A bug must not end the delivery.
                log.exception("the webhook failed")
            left_s = self._not_before_s - time.monotonic()
            if not self._waiting or left_s > 0.0:
                self._stop.wait(self._feed.poll_s)
        self._sender.close()
        try:
            self._keep(at_least=1)
        except IpaError as error:
            log.warning("the webhook's cursor cannot be stored: %s", error.message)

    def _turn(self) -> None:
        """Read new entries, and deliver one event."""
        if not self._leading():
            # The leader continues from the cursor.
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
        """The cursor; the newest entry without a cursor, or if the entries since it are too many."""
        kept, newest = self._cursors.cursor(CURSOR), self._feed.newest()
        if kept is None:
            self._cursors.set_cursor(CURSOR, newest)
            return newest
        if self._feed.gone(kept):
            log.warning("the webhook skips entries %d to %d of the record: too many wait", kept + 1, newest)
            self.dropped += max(newest - kept, 0)
            return newest
        return kept

    def _keep(self, at_least: int) -> None:
        """Store the cursor if no event waits, or if a crash would repeat `at_least` deliveries."""
        told = self._waiting[0].seq - 1 if self._waiting else self._read
        if told is None or told == self._kept:
            return
        if told - self._kept >= at_least or (self._is_unkept and not self._waiting):
            self._cursors.set_cursor(CURSOR, told)
            self._kept, self._is_unkept = told, False

    def _is_told(self, entry: Recorded) -> bool:
        """True if the entry is an event for the receiver; of holds in a row with one reason, the first."""
        values = entry.values
        if values["kind"] != EntryKind.DECISION:
            return True
        if self._receiver.only_changes and "@" in values["pipeline"]:
            # The decision of a shadow policy.
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
            log.warning("event %s is dropped: its receiver refused it %d times", message.id, self._refusals)
            self._done()
            self.dropped += 1

    def _done(self) -> None:
        """Remove the first event that waits."""
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
        log.log(level, "the webhook's receiver did not accept an event: %s; retry in %.0f s", why, wait_s)
