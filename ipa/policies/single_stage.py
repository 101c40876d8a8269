"""A single-stage pipeline as InfAdapter's program: its variants on measured cores, and the best one alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from ipa.model.forecast import Forecast
from ipa.model.pipeline import Pipeline
from ipa.model.plan import WHOLE_PERCENT, Plan, StageConfig, Termination
from ipa.model.resources import CORES
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.optimize.mixture.sets import CoreLevel, SetProblem, SetVariant
from ipa.policies.base import Configs, PolicyState, constrained
from ipa.policies.ours import MIN_RATE_RPS
from ipa.policies.profiled import Profiled
from ipa.policies.rules import ROUNDING, is_reachable
from ipa.policies.setplanning import SetQuestion

# InfAdapter plans for its point forecast plus a tenth.
MARGIN = 1.1
# γ for each unit of α: 0.001 a second if accuracy is in percent.
GAMMA_RATIO = 1e-5


@dataclass(frozen=True, slots=True)
class SingleStagePipeline:
    """The single-stage pipeline that InfAdapter and its rival plan. `asked` may be for any rate."""

    pipeline: Pipeline
    profiled: Profiled
    asked: SetQuestion
    rolling: Rolling = SIDE_BY_SIDE

    @property
    def stage(self) -> str:
        """The name of its only stage."""
        return self.pipeline.served[0].name

    @property
    def beside_cores(self) -> float:
        """Overhead cores of each variant of a set: its predictor has an orchestrator of its own."""
        overhead = self.pipeline.bounds.overhead
        return overhead.fixed_cores + overhead.each(self.stage)

    def problem(self, rate_rps: float, state: PolicyState) -> SetProblem:
        """The set program with current bounds, pins, excluded and running variants.

        A variant that runs on other cores must be loaded, since its pod is replaced. Cores and budget include
        the overhead of a pod (`beside_cores`).
        """
        pipeline = constrained(self.pipeline, state)
        (stage,), bounds = pipeline.served, pipeline.bounds
        names = {variant.name for variant in stage.variants}
        asked = self.asked.problem
        variants = tuple(
            replace(
                variant,
                levels=tuple(
                    replace(it, cores=it.cores + self.beside_cores)
                    for it in variant.levels
                    if self._allows(variant, it, pipeline, state)
                ),
                loaded=any(config.variant == variant.name for config in state.running),
            )
            for variant in asked.variants
            if variant.name in names
        )
        room = inf if bounds.cores is None else bounds.cores
        return replace(
            asked,
            rate_rps=rate_rps,
            budget_cores=max(min(asked.budget_cores, room), ROUNDING),
            weights=replace(asked.weights, gamma=GAMMA_RATIO * asked.weights.alpha),
            variants=variants,
            limits={name: most for name, most in bounds.limits.items() if name != CORES},
        )

    def _allows(self, variant: SetVariant, level: CoreLevel, pipeline: Pipeline, state: PolicyState) -> bool:
        (stage,) = pipeline.served
        config = self.config(variant.name, level.cores)
        if state.reachable and not is_reachable(pipeline, (config,), state.running, self.rolling):
            return False
        pin, limits = stage.pin, stage.limits(pipeline.bounds)
        return (
            pin.variant in (None, variant.name)
            and pin.cores in (None, level.cores)
            and pin.batch_size in (None, config.batch_size)
            and pin.replicas in (None, 1)
            and (limits.min_replicas or 1) <= 1
            and (limits.batch_sizes is None or config.batch_size in limits.batch_sizes)
        )

    def pod(self, variant: str, cores: float) -> StageConfig:
        """The variant's replica with those cores, overhead included."""
        sizes = [size for name, size in self.asked.batch_sizes if name == variant]
        return self.config(variant, min(sizes, key=lambda size: abs(size + self.beside_cores - cores)))

    def config(self, variant: str, cores: float) -> StageConfig:
        """One replica of the variant on those cores, with the batch size that carries most."""
        return StageConfig(self.stage, variant, self.asked.batch_sizes[variant, cores], cores, 1)

    def offers(self, running: Configs) -> bool:
        """True if the running configuration is one known replica, or one of each of several variants."""
        return all(
            (config.variant, config.cores) in self.asked.batch_sizes
            and replace(config, share_percent=WHOLE_PERCENT) == self.config(config.variant, config.cores)
            for config in running
        )

    def described(self, configs: Configs, rate_rps: float, name: str, note: str = "") -> Plan:
        """The configurations as a plan for the rate."""
        plan = self.profiled.describe(configs, rate_rps)
        # It was built from points of the same profile.
        assert plan is not None
        return replace(plan, solver=name, note=note)

    def infeasible(self, rate_rps: float, name: str, note: str) -> Plan:
        """An infeasible plan, with the reason."""
        return Plan(
            pipeline=self.pipeline.name,
            rate_rps=rate_rps,
            termination=Termination.INFEASIBLE,
            solver=name,
            objective=None,
            bound=None,
            gap=None,
            pas=None,
            cost_cores=None,
            latency_s=None,
            sla_s=self.asked.sla_s,
            solve_s=0.0,
            stages=(),
            objective_name=self.asked.objective_name,
            note=note,
        )


def planned_rate_rps(forecast: Forecast) -> float:
    """The rate that InfAdapter and its rival plan for."""
    return max(forecast.upper_rps, MARGIN * forecast.point_rps, MIN_RATE_RPS)


def best_of_one(
    task: SingleStagePipeline, rate_rps: float, state: PolicyState, name: str, note: str = ""
) -> Plan:
    """The plan of the best single variant for the rate, or of the one that carries most."""
    problem = task.problem(rate_rps, state)
    single = [(variant, level) for variant, level in _levels(problem)]
    if not single:
        words = "no variant meets the SLA on any measured cores within the bounds"
        return task.infeasible(rate_rps, name, words)
    carrying = [it for it in single if it[1].capacity_rps >= rate_rps * (1 - ROUNDING)]
    if carrying:
        variant, level = max(carrying, key=lambda it: (_worth(problem, *it), -it[1].cores, it[0].name))
        return task.described((task.pod(variant.name, level.cores),), rate_rps, name, note)
    variant, level = max(single, key=lambda it: (it[1].capacity_rps, it[0].accuracy, -it[1].cores))
    words = (
        f"a load of {rate_rps:.3g} rps exceeds every variant; this one carries {level.capacity_rps:.3g} rps"
    )
    config = task.pod(variant.name, level.cores)
    return task.described((config,), level.capacity_rps, name, "; ".join(it for it in (note, words) if it))


def _levels(problem: SetProblem) -> Iterator[tuple[SetVariant, CoreLevel]]:
    """Every variant on every number of cores that fits the budget and the other limits."""
    for variant in problem.variants:
        if variant.beside.exceeded(problem.limits):
            continue
        for level in variant.levels:
            if level.cores <= problem.budget_cores + ROUNDING and level.capacity_rps > 0:
                yield variant, level


def _worth(problem: SetProblem, variant: SetVariant, level: CoreLevel) -> float:
    weights = problem.weights
    worth = weights.alpha * variant.accuracy - weights.beta * problem.cost(variant, level.cores)
    return worth - weights.gamma * variant.loading_s
