"""Plans whose parts share the load, if that is worth more than one configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ipa.model.forecast import Forecast
from ipa.model.parts import in_order, is_shared, parts_of, share_of, with_share
from ipa.model.pipeline import Pipeline
from ipa.model.plan import WHOLE_PERCENT, Plan
from ipa.model.resources import CORES
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.optimize.mixture.mixtures import MixtureLimits
from ipa.policies.base import Configs, PolicyState, constrained
from ipa.policies.profiled import Profiled
from ipa.policies.rules import is_reachable, plan_of

# With finer shares each jitter of the load would move requests, and finding them takes 25 times as long.
STEP_PERCENT = 5
# A mixture is started for a gain of this share of the objective: each part has an orchestrator, and is one
# more thing to watch.
WORTH_STARTING_RATIO = 0.02
# The running parts go on until something is better by this ratio, the default tolerance of the loop.
WORTH_CHANGING_RATIO = 0.01
# New parts, and new shares, are for this much more than the load: at the edge of what they carry, each jitter
# of the load would take them back.
HEADROOM_RATIO = 1.05


@dataclass(frozen=True, slots=True)
class MixtureSearch:
    """A planner of at most `most_parts` configurations side by side (a `Planner`).

    A plan is never worth less than the best one of a single configuration, and differs from the running parts
    only if that is worth more, or if they do not carry the rate: first the shares move, then parts change.
    """

    profiled: Profiled
    most_parts: int
    rolling: Rolling = SIDE_BY_SIDE

    def plan(self, pipeline: Pipeline, rate_rps: float, running: Configs = ()) -> Plan:
        """The best plan for the rate (a `Planner`)."""
        return self._best(self.profiled.plan(pipeline, rate_rps, running), pipeline, rate_rps, running)

    def probe(self, pipeline: Pipeline, rate_rps: float, running: Configs = ()) -> Plan:
        """The same plan without prices, or remedies for an infeasible problem (a `Planner`)."""
        return self._best(self.profiled.probe(pipeline, rate_rps, running), pipeline, rate_rps, running)

    def shorter(self, pipeline: Pipeline, rate_rps: float, running: Configs, sla_ratio: float) -> Plan:
        """The best plan for an SLA `sla_ratio` times as long, without remedies (a `SlaScaledPlanner`)."""
        single = self.profiled.shorter(pipeline, rate_rps, running, sla_ratio)
        return self._best(single, pipeline, rate_rps, running, sla_ratio)

    def grown(self, pipeline: Pipeline, forecast: Forecast, state: PolicyState, name: str) -> Plan:
        """The running parts with the replicas that each needs more for its share; shares stay.

        A part stays as it is if no plan of it carries its share within the bounds. InputError if the parts
        were not measured.
        """
        parts, bounds = list(parts_of(state.running)), pipeline.bounds
        for at, part in enumerate(parts):
            others = bounds.held([config for other in parts if other is not part for config in other])
            most = bounds.limits.get(CORES)
            room_cores = None if most is None else most - others.cpu_cores
            if room_cores is not None and state.room_cores is not None:
                room_cores = min(room_cores, state.room_cores - others.cpu_cores)
            alone = with_share(part, WHOLE_PERCENT)
            asked = constrained(pipeline, replace(state, running=alone, room_cores=room_cores))
            rate_rps = forecast.upper_rps * share_of(part) / WHOLE_PERCENT
            more = self.profiled.probe(asked, rate_rps, alone) if share_of(part) else None
            if more is not None and more.stages:
                parts[at] = with_share(more.configs, share_of(part))
        return plan_of(self.profiled, in_order(parts), forecast, name)

    def _best(
        self, single: Plan, pipeline: Pipeline, rate_rps: float, running: Configs, sla_ratio: float = 1.0
    ) -> Plan:
        """The running parts if nothing is clearly better, else the best mixture, else the single plan."""
        fresh = self._fresh(single, pipeline, rate_rps, running, sla_ratio)
        if not is_shared(running):
            return fresh if _is_worth(fresh, single, WORTH_STARTING_RATIO) else single
        kept = self._kept(fresh, pipeline, rate_rps, running, sla_ratio)
        if kept is not None and not _is_worth(single, kept, 0.0):
            return _beside(kept, single)
        # Parts that must change anyway have nothing to lose.
        return fresh if _is_worth(fresh, single, WORTH_CHANGING_RATIO) else single

    def _fresh(
        self, single: Plan, pipeline: Pipeline, rate_rps: float, running: Configs, sla_ratio: float
    ) -> Plan:
        """The best mixture whatever runs; `single` if none is better, or is reachable where it must be."""
        limits = MixtureLimits(self.most_parts, STEP_PERCENT)
        configs = self.profiled.mixture(pipeline, rate_rps * HEADROOM_RATIO, limits, sla_ratio)
        if not configs and not single.stages:
            configs = self.profiled.mixture(pipeline, rate_rps, limits, sla_ratio)
        if not is_shared(configs):
            return single
        if not pipeline.bounds.any_change and not is_reachable(pipeline, configs, running, self.rolling):
            return single
        found = self._described(configs, pipeline, rate_rps, sla_ratio)
        return single if found is None else _beside(found, single)

    def _kept(
        self, fresh: Plan, pipeline: Pipeline, rate_rps: float, running: Configs, sla_ratio: float
    ) -> Plan | None:
        """The running parts with their shares, else with the best other shares; None if they must change.

        They must if they do not carry the rate, are not allowed any more, or `fresh` is better.
        """
        parts = parts_of(running)
        allowed = len(parts) <= self.most_parts and not pipeline.bounds.exceeded(running)
        if not allowed or not all(self.profiled.offers(pipeline, part) for part in parts):
            return None
        # A part without requests was started by a process that ended before it moved requests there.
        now = self._described(running, pipeline, rate_rps, sla_ratio) if all(map(share_of, parts)) else None
        if now is not None and not _is_worth(fresh, now, WORTH_CHANGING_RATIO):
            return now
        moved = [in_order(each) for each in _with_shares(parts)]
        roomy = [it for it in moved if self._described(it, pipeline, rate_rps * HEADROOM_RATIO, sla_ratio)]
        found = (self._described(each, pipeline, rate_rps, sla_ratio) for each in roomy or moved)
        best = max(filter(None, found), key=_worth, default=None)
        return None if best is None or _is_worth(fresh, best, WORTH_CHANGING_RATIO) else best

    def _described(
        self, configs: Configs, pipeline: Pipeline, rate_rps: float, sla_ratio: float
    ) -> Plan | None:
        """The configurations as a plan; None if they do not carry the rate within the SLA."""
        found = self.profiled.describe(configs, rate_rps, pipeline.slowdowns)
        if found is None or found.latency_s is None:
            return None
        sla_s = found.sla_s * sla_ratio
        is_in_time = found.latency_s <= sla_s * (1 + 1e-9)
        carries = all(stage.utilisation_ratio <= 1 + 1e-9 for stage in found.stages)
        return replace(found, sla_s=sla_s, solver="exact") if is_in_time and carries else None


def _with_shares(parts: tuple[Configs, ...]) -> Iterator[list[Configs]]:
    """The parts with every other way to share the requests, in steps."""

    def shares(count: int, left: int) -> Iterator[tuple[int, ...]]:
        if count == 1:
            yield (left,)
            return
        for first in range(STEP_PERCENT, left, STEP_PERCENT):
            yield from ((first, *rest) for rest in shares(count - 1, left - first))

    for each in shares(len(parts), WHOLE_PERCENT):
        yield [with_share(part, percent) for part, percent in zip(parts, each, strict=True)]


def _worth(plan: Plan) -> tuple[float, list[str]]:
    """The sort key of a feasible plan; of equals the one whose configurations sort last, to be definite."""
    assert plan.objective is not None
    return round(plan.objective, 9), sorted(map(str, plan.configs))


def _is_worth(plan: Plan, other: Plan, gain_ratio: float) -> bool:
    """True if the plan is worth more than the other by that share of the objective; so is any beside none."""
    if plan.objective is None or other.objective is None:
        return plan.objective is not None
    scale = max(abs(plan.objective), abs(other.objective), 1e-9)
    return plan.objective - other.objective > max(gain_ratio * scale, 1e-9 * scale)


def _beside(plan: Plan, single: Plan) -> Plan:
    """The plan with the figures of the best single one beside it, if one is feasible."""
    if not single.stages:
        return replace(plan, note="no single configuration is feasible")
    return replace(plan, single=single.summary)
