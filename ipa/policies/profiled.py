"""The planner and the predictor of one pipeline over its measured profiles, fitted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig, StagePlan, Termination
from ipa.model.profile import OperatingPoint, StageProfile
from ipa.optimize.accuracy import accuracy_of_chain, variant_terms
from ipa.optimize.problem import Compat, Problem
from ipa.optimize.solve import solve
from ipa.policies.base import Prediction
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation
from ipa.queueing.capacity import utilisation_ratio
from ipa.queueing.chain import chain_latency_s
from ipa.queueing.formation import batches_in_sequence, formation_wait_s


class Profiled:
    """Plans for a pipeline, and says what a given configuration would do (formulas of the paper).

    Errors of the constructor: those of `planning_problem`; of planning: SolverError.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        profiles: Mapping[str, StageProfile],
        *,
        objective: str | None = None,
        compat: Compat = Compat.PAPER,
        allocation: Allocation = Allocation.FREE,
        solver: str = "auto",
        deadline_s: float = 5.0,
    ) -> None:
        def problem(allocation: Allocation, compat: Compat) -> Problem:
            return planning_problem(
                pipeline, profiles, 1.0, objective=objective, compat=compat, allocation=allocation
            )

        self._planned = problem(allocation, compat)
        # What runs may have any measured size, whatever sizes are planned with.
        self._known = problem(Allocation.FREE, Compat.PAPER)
        self._solver, self._deadline_s = solver, deadline_s

    def plan(self, pipeline: Pipeline, rate_rps: float) -> Plan:
        """The best plan for the rate (a Planner), with the variants and within the bounds of `pipeline`.

        It may name fewer variants or other bounds than the one the profiles were fitted for.
        """
        names = {stage.name: {variant.name for variant in stage.variants} for stage in pipeline.stages}
        stages = tuple(
            replace(stage, points=tuple(p for p in stage.points if p.variant in names[stage.name]))
            for stage in self._planned.stages
        )
        problem = replace(self._planned, rate_rps=rate_rps, stages=stages, bounds=pipeline.bounds)
        return solve(problem, self._solver, self._deadline_s)

    def predict(self, configs: Sequence[StageConfig], rate_rps: float) -> Prediction | None:
        """What the configuration would do at the rate (a Predictor); None where it was not measured."""
        plan = self.describe(configs, rate_rps)
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
        )

    def describe(self, configs: Sequence[StageConfig], rate_rps: float) -> Plan | None:
        """The configuration as a plan, feasible or not; None where it was not measured."""
        problem = replace(self._known, rate_rps=rate_rps)
        points = _points(problem, configs)
        if points is None:
            return None
        stages = tuple(
            _stage_plan(problem, index, point, config.replicas)
            for index, (point, config) in enumerate(zip(points, configs, strict=True))
        )
        objective = problem.objective
        terms = [
            variant_terms(stage, objective)[point.variant]
            for stage, point in zip(problem.stages, points, strict=True)
        ]
        cores = sum(stage.config.total_cores for stage in stages)
        return Plan(
            pipeline=problem.pipeline,
            rate_rps=rate_rps,
            termination=Termination.FEASIBLE,
            solver="given",
            objective=objective.alpha * accuracy_of_chain(terms, objective.accuracy_rule)
            - objective.beta * cores
            - objective.delta * sum(stage.batch_size for stage in stages),
            bound=None,
            gap=None,
            pas=prod(stage.accuracy for stage in stages),
            cost_cores=cores,
            latency_s=chain_latency_s((stage.latency_s, stage.queue_delay_s) for stage in stages),
            sla_s=problem.sla_s,
            solve_s=0.0,
            stages=stages,
            objective_name=objective.name,
        )


def _points(problem: Problem, configs: Sequence[StageConfig]) -> list[OperatingPoint] | None:
    if [config.stage for config in configs] != [stage.name for stage in problem.stages]:
        return None
    found: list[OperatingPoint] = []
    for stage, config in zip(problem.stages, configs, strict=True):
        wanted = (config.variant, config.batch_size, config.cores)
        match = next((p for p in stage.points if (p.variant, p.batch_size, p.cores) == wanted), None)
        if match is None or config.replicas < 1:
            return None
        found.append(match)
    return found


def _stage_plan(problem: Problem, index: int, point: OperatingPoint, replicas: int) -> StagePlan:
    stage, items = problem.stages[index], problem.items[index]
    rate_rps = problem.rate_rps * items
    return StagePlan(
        stage=stage.name,
        variant=point.variant,
        batch_size=point.batch_size,
        cores=point.cores,
        replicas=replicas,
        rate_rps=rate_rps,
        capacity_rps=point.capacity_rps,
        latency_s=point.latency_s * batches_in_sequence(items, point.batch_size, replicas),
        queue_delay_s=formation_wait_s(point.batch_size, rate_rps, stage.batch_timeout_s),
        utilisation_ratio=utilisation_ratio(rate_rps, point.capacity_rps, replicas),
        accuracy=point.accuracy,
    )
