"""The transition from the running configuration to a plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ipa.model.plan import Plan, StageConfig
from ipa.model.resources import Resources
from ipa.model.rolling import SIDE_BY_SIDE, Rolling, only_replicas, peak_of
from ipa.optimize.problem import PlanningProblem


@dataclass(frozen=True, slots=True)
class StageChange:
    """A stage that the plan changes. `before` is None if the running configuration was unknown."""

    stage: str
    before: StageConfig | None
    after: StageConfig
    rolling: Rolling = SIDE_BY_SIDE
    # Cores beside each replica.
    beside_cores: float = 0.0

    @property
    def only_replicas(self) -> bool:
        """True if the pods stay as they are and only their number changes."""
        return self.before is not None and only_replicas(self.before, self.after)

    @property
    def started_cores(self) -> float:
        """Cores of the pods that start."""
        if self.before is not None and self.only_replicas:
            return max(0, self.after.replicas - self.before.replicas) * self._held(self.after).cores
        return self._held(self.after).total_cores

    @property
    def peak_cores(self) -> float:
        """Cores of the stage while old and new pods run side by side."""
        if self.before is None:
            return self._held(self.after).total_cores
        old, new = self._held(self.before), self._held(self.after)
        each = Resources(cpu_cores=old.cores), Resources(cpu_cores=new.cores)
        return peak_of(old, each[0], new, each[1], self.rolling).cpu_cores

    def _held(self, config: StageConfig) -> StageConfig:
        return replace(config, cores=config.cores + self.beside_cores)


@dataclass(frozen=True, slots=True)
class PlanTransition:
    """The changed stages, in order, and the cores of all stages before, at the peak and after.

    New pods start before old ones stop, in all stages at once, as many as the problem's rolling says.
    `started_cores` are those of starting pods.
    """

    stages: tuple[StageChange, ...]
    before_cores: float
    peak_cores: float
    after_cores: float
    started_cores: float

    def to_json(self) -> dict[str, Any]:
        """The change as plain JSON values."""
        plain = asdict(self)
        for stage in plain["stages"]:
            del stage["rolling"], stage["beside_cores"]
        return plain


def change_of(problem: PlanningProblem, plan: Plan) -> PlanTransition:
    """The change from `problem.running` to the plan."""
    before, overhead = {config.stage: config for config in problem.running}, problem.bounds.overhead
    changes = [
        StageChange(
            config.stage, before.get(config.stage), config, problem.rolling, overhead.each(config.stage)
        )
        for config in plan.configs
    ]
    changed = tuple(change for change in changes if change.before != change.after)
    return PlanTransition(
        stages=changed,
        before_cores=overhead.cores(problem.running) if problem.running else 0.0,
        peak_cores=overhead.fixed_cores + sum(change.peak_cores for change in changes),
        after_cores=overhead.cores(plan.configs),
        started_cores=sum(change.started_cores for change in changed if change.before is not None),
    )
