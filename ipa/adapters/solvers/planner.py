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
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

from ipa.adapters.solvers.process import WorkerPool, serve_parent
from ipa.model.pipeline import Bounds, Objective, Stage
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.optimize.deadline import Deadline
from ipa.optimize.explain import Explanation, explain
from ipa.optimize.frontier import FrontierPoint, frontier
from ipa.optimize.solve import SolveCache
from ipa.policies.planning import PlanQuestion

A = TypeVar("A")
# The planner exceeds its limit only by the work after its last check of the clock.
GRACE_S = 5.0
# The types that a process caches, since they are long or repeat in most questions.
CACHED = (StageProfile, Stage, Objective, Bounds)
# Cached objects, of at most some 10 kB each.
MOST_CACHED = 512
# Plans that a process caches: a slider asks for the same rates repeatedly.
REMEMBERED = 64


def planner_command() -> list[str]:
    """Return the command that starts a process."""
    return [sys.executable, "-m", "ipa.adapters.solvers.planner"]


class PlannerProcesses:
    """The planner in worker processes.

    Errors: those of planning; DeadlineError (a worker was killed); SolverError (a worker died). A cancelled
    call computes no longer than it takes to start another process.
    """

    def __init__(self, command: Callable[[], list[str]] = planner_command, grace_s: float = GRACE_S) -> None:
        self._processes = WorkerPool("the planner", command, grace_s)

    async def plan(self, question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
        """Return the best plan for the rate, verified.

        A plan from the cache has the `solve_s` of its first computation.
        """
        return await self._ask("plan", question, solver, deadline_s, Plan)

    async def explain(self, question: PlanQuestion, plan: Plan, deadline_s: float) -> Explanation:
        """Return the explanation of the plan, as `ipa.policies.planning` does."""
        return await self._ask("explanation", question, plan, deadline_s, Explanation)

    async def frontier(self, question: PlanQuestion, deadline_s: float) -> tuple[FrontierPoint, ...]:
        """Return the Pareto frontier for the rate, as `ipa.optimize.frontier` does."""
        points: tuple[FrontierPoint, ...] = await self._ask("frontier", question, None, deadline_s, tuple)
        return points

    async def _ask(
        self, what: str, question: PlanQuestion, about: Any, deadline_s: float, kind: type[A]
    ) -> A:
        message = what, replace(question, profiles=dict(question.profiles)), about
        return await self._processes.ask_async(_dumped(message, _Pickler), deadline_s, kind)

    def close(self) -> None:
        """Stop the idle processes."""
        self._processes.close()


class _Plain(pickle.Pickler):
    """Pickles read-only mappings, such as those of files, as plain ones."""

    dispatch_table = dispatch_table | {MappingProxyType: lambda proxy: (dict, (dict(proxy),))}


class _Pickler(_Plain):
    """Pickles each object of `CACHED` apart, so that a process reads it once."""

    def persistent_id(self, value: Any) -> bytes | None:
        return _dumped(value, _Plain) if isinstance(value, CACHED) else None


def _dumped(value: Any, pickler: type[pickle.Pickler]) -> bytes:
    body = io.BytesIO()
    pickler(body, pickle.HIGHEST_PROTOCOL).dump(value)
    return body.getvalue()


# Only ever from the process that started this one, over a socket that nobody else has.
_loaded = lru_cache(MOST_CACHED)(pickle.loads)


class _Unpickler(pickle.Unpickler):
    """Reads objects that were pickled apart: equal bytes give the same object, so its fits are cached."""

    def persistent_load(self, body: Any) -> object:
        return _loaded(body)


class _Answering:
    """The worker's side: answers the questions of the service."""

    def __init__(self) -> None:
        plans = SolveCache(REMEMBERED)
        self._answers: Mapping[str, Callable[[PlanQuestion, Any, float], Any]] = {
            "plan": lambda question, solver, deadline_s: plans.solve(question.problem(), solver, deadline_s),
            "explanation": lambda question, plan, deadline_s: explain(question.problem(), plan, deadline_s),
            "frontier": lambda question, _, deadline_s: frontier(question.problem(), deadline_s),
        }

    def __call__(self, body: bytes, deadline: Deadline) -> Any:
        what, question, about = _Unpickler(io.BytesIO(body)).load()
        return self._answers[what](question, about, deadline.remaining_s)


if __name__ == "__main__":
    serve_parent(_Answering())
