"""Keeps the store within its retention while the service runs, each pass in a process of its own.

    python -m ipa.adapters.store.housekeeping

makes one pass that it reads as JSON, and answers so. Packing a segment takes a second of CPU time and some
50 MB: in the service's own process ticks would have less of the interpreter, and the memory would stay.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ipa.adapters.processes import JsonChild, asked_by_parent, child_environment
from ipa.adapters.store.database import Access, close_engine, open_engine
from ipa.adapters.store.keeper import Keeper
from ipa.adapters.store.signing import keyring_of
from ipa.adapters.store.store import Store
from ipa.control.store_admin import PruneReport, Retention
from ipa.model.errors import IpaError, UnavailableError

log = logging.getLogger("ipa.store")
# How often the need is looked for, by the wall clock.
EVERY_S = 15.0
# A pass is made at least this often: it seals pipelines that record no more, and clears what another left.
LONGEST_S = 3600.0
# A pass ends after this long, and the next one goes on.
PASS_S = 60.0
# Of a PostgreSQL client.
DRIVER_VARIABLES = ("PG",)
COMMAND = (sys.executable, "-m", "ipa.adapters.store.housekeeping")


class Housekeeping:
    """Seals and prunes the store. `now` is the clock of its decisions; `leads` is False in a standby."""

    def __init__(
        self, store: Store, now: Callable[[], datetime], leads: Callable[[], bool], every_s: float = EVERY_S
    ) -> None:
        self._store, self._now, self._leads, self._every_s = store, now, leads, every_s
        self._passed_s: float | None = None
        self._stop = threading.Event()
        self._child: JsonChild | None = None
        self._thread = threading.Thread(target=self._run, name="store-housekeeping", daemon=True)

    def start(self) -> None:
        """Begin; the first pass comes after `every_s`."""
        self._thread.start()

    def close(self) -> None:
        """End; a pass under way is cut off, which loses nothing."""
        self._stop.set()
        if self._child is not None:
            self._child.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.once()

    def once(self) -> PruneReport | None:
        """Make a pass if there is need; what it did. A failure is logged once, for `Store.troubles` too."""
        keeper = self._store.keeper
        try:
            if not self._leads() or not self._is_due():
                return None
            answer = self._passed()
            keeper.failed = ""
        except IpaError as error:
            self._fail(error.message)
            return None
        except Exception:
            # A fault of this program must not end the thread: the store would grow for ever.
            log.exception("the store is not pruned")
            self._fail("pruning failed, see the log")
            return None
        if answer is None:
            return None
        report = PruneReport(**answer["report"])
        for pipeline, fault in answer["damaged"].items():
            if pipeline not in keeper.damaged:
                log.error("%s; nothing of it is sealed or removed", fault)
        keeper.damaged = dict(answer["damaged"])
        keeper.is_bounded, keeper.record_bytes = answer["is_bounded"], answer["record_bytes"]
        self._passed_s = time.monotonic() if report.is_done else None
        if report.removed_decisions:
            words = "removed %d holds from the store, which freed %d kB"
            log.info(words, report.removed_decisions, report.freed_bytes // 1000)
        return report

    def _fail(self, why: str) -> None:
        if self._store.keeper.failed != why:
            log.error("the store is not pruned: %s", why)
        self._store.keeper.failed = why
        self._passed_s = time.monotonic()

    def _is_due(self) -> bool:
        if self._passed_s is None or time.monotonic() - self._passed_s > LONGEST_S:
            return True
        return self._store.keeper.is_due(self._now().timestamp(), self._store.retention)

    def _passed(self) -> dict[str, Any] | None:
        """The answer of a pass; None if the service ended meanwhile. UnavailableError: the pass failed."""
        asked = {
            "store_url": self._store.url,
            "key_file": self._store.keyring.key_file,
            "now_s": self._now().timestamp(),
            "retention": asdict(self._store.retention),
            "within_s": PASS_S,
        }
        with JsonChild(COMMAND, stderr=subprocess.DEVNULL, env=child_environment(*DRIVER_VARIABLES)) as child:
            self._child = child
            # `close` sets this first, then kills the child that it sees: one of the two comes in time.
            if self._stop.is_set():
                return None
            child.send(json.dumps(asked))
            answer = next(child.answers(), None)
            if self._stop.is_set():
                return None
            if answer is None:
                raise UnavailableError(f"the process that prunes the store ended with {child.wait()}")
        if "error" in answer:
            raise UnavailableError(answer["error"])
        return answer


def _pruned(asked: dict[str, Any]) -> dict[str, Any]:
    """In the process of a pass: its report and what the keeper found, or its error."""
    try:
        engine = open_engine(asked["store_url"], Access.WRITE)
        try:
            keeper = Keeper(engine, keyring_of(engine.url, asked["key_file"]))
            report = keeper.prune(asked["now_s"], Retention(**asked["retention"]), asked["within_s"])
        finally:
            close_engine(engine)
    except IpaError as error:
        return {"error": f"{error.message} {error.hint}".strip()}
    return {
        "report": asdict(report),
        "damaged": keeper.damaged,
        "is_bounded": keeper.is_bounded,
        "record_bytes": keeper.record_bytes,
    }


def main() -> None:
    """Make the pass that the service asks for."""
    question, answer = asked_by_parent()
    answer(_pruned(question))


if __name__ == "__main__":
    main()
