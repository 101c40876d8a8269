"""Checks: what each found and what to do about it; all at once, each for a limited time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.errors import IpaError


class State(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was seen, and the command (or the words) that mends it."""

    name: str
    state: State
    seen: str
    remedy: str = ""


Look = Callable[[], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at; `after` names a check without whose success it cannot be looked at.

    Those of one `turn` are looked at one after another: computing at once would only make each late.
    """

    name: str
    look: Look
    after: str = ""
    turn: str = ""
    # Seconds that it may take; as long as the others without.
    timeout_s: float | None = None


def ok(name: str, seen: str) -> Finding:
    """It is as it should be."""
    return Finding(name, State.OK, seen)


def warn(name: str, seen: str, remedy: str = "") -> Finding:
    """It works, but not as well as it could, or not for all that may be asked."""
    return Finding(name, State.WARN, seen, remedy)


def fail(name: str, seen: str, remedy: str = "") -> Finding:
    """It does not work."""
    return Finding(name, State.FAIL, seen, remedy)


def failed(name: str, error: IpaError, remedy: str = "") -> Finding:
    """The error as a finding: all its problems, and its own hint where no better remedy is known."""
    seen = "; ".join([error.message, *map(str, error.problems)])
    return fail(name, seen, remedy or error.hint)


def run_checks(
    checks: Sequence[Check], timeout_s: float, ended: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """What all found, in the order of the checks. Each may take `timeout_s`; one that takes longer fails.

    `ended` is called with the name of each that has.

    They run at once, in threads that end with the process: what hangs is left hanging.
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
    """Which checks have begun, when, and what they found."""

    def __init__(self, checks: Sequence[Check], timeout_s: float) -> None:
        self.found: list[list[Finding] | None] = [None] * len(checks)
        self._checks, self._timeout_s = checks, timeout_s
        self._index = {check.name: at for at, check in enumerate(checks)}
        self._begun_s: dict[int, float] = {}
        self._ended: queue.Queue[tuple[int, list[Finding]]] = queue.Queue()

    @property
    def is_done(self) -> bool:
        """Whether all have ended."""
        return all(each is not None for each in self.found)

    def start(self) -> None:
        """Begin what may begin; what cannot, since what it needs failed, has ended with that."""
        for at, check in enumerate(self._checks):
            if self.found[at] is not None or at in self._begun_s:
                continue
            before = self.found[self._index[check.after]] if check.after else []
            if before is None or (check.turn and check.turn in self._taken()):
                continue
            if any(each.state is State.FAIL for each in before):
                self.found[at] = [warn(check.name, f"not looked at, since {check.after!r} failed")]
                continue
            self._begun_s[at] = time.monotonic()
            threading.Thread(target=self._look, args=(at,), name=f"check-{at}", daemon=True).start()

    def wait(self) -> None:
        """Return once another has ended, or has taken too long."""
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


def _looked(check: Check) -> list[Finding]:
    try:
        return list(check.look())
    except IpaError as error:
        return [failed(check.name, error)]
    except Exception as error:
        # A fault of a check's own, or of a library that it asks, must not keep the others from being heard.
        return [fail(check.name, f"it could not be looked at: {type(error).__name__}: {error}")]
