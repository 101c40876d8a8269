"""The transition from the running configuration to a plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ipa.model.plan import Plan, StageConfig
from ipa.model.resources import IN_CORES, NO_RESOURCES, Prices, Resources, total
from ipa.model.rolling import SIDE_BY_SIDE, Rolling, only_replicas, peak_of
from ipa.optimize.problem import PlanningProblem


@dataclass(frozen=True, slots=True)
class StageChange:
    """A stage that the plan changes. `before` is None if the running configuration was unknown."""

    stage: str
    before: StageConfig | None
    after: StageConfig
    rolling: Rolling = SIDE_BY_SIDE
    # Of one replica, overhead included.
    before_each: Resources = NO_RESOURCES
    after_each: Resources = NO_RESOURCES

    @property
    def only_replicas(self) -> bool:
        """True if the pods stay as they are and only their number changes."""
        return self.before is not None and only_replicas(self.before, self.after)

    @property
    def is_in_place(self) -> bool:
        """True if the pods stay, and run another batch size or a variant that they have loaded."""
        return self._keeps and not self.only_replicas

    @property
    def _keeps(self) -> bool:
        return self.before is not None and self.rolling.keeps_replicas(self.before, self.after)

    @property
    def started(self) -> Resources:
        """The resources of the pods that start."""
        if self.before is not None and self._keeps:
            return self.after_each * max(0, self.after.replicas - self.before.replicas)
        return self.after_each * self.after.replicas

    @property
    def peak(self) -> Resources:
        """The resources of the stage while old and new pods run side by side."""
        if self.before is None:
            return self.after_each * self.after.replicas
        return peak_of(self.before, self.before_each, self.after, self.after_each, self.rolling)


@dataclass(frozen=True, slots=True)
class PlanTransition:
    """The changed stages, in order, and the resources of all stages before, at the peak and after.

    New pods start before old ones stop, in all stages at once, as many as the problem's rolling says.
    `started` are those of starting pods. `prices` are those of the problem.
    """

    stages: tuple[StageChange, ...]
    before: Resources
    peak: Resources
    after: Resources
    started: Resources
    prices: Prices = IN_CORES

    def to_json(self) -> dict[str, Any]:
        """The change as plain JSON values; prices in USD an hour if the pipeline has prices."""
        at = {name: getattr(self, name) for name in ("before", "peak", "after", "started")}
        priced = {name: self.prices.cost(at[name]) for name in at if name != "started"}
        return {
            "stages": [
                {
                    "stage": it.stage,
                    "before": it.before and asdict(it.before),
                    "after": asdict(it.after),
                    "in_place": it.is_in_place,
                }
                for it in self.stages
            ],
            **{f"{name}_cores": held.cpu_cores for name, held in at.items()},
            **{name: asdict(held) for name, held in at.items()},
            **({f"{name}_usd_per_hour": usd for name, usd in priced.items()} if self.prices.is_money else {}),
        }


def change_of(problem: PlanningProblem, plan: Plan) -> PlanTransition:
    """The change from `problem.running` to the plan."""
    before = {config.stage: config for config in problem.running}
    stages = {stage.name: stage for stage in problem.stages}

    def each(config: StageConfig) -> Resources:
        beside = problem.beside(stages[config.stage], config.variant)
        return beside + Resources(cpu_cores=problem.held(config).cores)

    def change(after: StageConfig) -> StageChange:
        old = before.get(after.stage)
        old_each = NO_RESOURCES if old is None else each(old)
        return StageChange(after.stage, old, after, problem.rolling, old_each, each(after))

    changes = [change(config) for config in plan.configs]
    changed = tuple(change for change in changes if change.before != change.after)
    return PlanTransition(
        stages=changed,
        before=problem.resources(problem.running) if problem.running else NO_RESOURCES,
        peak=Resources(cpu_cores=problem.fixed_cores) + total(change.peak for change in changes),
        after=problem.resources(plan.configs),
        started=total(change.started for change in changed if change.before is not None),
        prices=problem.prices,
    )
