"""InfAdapter: several variants of one task at once, each with a share of the load (Salmani et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.plan import Plan, Termination
from ipa.optimize.sets.problem import SetProblem
from ipa.optimize.sets.solve import missing_part
from ipa.policies.base import Configs, PolicyState
from ipa.policies.ms_plus import OneTask, best_of_one, planned_rate_rps
from ipa.policies.setplanning import PipelineSet, plan_set

# Shares in whole percents may lose up to a percent for each part: so much less is tried, and so often.
STEP_RATIO = 0.99
MOST_STEPS = 16


@dataclass(frozen=True, slots=True)
class InfAdapter:
    """Decides which variants run, on how many cores, and which whole percents of the load each takes.

    A world that runs one configuration of a stage at a time cannot carry a set. There `decide` is the best
    single variant, and its note says which set would be better; a world that can asks `decide_set`.
    """

    task: OneTask
    solver: str = "exact"
    deadline_s: float = 5.0
    name: str = "infadapter"

    def at_once(self, running: Configs) -> bool:
        """Where something else runs than one replica of a measured size."""
        return not self.task.offers(running)

    def decide_set(self, forecast: Forecast, state: PolicyState) -> PipelineSet:
        """The best set for the point forecast and a tenth, or for the upper one where that is more.

        `state.running` holds every configuration that runs, several of the one stage where a set runs. Where
        no set carries the rate, it is the best one for the largest rate that one carries. Errors: those of
        `solve_set`.
        """
        problem = self.task.problem(planned_rate_rps(forecast), state)
        found = self._planned(problem)
        if found.plan.termination is not Termination.INFEASIBLE:
            return found
        most_rps = problem.rate_rps * (1 - missing_part(problem))
        for step in range(MOST_STEPS if most_rps > 0 else 0):
            less = self._planned(replace(problem, rate_rps=most_rps * STEP_RATIO**step))
            if less.plan.parts:
                return less
        return found

    def _planned(self, problem: SetProblem) -> PipelineSet:
        return plan_set(replace(self.task.asked, problem=problem), self.solver, self.deadline_s)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan of the best single variant, with the better set in its note where there is one."""
        parts = self.decide_set(forecast, state).plan.parts
        words = " + ".join(f"{it.share_percent} % {it.variant} on {it.cores:g} cores" for it in parts)
        note = f"better would be the set {words}" if len(parts) > 1 else ""
        return best_of_one(self.task, planned_rate_rps(forecast), state, self.name, note)
