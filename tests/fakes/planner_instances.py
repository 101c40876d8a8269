"""Random planning problems and a brute force that shares nothing with the planner."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, inf, log, prod
from random import Random

from ipa.model.pipeline import AccuracyRule, Bounds, Edge, Objective
from ipa.model.profile import OperatingPoint
from ipa.optimize.dominance import reduce_program
from ipa.optimize.options import full_program
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.program import Program, evaluate, tolerance

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


def build_program(problem: PlanningProblem) -> Program:
    """The program of a problem, its dominated and hopeless options removed."""
    return reduce_program(full_program(problem))


def fits(program: Program, chosen: Sequence[int]) -> bool:
    """True if the choice is within all limits."""
    totals = evaluate(program, chosen)
    floor = program.log_floor
    return (
        totals.latency_s <= program.sla_s + tolerance(program.sla_s)
        and levels_agree(program, chosen)
        and (floor == -inf or (totals.pas > 0 and log(totals.pas) >= floor - tolerance(1.0)))
        and totals.term >= program.term_floor - tolerance(abs(program.term_floor))
        and all(
            sum(float(use[at]) for use, at in zip(limit.use, chosen, strict=True))
            <= limit.most + tolerance(abs(limit.most))
            for limit in program.limits()
        )
    )


def levels_agree(program: Program, chosen: Sequence[int]) -> bool:
    """True if every stage is planned for the items that the stages before it send."""
    return all(
        program.stages[stage].leave[place, chosen[stage]] == program.stages[child].enter[chosen[child]]
        for stage, children in enumerate(program.graph.children)
        for place, child in enumerate(children)
    )


def random_problem(
    random: Random, stages: tuple[int, int] = (2, 6), variants: tuple[int, int] = (2, 8), batches: int = 7
) -> PlanningProblem:
    """A chain whose SLA, cores and accuracy floor range from loose to impossible."""
    chain = chained(
        [
            random_stage(random, f"s{index}", random.randint(*variants), random.randint(1, batches))
            for index in range(random.randint(*stages))
        ],
        random.choices([1.0, 1.0, 1.0, 3.0, 2.5], k=stages[1]),
    )
    rate_rps = random.choice([0.5, 3.0, 17.0, 40.0, random.uniform(1, 60)])
    light_s = sum(min(point.latency_s for point in stage.points) for stage in chain)
    objective = Objective(
        alpha=random.choice([0.0, 1.0, 2.0, 20.0, 100.0]),
        beta=random.choice([0.0, 0.05, 0.5, 1.0]),
        delta=random.choice([0.0, 1e-6, 1e-3]),
        accuracy_rule=random.choice(list(AccuracyRule)),
        rank_floor=random.choice([None, 0.05]),
        max_replicas=random.choice([None, 100, 20]),
    )
    bounds = Bounds(
        cores=random.choice([None, None, random.uniform(2, 30) * len(chain)]),
        min_replicas=random.choice([1, 1, 2]),
        max_replicas=random.choice([None, 30]),
        accuracy_floor=random.choice([None, None, random.uniform(0.3, 1.0) ** len(chain)]),
    )
    sla_s = light_s * random.choice([0.9, 1.2, 1.7, 2.5, 5.0, 20.0])
    compat = random.choice([Compat.PAPER, Compat.PAPER, Compat.IPA_ARTIFACT])
    return PlanningProblem("random", rate_rps, sla_s, chain, objective, bounds, compat)


def random_stage(random: Random, name: str, variants: int, batches: int) -> StageProblem:
    """Variants that cost more the better they are, with some noise."""
    base_s = random.uniform(0.005, 0.1)
    points = []
    for rank in range(variants):
        accuracy = 0.4 + 0.58 * (rank + random.random()) / variants
        unit_s = base_s * (1 + rank) ** 1.3
        for batch_size, cores in itertools.product(
            sorted(random.sample(BATCH_SIZES, batches)), random.choice([(1.0,), (0.5, 2.0)])
        ):
            latency_s = unit_s * (0.4 + 0.6 * batch_size) * random.uniform(0.9, 1.1) / cores**0.8
            points.append(
                OperatingPoint(f"v{rank}", accuracy, batch_size, cores, latency_s, batch_size / latency_s)
            )
    return StageProblem(name, tuple(points), batch_timeout_s=random.choice([None, 0.02, 0.1]))


def chained(stages: Sequence[StageProblem], fan_outs: Sequence[float] = ()) -> tuple[StageProblem, ...]:
    """The stages one after the other; `fan_outs` are what each but the last sends on, 1 without."""
    sent = [*fan_outs, *[1.0] * len(stages)]
    return tuple(
        replace(stage, after=(Edge(stages[at - 1].name, sent[at - 1]),) if at else ())
        for at, stage in enumerate(stages)
    )


def brute_force(problem: PlanningProblem) -> float | None:
    """The best objective over every point and every replica count that could matter; None: infeasible."""
    limit = inf if problem.bounds.cores is None else problem.bounds.cores
    fitting = (worth for cores, worth in _tried(problem) if cores <= limit * (1 + 1e-9))
    return max(fitting, default=None)


def _tried(problem: PlanningProblem):  # type: ignore[no-untyped-def]
    choices = [list(_choices(problem, index)) for index in range(len(problem.stages))]
    floor = problem.bounds.accuracy_floor or 0.0
    for plan in itertools.product(*choices):
        latency_s = sum(choice[1] for choice in plan)
        cores = sum(choice[2] for choice in plan)
        pas = prod(choice[0].accuracy for choice in plan)
        if latency_s > problem.sla_s * (1 + 1e-9) or pas < floor * (1 - 1e-9):
            continue
        worth = (
            problem.objective.alpha * _accuracy(problem, [choice[0] for choice in plan])
            - problem.objective.beta * cores
            - problem.objective.delta * sum(choice[0].batch_size for choice in plan)
        )
        yield cores, worth


def brute_size(problem: PlanningProblem) -> int:
    """The number of configurations that the brute force tries."""
    return prod(len(list(_choices(problem, index))) for index in range(len(problem.stages)))


def _choices(problem: PlanningProblem, index: int):  # type: ignore[no-untyped-def]
    stage = problem.stages[index]
    items = prod(edge.items("") for before in problem.stages[: index + 1] for edge in before.after)
    rate = problem.rate_rps * items
    most = min(problem.bounds.max_replicas or 10_000, problem.objective.max_replicas or 10_000)
    for point in stage.points:
        least = max(problem.bounds.min_replicas, ceil(rate / point.capacity_rps - 1e-9))
        enough = max(least, ceil(items / point.batch_size - 1e-9))
        if problem.compat is Compat.IPA_ARTIFACT:
            names = {each.variant for each in stage.points}
            sizes = {each.batch_size for one in problem.stages for each in one.points}
            wait_s = -len(names) * (len(sizes) - 1) / rate
        else:
            wait_s = min((point.batch_size - 1) / rate, stage.batch_timeout_s or inf)
        for replicas in range(least, min(most, enough) + 1):
            sequence = max(1, ceil(items / (replicas * point.batch_size) - 1e-9))
            yield point, point.latency_s * sequence + wait_s, replicas * point.cores


def _accuracy(problem: PlanningProblem, points: list[OperatingPoint]) -> float:
    rule = problem.objective.accuracy_rule
    terms = [point.accuracy for point in points]
    if rule in (AccuracyRule.RANK_SUM, AccuracyRule.RANK_PRODUCT):
        terms = [_rank(problem, stage, point) for stage, point in zip(problem.stages, points, strict=True)]
    if rule in (AccuracyRule.PRODUCT, AccuracyRule.RANK_PRODUCT):
        return prod(terms)
    return sum(terms) / (len(terms) if rule is AccuracyRule.MEAN else 1)


def _rank(problem: PlanningProblem, stage: StageProblem, point: OperatingPoint) -> float:
    rising = sorted({each.accuracy for each in stage.points})
    if len(rising) == 1:
        return 1.0
    place = rising.index(point.accuracy)
    floor = problem.objective.rank_floor
    return floor if place == 0 and floor is not None else place / (len(rising) - 1)
