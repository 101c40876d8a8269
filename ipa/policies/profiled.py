"""The planner and the predictor of one pipeline over its measured profiles, fitted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ipa.model.errors import DeadlineError
from ipa.model.parts import is_shared
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import AS_MEASURED, Slowdowns, StageProfile
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe, late_ratios
from ipa.optimize.linear_program import Solvers
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.solve import SolveCache
from ipa.policies.base import ANY_RATE_RPS, LOADS, Configs, Prediction
from ipa.policies.planning import LEAST_RPS, PlanQuestion
from ipa.profiling.points import Allocation
from ipa.queueing.service import ServiceTime, service

# A tick asks with one set of slowdowns; those of recent ticks are asked for again.
SLOWED = 8
# A tick asks for some plans and predictions; under a load that only scatters, for those of recent ticks.
PLANS, PREDICTIONS = 32, 64


@dataclass(frozen=True, slots=True)
class PlannerInputs:
    """The ingredients of a planner. `objective` None is the pipeline's default."""

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    objective: str | None = None
    solver: str = "auto"
    deadline_s: float = 5.0
    solvers: Solvers | None = None
    rolling: Rolling = SIDE_BY_SIDE
    # Deadline of all planning, None for none; each plan has `deadline_s`.
    until: Deadline | None = None
    # Add remedies for infeasible problems to plans.
    explain: bool = True
    # Plans that pipelines share.
    plans: SolveCache | None = None


