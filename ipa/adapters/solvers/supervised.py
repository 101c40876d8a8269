"""A MILP solver in a process of its own, which is killed if it exceeds its time limit.

A solver may stay for minutes in a step that does not check its limit, and a thread cannot be interrupted
there; a process can. The process is reused, since starting one takes longer than most programs; concurrent
callers get one each.

    python -m ipa.adapters.solvers.supervised gurobi

starts such a process.
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
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Maximise, Milp, MilpSolution
from ipa.optimize.solver_selection import in_process

# A solver may exceed its limit by this much: it checks the clock between steps.
GRACE_S = 1.0
# A refused licence is logged this often, not with every plan.
SAY_AGAIN_S = 3600.0

log = logging.getLogger("ipa.solvers")

Command = Callable[[str], list[str]]


def solver_command(name: str) -> list[str]:
    """Return the command that starts the solver of that name."""
    return [sys.executable, "-m", "ipa.adapters.solvers.supervised", name]


class Supervised:
    """A solver's `maximise` in a supervised process, so that it always ends.

    Errors: those of the solver; DeadlineError (its process was killed); SolverError (its process died).
    """

    def __init__(
        self,
        name: str,
        command: Command = solver_command,
        grace_s: float = GRACE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._processes = WorkerPool(name, lambda: command(name), grace_s)
        self._now_s = now_s
        self._logged_s: float | None = None
        self._lock = threading.Lock()

    def __call__(self, milp: Milp, deadline: Deadline) -> MilpSolution:
        """Return the best solution that the solver finds in time."""
        try:
            return self._processes.ask(milp, lambda: deadline.remaining_s, MilpSolution)
        except LicenceError as refusal:
            self._say(refusal)
            raise

    def _say(self, refusal: LicenceError) -> None:
        with self._lock:
            now_s = self._now_s()
            if self._logged_s is not None and now_s - self._logged_s < SAY_AGAIN_S:
                return
            self._logged_s = now_s
        log.warning("%s", refusal.message)

    def close(self) -> None:
        """Stop the idle processes."""
        self._processes.close()


# The solver of a name in processes of its own, which all pipelines share.
supervised: Callable[[str], Maximise] = cache(Supervised)


if __name__ == "__main__":
    # The solver that the command line names.
    serve_parent(in_process(sys.argv[1]))
