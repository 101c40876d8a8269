"""Our policy: the best plan for the upper forecast; where no plan carries that, the one that carries most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import floor, log

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, Termination
from ipa.policies.base import Configs, Planner, PolicyState, constrained

# No load is planned for as one request in ten seconds: (b − 1)/λ stays finite and b = 1 is best.
MIN_RATE_RPS = 0.1
# The largest rate that can be carried is sought on this grid, so that it does not jitter with the load.
GRID = 1.05


# Whether the planner could choose a configuration at some rate.
Offers = Callable[[Pipeline, Configs], bool]


@dataclass(frozen=True, slots=True)
class Ours:
    """Plans with `planner` for `forecast.upper_rps`; within what people said and what failed lately.

    `offers` is given where the planner decides less than ours, so that what runs may be none of its choices.
    `probe` is the same planner without explanations, for the questions that only ask whether there is a plan.
    """

    pipeline: Pipeline
    planner: Planner
    name: str = "ours"
    offers: Offers | None = None
    probe: Planner | None = None

    def at_once(self, running: Configs) -> bool:
        """Where something runs that the planner would never choose; its plan has then nothing to beat."""
        return self.offers is not None and not self.offers(self.pipeline, running)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The best plan; that of the largest rate that can be carried where the forecast cannot be."""
        pipeline = constrained(self.pipeline, state)
        rate_rps = max(forecast.upper_rps, MIN_RATE_RPS)
        plan = self.planner(pipeline, rate_rps, state.running)
        if plan.termination is not Termination.INFEASIBLE:
            return plan
        most = self._most(pipeline, rate_rps, state)
        if most is None:
            return plan
        note = f"a load of {rate_rps:.3g} rps exceeds every plan; this one carries {most.rate_rps:.3g} rps"
        return replace(most, note=note, relaxations=plan.relaxations)

    def _most(self, pipeline: Pipeline, rate_rps: float, state: PolicyState) -> Plan | None:
        """The plan for the largest rate of the grid below `rate_rps` that has one."""
        probe = self.probe or self.planner
        best_rps: float | None = None
        low, high = 0, floor(log(rate_rps / MIN_RATE_RPS) / log(GRID))
        while low <= high:
            middle = (low + high) // 2
            at_rps = MIN_RATE_RPS * GRID**middle
            if probe(pipeline, at_rps, state.running).termination is Termination.INFEASIBLE:
                high = middle - 1
            else:
                best_rps, low = at_rps, middle + 1
        return None if best_rps is None else self.planner(pipeline, best_rps, state.running)
