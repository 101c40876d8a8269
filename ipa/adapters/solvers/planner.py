"""Plans of what-if requests in worker processes, so that no control loop waits for the interpreter lock.

    python -m ipa.adapters.solvers.planner

is such a process. It caches the profiles and stages that it was sent, their fits, and its latest plans.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Mapping
from copyreg import dispatch_table
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from ipa.adapters.solvers.process import Worker, WorkerPool, serve_parent
from ipa.model.pipeline import Bounds, Objective, Stage
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.optimize.deadline import Deadline
from ipa.optimize.explanation import Explanation
from ipa.optimize.frontier import FrontierPoint, frontier
from ipa.optimize.solve import SolveCache
from ipa.policies.explaining import explain_plan
from ipa.policies.planning import PlanQuestion

A = TypeVar("A")
# The planner exceeds its limit only by the work after its last check of the clock.
GRACE_S = 5.0
# The types that a process caches, since they are long or repeat in most questions.
KEPT = (StageProfile, Stage, Objective, Bounds)
# Cached objects, of at most some 10 kB each; above it the cache is cleared.
MOST_KEPT = 512
# Plans that a process caches: a slider asks for the same rates repeatedly.
REMEMBERED = 64


def command_of() -> list[str]:
    """Return the command that starts a process."""
    return [sys.executable, "-m", "ipa.adapters.solvers.planner"]


class PlannerProcesses:
    """The planner in worker processes.

    Errors: those of planning; DeadlineError (a process was killed); SolverError (it died). A cancelled call
    computes no longer than it takes to start another process.
    """

    def __init__(self, command: Callable[[], list[str]] = command_of, grace_s: float = GRACE_S) -> None:
        self._processes = WorkerPool("the planner", command, grace_s)

    async def plan(self, question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
        """Return the best plan for the rate, verified.

        A plan from the cache has the `solve_s` of its first computation.
        """
        return await self._asked("plan", question, solver, deadline_s, Plan)

    async def explain(self, question: PlanQuestion, plan: Plan, deadline_s: float) -> Explanation:
        """Return the explanation of the plan, as `ipa.policies.explaining` does."""
        return await self._asked("explanation", question, plan, deadline_s, Explanation)

    async def frontier(self, question: PlanQuestion, deadline_s: float) -> tuple[FrontierPoint, ...]:
        """Return the Pareto frontier for the rate, as `ipa.optimize.frontier` does."""
        found: tuple[FrontierPoint, ...] = await self._asked("frontier", question, None, deadline_s, tuple)
        return found

    async def _asked(
        self, what: str, question: PlanQuestion, about: Any, deadline_s: float, kind: type[A]
    ) -> A:
        asked = what, replace(question, profiles=dict(question.profiles)), about
        return await self._processes.asked(lambda worker: _question(worker, asked), deadline_s, kind)

    def close(self) -> None:
        """Stop the idle processes."""
        self._processes.close()


def _question(worker: Worker, asked: Any) -> tuple[bool, bytes, bytes]:
    """True if the worker must clear its cache, the objects to add to it, and the question."""
    body = io.BytesIO()
    pickler = _Pickler(body)
    pickler.dump(asked)
    forget = len(worker.known) + len(pickler.found) > MOST_KEPT
    if forget:
        worker.known.clear()
    new = {key: each for key, each in pickler.found.items() if key not in worker.known}
    # What it keeps is kept here too, so that nothing else has its number.
    worker.known.update(new)
    return forget, _dumped(new), body.getvalue()


class _Plain(pickle.Pickler):
    """Takes the mappings of files, which can only be read, as well."""

    dispatch_table = dispatch_table | {MappingProxyType: lambda found: (dict, (dict(found),))}


class _Pickler(_Plain):
    """Leaves out what a process keeps; it is in `found`, by its number."""

    def __init__(self, body: io.BytesIO) -> None:
        super().__init__(body, pickle.HIGHEST_PROTOCOL)
        self.found: dict[int, object] = {}

    def persistent_id(self, found: Any) -> int | None:
        if not isinstance(found, KEPT):
            return None
        self.found[id(found)] = found
        return id(found)


def _dumped(found: Any) -> bytes:
    body = io.BytesIO()
    _Plain(body, pickle.HIGHEST_PROTOCOL).dump(found)
    return body.getvalue()


class _Unpickler(pickle.Unpickler):
    """Puts in what was sent before."""

    def __init__(self, body: bytes, kept: Mapping[int, object]) -> None:
        super().__init__(io.BytesIO(body))
        self._kept = kept

    def persistent_load(self, number: Any) -> object:
        return self._kept[number]


class _Answering:
    """The end of the process."""

    def __init__(self) -> None:
        self._kept: dict[int, object] = {}
        plans = SolveCache(REMEMBERED)
        self._answers: Mapping[str, Callable[[PlanQuestion, Any, float], Any]] = {
            "plan": lambda asked, solver, deadline_s: plans.solve(asked.problem(), solver, deadline_s),
            "explanation": explain_plan,
            "frontier": lambda asked, _, deadline_s: frontier(asked.problem(), deadline_s),
        }

    def __call__(self, question: tuple[bool, bytes, bytes], deadline: Deadline) -> Any:
        forget, new, body = question
        if forget:
            self._kept.clear()
        # Only ever from the process that started this one, over a socket that nobody else has.
        self._kept.update(pickle.loads(new))  # noqa: S301
        what, asked, about = _Unpickler(body, self._kept).load()
        return self._answers[what](asked, about, deadline.remaining_s)


if __name__ == "__main__":
    serve_parent(_Answering())
