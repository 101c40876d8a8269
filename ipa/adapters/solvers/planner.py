"""What-ifs planned in processes of their own, so that no loop waits for the interpreter behind them.

    python -m ipa.adapters.solvers.planner

answers problems. Their stages, which are long, are sent once and kept by it.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

from ipa.adapters.solvers.process import Processes, Worker, serve_parent
from ipa.model.plan import Plan
from ipa.optimize.deadline import Deadline
from ipa.optimize.problem import Problem, StageProblem
from ipa.optimize.solve import solve

# The planner keeps to its limit but for what comes after the last look at the clock.
GRACE_S = 5.0
# Stages that a process keeps, of some 100 kB each; then it forgets all of them.
MOST_STAGES = 256


def command_of() -> list[str]:
    """How a process is started."""
    return [sys.executable, "-m", "ipa.adapters.solvers.planner"]


class PlannerProcesses:
    """Solves as `ipa.optimize.solve.solve` does; errors are its own.

    DeadlineError where a process had to be killed, SolverError where it died.
    """

    def __init__(self, command: Callable[[], list[str]] = command_of, grace_s: float = GRACE_S) -> None:
        self._processes = Processes("the planner", command, grace_s)

    def solve(self, problem: Problem, solver: str, deadline_s: float) -> Plan:
        """The best plan for the problem, checked."""
        return self._processes.ask(
            lambda worker: _question(worker, problem, solver), lambda: deadline_s, Plan
        )

    def close(self) -> None:
        """End the processes that wait."""
        self._processes.close()


def _question(worker: Worker, problem: Problem, solver: str) -> tuple[bool, bytes, bytes]:
    """Whether what was kept is to be forgotten, the stages that are new to the worker, and the rest."""
    stages = {id(stage): stage for stage in problem.stages}
    forget = len(worker.known) + len(stages) > MOST_STAGES
    if forget:
        worker.known.clear()
    new = {key: stage for key, stage in stages.items() if key not in worker.known}
    # What it keeps is kept here too, so that no other stage has its number.
    worker.known.update(new)
    body = io.BytesIO()
    _Pickler(body, pickle.HIGHEST_PROTOCOL).dump((problem, solver))
    return forget, pickle.dumps(new, pickle.HIGHEST_PROTOCOL), body.getvalue()


class _Pickler(pickle.Pickler):
    def persistent_id(self, found: Any) -> int | None:
        return id(found) if isinstance(found, StageProblem) else None


class _Unpickler(pickle.Unpickler):
    """Puts the stages in that it was sent before."""

    def __init__(self, body: bytes, stages: dict[int, StageProblem]) -> None:
        super().__init__(io.BytesIO(body))
        self._stages = stages

    def persistent_load(self, number: Any) -> StageProblem:
        return self._stages[number]


class _Answering:
    """The end of the process."""

    def __init__(self) -> None:
        self._stages: dict[int, StageProblem] = {}

    def __call__(self, question: tuple[bool, bytes, bytes], deadline: Deadline) -> Plan:
        forget, new, body = question
        if forget:
            self._stages.clear()
        # Only ever from the process that started this one, over a pipe that nobody else has.
        self._stages.update(pickle.loads(new))  # noqa: S301
        problem, solver = _Unpickler(body, self._stages).load()
        return solve(problem, solver, deadline.remaining_s)


if __name__ == "__main__":
    serve_parent(_Answering())
