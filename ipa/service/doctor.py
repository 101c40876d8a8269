"""Run the checks of `ipa doctor`: all at the same time, each for a limited time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from ipa.model.errors import IpaError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, warn


def run_checks(
    checks: Sequence[DoctorCheck], timeout_s: float, ended: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """The findings in the order of the checks. A check that takes longer than `timeout_s` fails.

    `ended` receives the name of each check that has ended. Checks run at the same time, in threads that end
    with the process: one that hangs is left behind.
    """
    run, told = _Run(checks, timeout_s), set[str]()
    while not run.is_done:
        run.start()
        run.wait()
        for check, found in zip(checks, run.found, strict=True):
            if found is not None and check.name not in told:
                told.add(check.name)
                ended(check.name)
    return [finding for each in run.found for finding in each or ()]


class _Run:
    """The checks that have begun, their starting times, and their findings."""

    def __init__(self, checks: Sequence[DoctorCheck], timeout_s: float) -> None:
        self.found: list[list[Finding] | None] = [None] * len(checks)
        self._checks, self._timeout_s = checks, timeout_s
        self._index = {check.name: at for at, check in enumerate(checks)}
        self._begun_s: dict[int, float] = {}
        self._ended: queue.Queue[tuple[int, list[Finding]]] = queue.Queue()

    @property
    def is_done(self) -> bool:
        """True if all checks have ended."""
        return all(each is not None for each in self.found)

    def start(self) -> None:
        """Start every check that may start; one whose `after` failed ends with a warning."""
        for at, check in enumerate(self._checks):
            if self.found[at] is not None or at in self._begun_s:
                continue
            before = self.found[self._index[check.after]] if check.after else []
            if before is None or (check.turn and check.turn in self._taken()):
                continue
            if any(each.state is Severity.FAIL for each in before):
                self.found[at] = [warn(check.name, f"not looked at, since {check.after!r} failed")]
                continue
            self._begun_s[at] = time.monotonic()
            threading.Thread(target=self._look, args=(at,), name=f"check-{at}", daemon=True).start()

    def wait(self) -> None:
        """Return once another check has ended or is late."""
        running = self._running()
        if not running:
            return
        due_s = min(self._due_s(at) for at in running)
        try:
            at, result = self._ended.get(timeout=max(due_s - time.monotonic(), 0.0))
            if self.found[at] is None:
                self.found[at] = result
        except queue.Empty:
            for at in running:
                if time.monotonic() >= self._due_s(at):
                    late = f"no answer within {self._limit_s(at):g} s"
                    self.found[at] = [fail(self._checks[at].name, late)]

    def _limit_s(self, at: int) -> float:
        own_s = self._checks[at].timeout_s
        return self._timeout_s if own_s is None else own_s

    def _due_s(self, at: int) -> float:
        return self._begun_s[at] + self._limit_s(at)

    def _running(self) -> list[int]:
        return [at for at in self._begun_s if self.found[at] is None]

    def _taken(self) -> set[str]:
        return {self._checks[at].turn for at in self._running()}

    def _look(self, at: int) -> None:
        self._ended.put((at, _looked(self._checks[at])))


def _looked(check: DoctorCheck) -> list[Finding]:
    try:
        return list(check.look())
    except IpaError as error:
        return [failed(check.name, error)]
    except Exception as error:
        # A bug in one check, or in a library that it calls, must not hide the findings of the others.
        return [fail(check.name, f"it could not be looked at: {type(error).__name__}: {error}")]
