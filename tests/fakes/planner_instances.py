"""Random planning problems: chains from loose to impossible."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import inf, log
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
