"""InfAdapter, several variants at once that share the load (Salmani et al., 2023), and its rival with one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.parts import in_order, is_shared, with_share
from ipa.model.plan import WHOLE_PERCENT, Plan, Termination
from ipa.optimize.mixture.set_search import missing_part
from ipa.optimize.mixture.set_solve import solve_set
from ipa.optimize.mixture.sets import SetPlan, SetProblem
from ipa.policies.base import Configs, PolicyState
from ipa.policies.rules import is_reachable, plan_of
from ipa.policies.single_stage import SingleStagePipeline, best_of_one, planned_rate_rps

# Shares in whole percents may lose up to a percent a part: the rate is reduced by this ratio and retried.
STEP_RATIO = 0.99
MOST_STEPS = 16


@dataclass(frozen=True, slots=True)
class InfAdapter:
    """Decides the running variants, their cores, and each variant's whole percentage of the requests."""

    task: SingleStagePipeline
    solver: str = "exact"
    deadline_s: float = 5.0
    name: str = "infadapter"

    def at_once(self, running: Configs) -> bool:
        """True unless one replica of a measured size runs for each variant, with requests.

        A part without requests was added by a process that ended before it shifted requests to it.
        """
        return not self.task.offers(running) or any(config.share_percent == 0 for config in running)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The best set for the point forecast plus a tenth, or for the upper forecast if that is more.

        If no set carries the rate, it is the best one for the largest rate that one carries. If only
        additions are allowed, a set stays as it is: each of its variants has one replica. Errors: those of
        `solve_set`.
        """
        rate_rps = planned_rate_rps(forecast)
        if state.only_more and is_shared(state.running):
            return plan_of(self.task.profiled, state.running, forecast, self.name)
        found = self.decide_set(rate_rps, state)
        if not found.parts:
            return best_of_one(self.task, rate_rps, state, self.name, "no set was found in time")
        words = ""
        if found.rate_rps < rate_rps:
            words = (
                f"a load of {rate_rps:.3g} rps exceeds every set; this one carries {found.rate_rps:.3g} rps"
            )
        return self.task.described(self._configs(found), found.rate_rps, self.name, words)

    def decide_set(self, rate_rps: float, state: PolicyState) -> SetPlan:
        """The best set for the rate, or for the largest rate that one carries.

        `state.running` holds every running configuration, several of the one stage if a set runs. Cores are
        those of the variants' pods, overhead included.
        """
        problem = self.task.problem(rate_rps, state)
        found = self._carried(problem)
        rolling, pipeline = self.task.rolling, self.task.pipeline
        if not state.reachable or is_reachable(pipeline, self._configs(found), state.running, rolling):
            return found
        # Each variant alone may start beside the running ones; the room for two at once is unknown.
        one_more = [self._carried(self._starting(problem, it.name, state)) for it in problem.variants]
        best = [plan for plan in one_more if plan.objective is not None]
        return max(best, key=lambda plan: (plan.rate_rps, plan.objective or 0.0), default=found)

    def _configs(self, plan: SetPlan) -> Configs:
        pods = [(self.task.pod(part.variant, part.cores), part.share_percent) for part in plan.parts]
        return in_order(
            [with_share((pod,), WHOLE_PERCENT if share is None else share) for pod, share in pods]
        )

    def _carried(self, problem: SetProblem) -> SetPlan:
        found = self._planned(problem)
        if found.termination is not Termination.INFEASIBLE:
            return found
        most_rps = problem.rate_rps * (1 - missing_part(problem))
        for step in range(MOST_STEPS if most_rps > 0 else 0):
            less = self._planned(replace(problem, rate_rps=most_rps * STEP_RATIO**step))
            if less.parts:
                return less
        return found

    def _planned(self, problem: SetProblem) -> SetPlan:
        """The best set with shares in whole percents, as predictors require."""
        return solve_set(problem, self.solver, self.deadline_s, whole_percents=True)

    def _starting(self, problem: SetProblem, name: str, state: PolicyState) -> SetProblem:
        """Return the problem in which only the running variants and one more may run."""
        runs = {(config.variant, config.cores) for config in state.running}
        variants = []
        for variant in problem.variants:
            pods = [(self.task.pod(variant.name, level.cores), level) for level in variant.levels]
            kept = tuple(level for pod, level in pods if (pod.variant, pod.cores) in runs)
            variants.append(variant if variant.name == name else replace(variant, levels=kept))
        return replace(problem, variants=tuple(variants))


@dataclass(frozen=True, slots=True)
class MsPlus:
    """Model-Switching+ of InfAdapter's evaluation: one variant at a time, on as many cores as the load needs.

    InfAdapter's program with one variant: max α·a_m − β·c − γ·LC, th_m(c) ≥ λ, c ≤ budget.
    """

    task: SingleStagePipeline
    name: str = "ms+"

    def at_once(self, running: Configs) -> bool:
        """True unless one replica of a measured size runs."""
        return is_shared(running) or not self.task.offers(running)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The best variant for the point forecast plus a tenth, or for the upper forecast if that is more.

        If none carries that, the one that carries most.
        """
        rate_rps = planned_rate_rps(forecast)
        return best_of_one(self.task, rate_rps, state, self.name)
