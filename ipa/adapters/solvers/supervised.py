"""A MILP solver in a process of its own, which is killed where it does not keep to its limit.

A solver's limit is a wish: it may sit for minutes in one step that does not look at the clock, and no thread
of ours can be taken back from it. A process can. It is kept for the next program, since starting it takes
longer than most programs; several threads get one each.

    python -m ipa.adapters.solvers.supervised gurobi

answers programs.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import cache

from ipa.adapters.solvers.process import WorkerPool, serve_parent
from ipa.model.errors import LicenceError
from ipa.optimize.chord_branching import Maximise
from ipa.optimize.deadline import Deadline
from ipa.optimize.milp import Milp, MilpSolution
from ipa.optimize.registry import SOLVERS
from ipa.optimize.solver_selection import in_process

# A solver may be so much late: it looks at the clock between steps.
GRACE_S = 1.0
# A licence that does not do is said so often, not with every plan.
SAY_AGAIN_S = 3600.0

log = logging.getLogger("ipa.solvers")

Command = Callable[[str], list[str]]


@cache
def supervised(name: str) -> Maximise:
    """The solver of that name in a process of its own; all pipelines share its processes."""
    return Supervised(name)


def command_of(name: str) -> list[str]:
    """How the solver of that name is started."""
    return [sys.executable, "-m", "ipa.adapters.solvers.supervised", name]


class Supervised:
    """A solver's `maximise` with the guarantee that it ends.

    Errors: those of the solver; DeadlineError where it had to be killed; SolverError where it died.
    """

    def __init__(
        self,
        name: str,
        command: Command = command_of,
        grace_s: float = GRACE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._processes = WorkerPool(name, lambda: command(name), grace_s)
        self._now_s = now_s
        self._said_s: float | None = None
        self._lock = threading.Lock()

    def __call__(self, milp: Milp, deadline: Deadline) -> MilpSolution:
        """The best columns that the solver finds in time."""
        try:
            return self._processes.ask(lambda _: milp, lambda: deadline.remaining_s, MilpSolution)
        except LicenceError as refusal:
            self._say(refusal)
            raise

    def _say(self, refusal: LicenceError) -> None:
        with self._lock:
            now_s = self._now_s()
            if self._said_s is not None and now_s - self._said_s < SAY_AGAIN_S:
                return
            self._said_s = now_s
        log.warning("%s", refusal.message)

    def close(self) -> None:
        """End the processes that wait."""
        self._processes.close()


def main() -> None:
    """Serve the solver that the command line names."""
    # The parent was given the name by a person, or found it installed.
    serve_parent(in_process(SOLVERS.admit(sys.argv[1])))


if __name__ == "__main__":
    main()