class Profiled:
    """Plans for a pipeline and predicts the performance of configurations.

    Errors of the constructor: those of `planning_problem`; of planning: SolverError, DeadlineError.
    """

    def __init__(
        self, inputs: PlannerInputs, *, compat: Compat = Compat.TAIL, allocation: Allocation = Allocation.FREE
    ) -> None:
        question = PlanQuestion(inputs.pipeline, inputs.profiles, 1.0, inputs.objective, compat, allocation)
        rolling = inputs.rolling.of(inputs.pipeline)
        self._planned = replace(question.problem(), rolling=rolling)
        # Running replicas may have any measured size, whatever sizes are planned.
        formula = Compat.TAIL if compat is Compat.TAIL else Compat.PAPER
        known = replace(question, compat=formula, allocation=Allocation.FREE)
        self._known = replace(known.problem(), rolling=rolling)
        self._inputs = inputs
        self._slowed: dict[Slowdowns, tuple[PlanningProblem, PlanningProblem]] = {}
        self._plans = SolveCache(PLANS, inputs.plans)
        self._described = lru_cache(PREDICTIONS)(self._describe)
        self._late_ratios = lru_cache(PREDICTIONS)(self._late_of)
        self._services: dict[tuple[str, str, int, float], ServiceTime] = {}

    def plan(self, pipeline: Pipeline, rate_rps: float, running: Configs = ()) -> Plan:
        """The best plan for the rate (a `Planner`), with the variants and bounds of `pipeline`.

        `pipeline` may have fewer variants or other bounds than the one that the profiles were fitted for, and
        slowdowns.
        """
        return self._solved(self._problem_of(pipeline, rate_rps, running), explain=self._inputs.explain)

    def probe(
        self, pipeline: Pipeline, rate_rps: float, running: Configs = (), sla_ratio: float = 1.0
    ) -> Plan:
        """The best plan for an SLA `sla_ratio` times as long, without remedies (a `SlaScaledPlanner`)."""
        problem = self._problem_of(pipeline, rate_rps, running)
        return self._solved(replace(problem, sla_s=problem.sla_s * sla_ratio), explain=False)

    def _problem_of(self, pipeline: Pipeline, rate_rps: float, running: Configs) -> PlanningProblem:
        wanted = {stage.name: stage for stage in pipeline.stages}
        planned, _ = self._problems(pipeline.slowdowns)
        stages = tuple(_narrowed(stage, wanted[stage.name]) for stage in planned.stages)
        # A change from several configurations to one has no price: the planner prices changes from one.
        before = () if is_shared(running) else running
        return replace(planned, rate_rps=rate_rps, stages=stages, bounds=pipeline.bounds, running=before)

    def _problems(self, slowdowns: Slowdowns) -> tuple[PlanningProblem, PlanningProblem]:
        """The problem to plan with and the one to describe the running configuration, slowdowns applied."""
        if not slowdowns:
            return self._planned, self._known
        if slowdowns not in self._slowed:
            if len(self._slowed) >= SLOWED:
                del self._slowed[next(iter(self._slowed))]
            self._slowed[slowdowns] = (_slowed(self._planned, slowdowns), _slowed(self._known, slowdowns))
        return self._slowed[slowdowns]

    def _solved(self, problem: PlanningProblem, *, explain: bool) -> Plan:
        inputs, limit_s = self._inputs, self._inputs.deadline_s
        if inputs.until is not None:
            if inputs.until.passed:
                raise DeadlineError("the time limit of all plans together has passed")
            limit_s = min(limit_s, inputs.until.remaining_s)
        return self._plans.solve(problem, inputs.solver, limit_s, explain=explain, solvers=inputs.solvers)

    def variants(self, stage: str) -> tuple[str, ...]:
        """The stage's variants all of whose replicas the planner may run, by rising accuracy."""
        (known,) = (it for it in self._planned.stages if it.name == stage)
        columns = known.columns
        accuracy = dict(zip(columns.variants, columns.variant_accuracy, strict=True))
        return tuple(sorted(accuracy, key=lambda name: float(accuracy[name])))

    def sizes_cores(self, config: StageConfig) -> tuple[float, ...]:
        """The measured replica sizes of the variant with that batch size, ascending."""
        (stage,) = (stage for stage in self._known.stages if stage.name == config.stage)
        same = (config.variant, config.batch_size)
        return tuple(
            sorted(point.cores for point in stage.points if (point.variant, point.batch_size) == same)
        )

    def predict(
        self, configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns = AS_MEASURED
    ) -> Prediction | None:
        """The predicted performance at the rate (a `Predictor`); None if it was not profiled."""
        # Products of the least floats are zero.
        rate_rps = max(rate_rps, LEAST_RPS)
        plan = self.describe(configs, rate_rps, slowdowns)
        if plan is None:
            return None
        assert plan.objective is not None and plan.latency_s is not None and plan.pas is not None
        return Prediction(
            rate_rps=rate_rps,
            capacity_rps=rate_rps / max(stage.utilisation_ratio for stage in plan.stages),
            latency_s=plan.latency_s,
            sla_s=plan.sla_s,
            objective=plan.objective,
            pas=plan.pas,
            capacities_rps=tuple(stage.capacity_rps for stage in plan.stages),
            services=tuple(self._service(stage.config) for stage in plan.stages),
            late_ratios=self._late_ratios(tuple(configs), slowdowns),
            readiness_s=tuple(self._readiness_s(stage.config) for stage in plan.stages),
        )

    def _late_of(self, configs: Configs, slowdowns: Slowdowns) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The shares of late requests, and of those that take twice the SLA, at the LOADS."""
        _, known = self._problems(slowdowns)
        plan = self.describe(configs, ANY_RATE_RPS, slowdowns)
        assert plan is not None
        capacity_rps = ANY_RATE_RPS / max(stage.utilisation_ratio for stage in plan.stages)
        return late_ratios(known, configs, [load * capacity_rps for load in LOADS])

    def _readiness_s(self, config: StageConfig) -> float:
        (stage,) = (stage for stage in self._known.stages if stage.name == config.stage)
        return stage.points[stage.columns.place[config.variant, config.batch_size, config.cores]].readiness_s

    def describe(
        self, configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns = AS_MEASURED
    ) -> Plan | None:
        """The configuration, or the parts that share the rate, as a plan; None: not profiled."""
        return self._described(tuple(configs), rate_rps, slowdowns)

    def _describe(self, configs: Configs, rate_rps: float, slowdowns: Slowdowns) -> Plan | None:
        _, known = self._problems(slowdowns)
        return describe(replace(known, rate_rps=rate_rps), configs)

    def _service(self, config: StageConfig) -> ServiceTime:
        """The service time of a replica by its profile, without the objective's margins."""
        key = (config.stage, config.variant, config.batch_size, config.cores)
        if key not in self._services:
            (stage,) = (stage for stage in self._known.stages if stage.name == config.stage)
            columns, objective = stage.columns, self._known.objective
            at = columns.place[key[1:]]
            longer = 1 + objective.latency_margin_ratio
            self._services[key] = service(
                config.batch_size,
                columns.mean_s[at] / longer,
                columns.latency_s[at] / longer,
                columns.single_s[at] / longer,
                columns.capacity_rps[at] / (1 + objective.throughput_margin_ratio),
                config.cores,
            )
        return self._services[key]


def _slowed(problem: PlanningProblem, slowdowns: Slowdowns) -> PlanningProblem:
    """Return the problem with those slowdowns applied."""
    stages = []
    for stage in problem.stages:
        known = {each.variant: each for each in slowdowns if each.stage == stage.name}
        points = tuple(
            point.corrected(known[point.variant]) if point.variant in known else point
            for point in stage.points
        )
        stages.append(replace(stage, points=points) if known else stage)
    return replace(problem, stages=tuple(stages))


def _narrowed(planned: StageProblem, stage: Stage) -> StageProblem:
    """The stage with the variants, bounds and pin of the pipeline's stage; unchanged if it has those."""
    names = {variant.name for variant in stage.variants}
    if names.issuperset(planned.columns.variants) and (planned.bounds, planned.pin) == (
        stage.own_bounds,
        stage.pin,
    ):
        return planned
    points = tuple(point for point in planned.points if point.variant in names)
    return replace(planned, points=points, bounds=stage.own_bounds, pin=stage.pin)
