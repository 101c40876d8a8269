"""Housekeeping: applies the store's retention while the service runs, each pass in a process of its own.

    python -m ipa.adapters.store.housekeeping

makes one pass. It reads the request and writes the answer as JSON. Packing a segment takes a second of CPU
time and some 50 MB: in the service's process it would delay ticks, and the memory would stay allocated.
"""

from __future__ import annotations

import json
import logging
import shutil
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
# The interval of the check if a pass is due, by the wall clock.
EVERY_S = 15.0
# The longest interval between passes: one seals pipelines that record no more, and completes broken-off ones.
LONGEST_S = 3600.0
# The time limit of a pass; the next one continues.
PASS_S = 60.0
# The variables of a PostgreSQL client.
DRIVER_VARIABLES = ("PG",)
# It can wait: beside model servers on the same cores a second of CPU time makes their requests late, even so.
YIELDING = ("nice", "-n", "19") if shutil.which("nice") else ()
COMMAND = (*YIELDING, sys.executable, "-m", "ipa.adapters.store.housekeeping")


class Housekeeping:
    """The thread that seals and prunes the store if `leads()`. `now` is the clock of its decisions."""

    def __init__(
        self, store: Store, now: Callable[[], datetime], leads: Callable[[], bool], every_s: float = EVERY_S
    ) -> None:
        self._store, self._now, self._leads, self._every_s = store, now, leads, every_s
        self._passed_s: float | None = None
        self._stop = threading.Event()
        self._child: JsonChild | None = None
        self._thread = threading.Thread(target=self._run, name="store-housekeeping", daemon=True)

    def start(self) -> None:
        """Start. What an earlier process left is done first, before there are requests to disturb."""
        self._thread.start()

    def close(self) -> None:
        """Stop. A pass under way is killed, which loses nothing."""
        self._stop.set()
        if self._child is not None:
            self._child.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self.once()
        while not self._stop.wait(self._every_s):
            self.once()

    def once(self) -> PruneReport | None:
        """Make a pass if one is due; return its report. A failure is logged once, and in `Store.troubles`."""
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
            # A bug must not end the thread: the store would grow without bound.
            log.exception("the store is not pruned")
            self._fail("pruning failed; the log has the cause")
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
        if self._passed_s is None and self._store.keeper.is_empty():
            self._passed_s = time.monotonic()
            return False
        if self._passed_s is None or time.monotonic() - self._passed_s > LONGEST_S:
            return True
        return self._store.keeper.is_due(self._now().timestamp(), self._store.retention)

    def _passed(self) -> dict[str, Any] | None:
        """The answer of a pass; None if the service stopped meanwhile. UnavailableError: the pass failed."""
        asked = {
            "store_url": self._store.url,
            "key_file": self._store.keyring.key_file,
            "now_s": self._now().timestamp(),
            "retention": asdict(self._store.retention),
            "within_s": PASS_S,
        }
        with JsonChild(COMMAND, stderr=subprocess.DEVNULL, env=child_environment(*DRIVER_VARIABLES)) as child:
            self._child = child
            # `close` sets this before it kills the child that it sees, so no child survives `close`.
            if self._stop.is_set():
                return None
            child.send(json.dumps(asked))
            answer = next(child.answers(), None)
            if self._stop.is_set():
                return None
            if answer is None:
                raise UnavailableError(f"the process that prunes the store exited with code {child.wait()}")
        if "error" in answer:
            raise UnavailableError(answer["error"])
        return answer


def _pruned(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer of the process: its report and the keeper's findings, or its error."""
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
    """Make the pass that the service requests."""
    question, answer = asked_by_parent()
    answer(_pruned(question))


if __name__ == "__main__":
    main()
