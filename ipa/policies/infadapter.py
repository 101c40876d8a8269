"""InfAdapter, which serves several variants at once (Salmani et al., 2023), and its single-variant rival."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf

from ipa.model.errors import Problem as Fault
from ipa.model.errors import UsageError
from ipa.model.observation import Forecast, Observation
from ipa.model.parts import in_order, is_shared, with_share
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.model.profile import StageProfile
from ipa.model.resources import CORES, NO_RESOURCES, beside_of
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.optimize.candidates import RANKS
from ipa.optimize.describe import no_plan
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.set_solve import (
    CoreLevel,
    SetPlan,
    SetProblem,
    SetVariant,
    SetWeights,
    missing_part,
    solve_set,
)
from ipa.policies.base import AtOnce, Configs, PolicyState, constrained, lacking
from ipa.policies.ours import MIN_RATE_RPS
from ipa.policies.planning import planning_problem
from ipa.policies.profiled import Profiled
from ipa.policies.rules import ROUNDING, plan_of

# The share of a measured capacity used in planning (InfAdapter): it stands for queueing.
COEFFICIENT = 0.8
# InfAdapter plans for its point forecast plus a tenth.
MARGIN = 1.1
# γ for each unit of α: 0.001 a second if accuracy is in percent.
GAMMA_RATIO = 1e-5


@dataclass(frozen=True, slots=True)
class SetQuestion:
    """The set program of a pipeline, and the best batch size of each (variant, cores)."""

    sla_s: float
    objective_name: str
    problem: SetProblem
    batch_sizes: Mapping[tuple[str, float], int]


def set_question(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rate_rps: float,
    *,
    objective: str | None = None,
) -> SetQuestion:
    """The set program of carrying `rate_rps` at the named objective (None: the pipeline's default).

    Each variant has one replica of any measured size; th(c) is that of its best batch size: the measured
    capacity under the objective's throughput margin, or InfAdapter's 0.8 without one, if service and batch
    timeout are within the SLA. The budget is the tighter of `bounds.cores` and `max_cost_cores`; other
    bounded resources are limits, and prices the cost. δ is not used.

    Errors: UsageError (not one stage, or limits that sets do not support), those of `planning_problem`.
    """
    problem = planning_problem(pipeline, profiles, rate_rps, objective=objective, compat=Compat.PAPER)
    faults = [Fault(fault) for fault in _faults(problem)]
    if faults:
        raise UsageError(f"pipeline {pipeline.name!r} cannot be planned as a set", problems=faults)
    (stage,) = problem.stages
    best = _best_levels(problem, stage)
    any_point = {point.variant: point for point in stage.points}
    variants = tuple(
        SetVariant(
            name,
            accuracy,
            tuple(CoreLevel(cores, rate) for (variant, cores), (rate, _) in best.items() if variant == name),
            any_point[name].readiness_s,
            beside=beside_of(any_point[name]),
        )
        for name, accuracy in zip(stage.columns.variants, stage.columns.mean_accuracy, strict=True)
        if stage.pin.variant in (None, name)
    )
    most = [limit for limit in (problem.bounds.cores, problem.objective.max_cost_cores) if limit is not None]
    largest = sum(max((level.cores for level in variant.levels), default=0.0) for variant in variants)
    weights = SetWeights(problem.objective.alpha, problem.objective.beta, 0.0)
    budget_cores = min(most) if most else (largest or 1.0)
    return SetQuestion(
        sla_s=problem.sla_s,
        objective_name=problem.objective.name,
        problem=SetProblem(
            pipeline.name,
            rate_rps,
            budget_cores,
            weights,
            variants,
            limits={name: most for name, most in problem.bounds.limits.items() if name != CORES},
            prices=problem.prices,
        ),
        batch_sizes={key: batch_size for key, (_, batch_size) in best.items()},
    )


def _faults(problem: PlanningProblem) -> Iterator[str]:
    """The reasons why no set can be planned; a set would silently break limits that it does not support."""
    if len(problem.stages) > 1 or problem.stages[0].is_free:
        yield f"a set needs a pipeline of one stage, and this one has {len(problem.stages)}"
        return
    (stage,), objective, bounds = problem.stages, problem.objective, problem.bounds
    if objective.accuracy_rule in RANKS:
        rule = objective.accuracy_rule.value
        yield f"objective {objective.name!r} counts accuracy as {rule}; a set has a mean of accuracies"
    if bounds.accuracy_floor is not None:
        yield f"bounds.accuracy_floor is {bounds.accuracy_floor:g}; sets do not support a floor"
    least, _ = problem.replica_limits(stage)
    if least > 1:
        yield f"stage {stage.name!r} has at least {least} replicas; each variant of a set has one"


def _best_levels(problem: PlanningProblem, stage: StageProblem) -> dict[tuple[str, float], tuple[float, int]]:
    """The most that each variant carries on each number of cores, and the batch size that does."""
    points = [point for point in stage.points if problem.allows(stage, point)]
    coefficient = 1.0 if problem.objective.throughput_margin_ratio else COEFFICIENT
    best: dict[tuple[str, float], tuple[float, int]] = {}
    for point in sorted(points, key=lambda point: point.batch_size):
        # With a small share, the timeout may end the wait for a batch.
        forming_s = (stage.batch_timeout_s or 0.0) if point.batch_size > 1 else 0.0
        if point.latency_s + forming_s > problem.sla_s:
            continue
        carried_rps, key = coefficient * point.capacity_rps, (point.variant, point.cores)
        if carried_rps > 0 and (key not in best or carried_rps > best[key][0]):
            best[key] = (carried_rps, point.batch_size)
    return best


@dataclass(frozen=True, slots=True)
class SingleStagePipeline:
    """The single-stage pipeline that InfAdapter and its rival plan. `question` may be for any rate."""

    pipeline: Pipeline
    profiled: Profiled
    question: SetQuestion
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
        question = self.question.problem
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
            for variant in question.variants
            if variant.name in names
        )
        room = inf if bounds.cores is None else bounds.cores
        return replace(
            question,
            rate_rps=rate_rps,
            budget_cores=max(min(question.budget_cores, room), ROUNDING),
            weights=replace(question.weights, gamma=GAMMA_RATIO * question.weights.alpha),
            variants=variants,
            limits={name: most for name, most in bounds.limits.items() if name != CORES},
        )

    def _allows(self, variant: SetVariant, level: CoreLevel, pipeline: Pipeline, state: PolicyState) -> bool:
        (stage,), bounds = pipeline.served, pipeline.bounds
        config = self.config(variant.name, level.cores)
        if state.reachable and lacking(state.running, (config,), self.rolling, bounds) != NO_RESOURCES:
            return False
        pin, limits = stage.pin, stage.limits(bounds)
        return (
            pin.variant in (None, variant.name)
            and pin.cores in (None, level.cores)
            and pin.batch_size in (None, config.batch_size)
            and pin.replicas in (None, 1)
            and limits.min_replicas in (None, 1)
            and (limits.batch_sizes is None or config.batch_size in limits.batch_sizes)
        )

    def pod(self, variant: str, cores: float) -> StageConfig:
        """The variant's replica with those cores, overhead included."""
        sizes = [size for name, size in self.question.batch_sizes if name == variant]
        return self.config(variant, min(sizes, key=lambda size: abs(size + self.beside_cores - cores)))

    def config(self, variant: str, cores: float) -> StageConfig:
        """One replica of the variant on those cores, with the batch size that carries most."""
        return StageConfig(self.stage, variant, self.question.batch_sizes[variant, cores], cores, 1)

    def described(self, configs: Configs, rate_rps: float, name: str, note: str = "") -> Plan:
        """The configurations as a plan for the rate."""
        plan = self.profiled.describe(configs, rate_rps)
        # The plan exists: the set was built from points of the same profile.
        assert plan is not None
        return replace(plan, solver=name, note=note)

    def infeasible(self, rate_rps: float, name: str, note: str) -> Plan:
        """An infeasible plan, with the reason."""
        question = self.question
        plan = no_plan(self.pipeline.name, rate_rps, question.sla_s, name, question.objective_name)
        return replace(plan, note=note)


def planned_rate_rps(forecast: Forecast) -> float:
    """The rate that InfAdapter and its rival plan for."""
    return max(forecast.upper_rps, MARGIN * forecast.point_rps, MIN_RATE_RPS)


def best_of_one(
    task: SingleStagePipeline, rate_rps: float, state: PolicyState, name: str, note: str = ""
) -> Plan:
    """The plan of the best single variant for the rate; else of the variant that carries most."""
    problem = task.problem(rate_rps, state)
    single = list(_levels(problem))
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


# Shares in whole percents may lose up to a percent a part: the rate is reduced by this ratio and retried.
STEP_RATIO = 0.99
MOST_STEPS = 16


@dataclass(frozen=True, slots=True)
class InfAdapter(AtOnce):
    """Decides the running variants, their cores, and each variant's whole percentage of the requests."""

    task: SingleStagePipeline
    deadline_s: float = 5.0
    name: str = "infadapter"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The best set for the point forecast plus a tenth, or for the upper forecast if that is more.

        If no set carries the rate, it is the best one for the largest rate that a set carries. If only
        additions are allowed, a set stays as it is: each of its variants has one replica. Errors: those of
        `solve_set`.
        """
        if state.only_more and is_shared(state.running):
            return plan_of(self.task.profiled, state.running, forecast, self.name)
        return self.plan(planned_rate_rps(forecast), state)

    def plan(self, rate_rps: float, state: PolicyState) -> Plan:
        """The best set for the rate as a plan, or for the largest rate that a set carries."""
        best = self.decide_set(rate_rps, state)
        if not best.parts:
            return best_of_one(self.task, rate_rps, state, self.name, "no set was found in time")
        words = ""
        if best.rate_rps < rate_rps:
            words = (
                f"a load of {rate_rps:.3g} rps exceeds every set; this one carries {best.rate_rps:.3g} rps"
            )
        return self.task.described(self._configs(best), best.rate_rps, self.name, words)

    def decide_set(self, rate_rps: float, state: PolicyState) -> SetPlan:
        """The best set for the rate, or for the largest rate that a set carries.

        `state.running` holds every running configuration, several of the one stage if a set runs. Cores are
        those of the variants' pods, overhead included.
        """
        problem = self.task.problem(rate_rps, state)
        unrestricted = self._carried(problem)
        change = state.running, self._configs(unrestricted), self.task.rolling, self.task.pipeline.bounds
        if not state.reachable or lacking(*change) == NO_RESOURCES:
            return unrestricted
        # Each variant alone may start beside the running ones; the room for two at once is unknown.
        one_more = [self._carried(self._starting(problem, it.name, state)) for it in problem.variants]
        best = [plan for plan in one_more if plan.objective is not None]
        return max(best, key=lambda plan: (plan.rate_rps, plan.objective or 0.0), default=unrestricted)

    def _configs(self, plan: SetPlan) -> Configs:
        pods = [(self.task.pod(part.variant, part.cores), part.share_percent or 0) for part in plan.parts]
        return in_order([with_share((pod,), share) for pod, share in pods])

    def _carried(self, problem: SetProblem) -> SetPlan:
        best = self._planned(problem)
        if best.termination is not Termination.INFEASIBLE:
            return best
        most_rps = problem.rate_rps * (1 - missing_part(problem))
        for step in range(MOST_STEPS if most_rps > 0 else 0):
            less = self._planned(replace(problem, rate_rps=most_rps * STEP_RATIO**step))
            if less.parts:
                return less
        return best

    def _planned(self, problem: SetProblem) -> SetPlan:
        """The best set with shares in whole percents, as predictors require."""
        return solve_set(problem, self.deadline_s, whole_percents=True)

    def _starting(self, problem: SetProblem, name: str, state: PolicyState) -> SetProblem:
        """Return the problem limited to the running variants and one more."""
        runs = {(config.variant, config.cores) for config in state.running}
        variants = []
        for variant in problem.variants:
            pods = [(self.task.pod(variant.name, level.cores), level) for level in variant.levels]
            running = tuple(level for pod, level in pods if (pod.variant, pod.cores) in runs)
            variants.append(variant if variant.name == name else replace(variant, levels=running))
        return replace(problem, variants=tuple(variants))


@dataclass(frozen=True, slots=True)
class MsPlus(AtOnce):
    """Model-Switching+ of InfAdapter's evaluation: one variant at a time, on as many cores as the load needs.

    InfAdapter's program with one variant: max α·a_m − β·c − γ·LC, th_m(c) ≥ λ, c ≤ budget.
    """

    task: SingleStagePipeline
    name: str = "ms+"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The best variant for the point forecast plus a tenth, or for the upper forecast if that is more.

        If no variant carries that rate, the variant that carries most.
        """
        rate_rps = planned_rate_rps(forecast)
        return best_of_one(self.task, rate_rps, state, self.name)
