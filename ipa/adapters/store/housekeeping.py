"""The thread that seals and prunes the store while the service runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from ipa.adapters.store.store import Store
from ipa.model.errors import IpaError

log = logging.getLogger("ipa.store")
# A tick's rows wait for this long before they are sealed; no tick waits.
EVERY_S = 15.0
# A pass ends after this long, so that the service stops in time; what is left comes soon.
PASS_S, SOON_S = 5.0, 0.5


class Housekeeping:
    """Prunes the store every `EVERY_S` by the wall clock. `now` is the clock of its decisions.

    `leads` is False in a replica that stands by.
    """

    def __init__(
        self, store: Store, now: Callable[[], datetime], leads: Callable[[], bool], every_s: float = EVERY_S
    ) -> None:
        self._store, self._now, self._leads, self._every_s = store, now, leads, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-housekeeping", daemon=True)

    def start(self) -> None:
        """Begin; the first pass comes after `every_s`."""
        self._thread.start()

    def close(self) -> None:
        """End, after the transaction under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait_s = self._every_s
        while not self._stop.wait(wait_s):
            wait_s = self._every_s if self.once() else min(SOON_S, self._every_s)

    def once(self) -> bool:
        """Make one pass; False if it ended early. Failures are logged once and kept for `Store.troubles`."""
        if not self._leads():
            return True
        keeper = self._store.keeper
        try:
            report = self._store.prune(self._now(), within_s=PASS_S, stop=self._stop.is_set)
        except IpaError as error:
            if keeper.failed != error.message:
                log.error("the store is not pruned: %s %s", error.message, error.hint)
            keeper.failed = error.message
            return True
        except Exception:
            # A fault of this program must not end the thread: the store would grow for ever.
            log.exception("the store is not pruned")
            keeper.failed = "pruning failed, see the log"
            return True
        keeper.failed = ""
        if report.removed_decisions:
            log.info(
                "removed %d holds from the store, which freed %d kB",
                report.removed_decisions,
                report.freed_bytes // 1000,
            )
        return report.is_done
