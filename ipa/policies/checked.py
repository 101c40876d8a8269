"""Our policy with plans checked by simulation: the best plan that also meets the SLA there.

The planner adds up the tails of the stages as if each stage's arrivals were random. Behind a stage with large
batches they come in bursts, and the sum can be far too low. The simulation includes the bursts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ipa.model.errors import DeadlineError, SolverError
from ipa.model.forecast import Forecast
from ipa.model.observation import Measured, Observation
from ipa.model.parts import is_shared
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.model.slowdown import AS_MEASURED, Slowdowns
from ipa.policies.base import (
    Checker,
    PolicyState,
    Prediction,
    Predictor,
    SimulationVerdict,
    SlaScaledPlanner,
    StartingState,
    constrained,
)
from ipa.policies.ours import Ours, worth

# The next plan takes at least this share less time than the late one.
LESS = 0.03
# The SLA is scaled down by this factor beyond the ratio by which a plan was late.
SHORTER = 0.99


@dataclass(frozen=True, slots=True)
class CheckedPolicy:
    """The plan of `inner` if the checker says that it meets the SLA, else a plan for a shorter SLA that does.

    The plans that follow the best one mostly take as long as it does. So the other candidates are the best
    plans for shorter SLAs. The checker's verdict on each late plan says how much shorter; between a late plan
    and one in time the middle is tried. The best plan that meets the SLA is taken. At most
    `checker.most_checks` plans are simulated in a decision: that, not a clock, bounds its time, so that equal
    inputs give equal plans. If none is sure to meet the SLA, the nearest one is taken, and its note says so.
    """

    inner: Ours
    shorter: SlaScaledPlanner
    checker: Checker
    name: str = "ours-checked"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan for `forecast.upper_rps`, or for the largest rate that can be carried if that cannot."""
        first = self.inner.decide(observation, forecast, state)
        if not first.stages:
            return first
        # The checker simulates only changes from a single configuration.
        running = () if is_shared(state.running) else state.running
        start = StartingState(running, queued_of(observation), state.slowdowns)
        verdict = self.checker(first.configs, first.rate_rps, start)
        if verdict is None or verdict.meets:
            return first
        tried = [(first, verdict), *self._others(first, verdict, state, start)]
        good = [(plan, seen) for plan, seen in tried if seen.meets]
        if good:
            plan, seen = max(good, key=lambda each: worth(each[0]))
            words = f"the best plan takes {verdict.quantile_s:.3g} s of {verdict.sla_s:g} s by simulation"
        else:
            plan, seen = min(tried, key=lambda each: each[1].quantile_s)
            words = f"none of {len(tried)} plans meets the SLA of {verdict.sla_s:g} s for sure by simulation"
        return _instead(first, plan, f"{words}; this one takes {seen.quantile_s:.3g} s")

    def _others(
        self, first: Plan, verdict: SimulationVerdict, state: PolicyState, start: StartingState
    ) -> Iterator[tuple[Plan, SimulationVerdict]]:
        """Plans for shorter SLAs, each with its verdict."""
        pipeline = constrained(self.inner.pipeline, state)
        known = {first.configs: verdict}
        bracket = _Bracket(first, verdict)
        for _ in range(self.checker.most_checks - 1):
            ratio = bracket.next_ratio()
            if ratio is None:
                return
            try:
                plan = self.shorter(pipeline, first.rate_rps, state.running, ratio)
            except (SolverError, DeadlineError):
                return
            if plan.configs not in known:
                seen = self.checker(plan.configs, plan.rate_rps, start) if plan.stages else None
                if seen is None:
                    bracket.unknown(ratio)
                    continue
                known[plan.configs] = seen
                yield plan, seen
            bracket.tell(ratio, plan, known[plan.configs])


class _Bracket:
    """The bracket around the longest share of the SLA whose plan meets the SLA."""

    def __init__(self, first: Plan, verdict: SimulationVerdict) -> None:
        # The shortest share whose plan was late, the longest one in time, and the longest one without a plan.
        self._late = self._good = self._none = 0.0
        self._guess = 0.0
        self.tell(1.0, first, verdict)

    def tell(self, ratio: float, plan: Plan, verdict: SimulationVerdict) -> None:
        """Record the verdict on a share. A late plan stands for all shares down to its own latency."""
        if verdict.meets:
            self._good = ratio
            return
        assert plan.latency_s is not None
        self._late = plan.latency_s / verdict.sla_s
        # Shorter by the ratio by which it was late.
        self._guess = max(0.5, SHORTER * verdict.sla_s / verdict.quantile_s) * self._late

    def unknown(self, ratio: float) -> None:
        """Record that no plan is this short."""
        self._none = ratio

    def next_ratio(self) -> float | None:
        """The next share to try; None once the two sides are close."""
        low = max(self._good, self._none)
        if self._late - low < LESS:
            return None
        return (low + self._late) / 2 if low else min(self._guess, self._late - LESS)


@dataclass(frozen=True, slots=True)
class CheckedPredictor:
    """The prediction of `predict`, with the simulated latency if that is longer.

    The running configuration is thus judged as plans are, which meet the SLA by both. A simulation that
    begins at rest is too short to build up the queue of a stage near its capacity; the prediction includes
    it.
    """

    predict: Predictor
    checker: Checker

    def __call__(
        self, configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns = AS_MEASURED
    ) -> Prediction | None:
        """The prediction at the rate; None if the configuration is not in the profiles."""
        seen = self.predict(configs, rate_rps, slowdowns)
        if seen is None or not seen.feasible:
            return seen
        verdict = self.checker(tuple(configs), rate_rps, StartingState(slowdowns=slowdowns))
        return seen if verdict is None else replace(seen, latency_s=max(seen.latency_s, verdict.quantile_s))


def queued_of(observation: Observation) -> tuple[tuple[str, float], ...]:
    """The items queued at each stage, as far as observed."""
    return tuple(
        (stage.stage, stage.queue_length.value)
        for stage in observation.stages
        if isinstance(stage.queue_length, Measured) and stage.queue_length.value > 0
    )


def _instead(first: Plan, plan: Plan, words: str) -> Plan:
    """Return the plan taken in place of the best one, with its limits and its distance from the best."""
    note = "; ".join(each for each in (first.note, words) if each)
    if plan is first:
        return replace(first, note=note)
    assert plan.objective is not None
    best = plan.objective if first.objective is None else max(first.objective, plan.objective)
    return replace(
        plan,
        termination=Termination.FEASIBLE,
        bound=best,
        gap=(best - plan.objective) / max(1.0, abs(plan.objective)),
        sla_s=first.sla_s,
        note=note,
        relaxations=first.relaxations,
    )
