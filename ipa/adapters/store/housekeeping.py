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
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ipa.adapters.processes import JsonChild, asked_by_parent, child_environment
from ipa.adapters.store.store import Store, open_store
from ipa.control.store_admin import PruneReport, Retention
from ipa.model.errors import IpaError, UnavailableError

log = logging.getLogger("ipa.store")
# The interval between passes, in which a pipeline records some dozens of rows: the first waits too, since the
# process takes a second of CPU time.
EVERY_S = 600.0
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
        self._stop = threading.Event()
        self._child: JsonChild | None = None
        self._thread = threading.Thread(target=self._run, name="store-housekeeping", daemon=True)

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def close(self) -> None:
        """Stop. A pass under way is killed, which loses nothing."""
        self._stop.set()
        if self._child is not None:
            self._child.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait_s = self._every_s
        while not self._stop.wait(wait_s):
            report = self.once()
            wait_s = self._every_s if report is None or report.is_done else 0.0

    def once(self) -> PruneReport | None:
        """Make a pass; return its report. A failure is logged once, and is in `Store.troubles`."""
        store = self._store
        try:
            report = self._passed() if self._leads() else None
        except IpaError as error:
            self._fail(error.message)
            return None
        except Exception:
            # A bug must not end the thread: the store would grow without bound.
            log.exception("the store is not pruned")
            self._fail("pruning failed; the log has the cause")
            return None
        if report is None:
            return None
        for pipeline, fault in report.damaged.items():
            if pipeline not in store.pruned.damaged:
                log.error("%s; nothing of it is sealed or removed", fault)
        store.pruned, store.prune_error = report, ""
        if report.removed_decisions:
            words = "removed %d holds from the store, which freed %d kB"
            log.info(words, report.removed_decisions, report.freed_bytes // 1000)
        return report

    def _fail(self, why: str) -> None:
        if self._store.prune_error != why:
            log.error("the store is not pruned: %s", why)
        self._store.prune_error = why

    def _passed(self) -> PruneReport | None:
        """The report of a pass; None if the service stopped meanwhile. UnavailableError: the pass failed."""
        request = {
            "store_url": self._store.url,
            "key_file": self._store.keyring.key_file,
            "now_s": self._now().timestamp(),
            "retention": asdict(self._store.retention),
        }
        with JsonChild(COMMAND, stderr=subprocess.DEVNULL, env=child_environment(*DRIVER_VARIABLES)) as child:
            self._child = child
            # `close` sets this before it kills the child that it sees, so no child survives `close`.
            if self._stop.is_set():
                return None
            child.send(json.dumps(request))
            answer = next(child.answers(), None)
            if self._stop.is_set():
                return None
            if answer is None:
                raise UnavailableError(f"the process that prunes the store exited with code {child.wait()}")
        if "error" in answer:
            raise UnavailableError(answer["error"])
        return PruneReport(**answer)


def _prune(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of the process: its report, or its error."""
    try:
        store = open_store(
            request["store_url"],
            retention=Retention(**request["retention"]),
            key_file=request["key_file"],
        )
        try:
            now = datetime.fromtimestamp(request["now_s"], UTC)
            return asdict(store.prune(now, within_s=PASS_S))
        finally:
            store.close()
    except IpaError as error:
        return {"error": f"{error.message} {error.hint}".strip()}


def main() -> None:
    """Make the pass that the service requests."""
    request, answer = asked_by_parent()
    answer(_prune(request))


if __name__ == "__main__":
    main()
