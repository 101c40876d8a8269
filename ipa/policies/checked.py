"""Our policy with its plans checked by simulation: the best one that meets the SLA there too.

The planner adds up the tails of the stages as if each stage's arrivals were random. Behind a stage with large
batches they come in bursts, and there the sum can be far too low. What is simulated has the bursts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ipa.model.errors import DeadlineError, SolverError
from ipa.model.forecast import Forecast
from ipa.model.observation import Measured, Observation
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.policies.base import (
    Alternatives,
    Checker,
    PolicyState,
    Prediction,
    Predictor,
    Start,
    Verdict,
    constrained,
)
from ipa.policies.ours import Ours

# SLAs that other plans are made for, as shares of the real one: the worst sum found was half of the truth.
TIGHTER = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
# So many of the best plans at the SLA itself are candidates: one batch size or replica away, mostly.
NEAREST = 3
# Plans whose predicted latencies differ by less are taken to have one latency.
APART_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class Checked:
    """The plan of `inner` if the checker says that it meets the SLA, else the best other one that does.

    At most `most_checks` plans are simulated in a decision: that, and not a clock, bounds its time, so that
    equal inputs give equal plans. Where none of them meets the SLA for sure, the one that comes nearest is
    taken, and its note says so.
    """

    inner: Ours
    alternatives: Alternatives
    checker: Checker
    most_checks: int = 8
    name: str = "ours-checked"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan for `forecast.upper_rps`; that of the largest rate that can be carried where none can."""
        first = self.inner.decide(observation, forecast, state)
        if not first.stages:
            return first
        start = Start(state.running, queued_of(observation))
        verdict = self.checker(first.configs, first.rate_rps, start)
        if verdict is None or verdict.meets:
            return first
        nearest, least = first, verdict
        checks = 1
        for plan in self._candidates(first, state):
            if checks == self.most_checks:
                break
            seen = self.checker(plan.configs, plan.rate_rps, start)
            checks += 1
            if seen is None:
                continue
            if seen.meets:
                return _instead(first, plan, f"{_missed(verdict)}; this one takes {seen.quantile_s:.3g} s")
            if seen.quantile_s < least.quantile_s:
                nearest, least = plan, seen
        words = f"none of {checks} plans meets the SLA of {least.sla_s:g} s for sure by simulation"
        return _instead(first, nearest, f"{words}; this one takes {least.quantile_s:.3g} s")

    def _candidates(self, first: Plan, state: PolicyState) -> Iterator[Plan]:
        """Other plans for the same rate, best first; those with one predicted latency once."""
        pipeline = constrained(self.inner.pipeline, state)
        asked = [(1.0, 1 + NEAREST), *((ratio, 1) for ratio in TIGHTER)]
        found: list[Plan] = []
        for ratio, count in asked:
            # One question that takes too long is no reason to do without the others.
            with suppress(SolverError, DeadlineError):
                found += self.alternatives(pipeline, first.rate_rps, state.running, ratio, count)
        seen = [first]
        for plan in sorted(found, key=_worst_last):
            if not any(_alike(plan, other) for other in seen):
                seen.append(plan)
                yield plan


@dataclass(frozen=True, slots=True)
class CheckedPredictor:
    """What `predict` says, with the latency as it is simulated: so what runs is judged as plans are."""

    predict: Predictor
    checker: Checker

    def __call__(self, configs: Sequence[StageConfig], rate_rps: float) -> Prediction | None:
        """What the configuration would do at the rate; None where the profiles do not know it."""
        seen = self.predict(configs, rate_rps)
        if seen is None or not seen.carries:
            return seen
        verdict = self.checker(tuple(configs), rate_rps)
        return seen if verdict is None else replace(seen, latency_s=verdict.quantile_s)


def queued_of(observation: Observation) -> tuple[tuple[str, float], ...]:
    """What waits at each stage, as far as that was seen."""
    return tuple(
        (stage.stage, stage.queue_length.value)
        for stage in observation.stages
        if isinstance(stage.queue_length, Measured) and stage.queue_length.value > 0
    )


def _worst_last(plan: Plan) -> tuple[float, float, float]:
    assert plan.objective is not None and plan.cost_cores is not None and plan.latency_s is not None
    # Sums of floats that are equal up to rounding are one objective.
    return -round(plan.objective, 9), round(plan.cost_cores, 9), plan.latency_s


def _alike(one: Plan, other: Plan) -> bool:
    """Whether there is nothing to learn from one of them that the other does not say."""
    if one.configs == other.configs:
        return True
    assert one.latency_s is not None and other.latency_s is not None
    same = abs(one.latency_s - other.latency_s) <= APART_RATIO * other.latency_s
    return same and one.cost_cores == other.cost_cores


def _missed(verdict: Verdict) -> str:
    return f"the best plan takes {verdict.quantile_s:.3g} s of {verdict.sla_s:g} s by simulation"


def _instead(first: Plan, plan: Plan, words: str) -> Plan:
    """The plan in place of the best one, with the limits it was to keep and how far it is from the best."""
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
