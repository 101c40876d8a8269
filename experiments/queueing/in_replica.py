"""Plans for stages whose replicas batch for themselves, held against simulation."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from rich.console import Console
from rich.table import Table

from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.optimize.describe import describe
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation
from ipa.queueing.service import service
from ipa.simulate.graph import PipelineSim
from ipa.simulate.queue import Pods

PROBLEMS = 320
SEED = 1
NEAR = 0.1
# A simulation has this many requests, and is repeated until its quantile is known this well, or so often.
REQUESTS, SURE, LEAST_RUNS, MOST_RUNS = 200_000, 0.02, 2, 20
# Requests of this many first SLAs do not count, since the pipeline is empty at first.
FILLING_SLAS = 2.0
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
CORES = (1.0, 2.0, 4.0)
# One more replica that is predicted to take longer by this much is simulated too.
LONGER = 0.01


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan's latency, predicted and simulated with its standard error; `sla_s` is what it was planned for.

    `more` are the plans of one replica more at a stage that were predicted later: the ratio of their latency
    to the plan's, predicted and simulated.
    """

    number: int
    stages: tuple[StageConfig, ...]
    rate_rps: float
    sla_s: float
    predicted_s: float
    simulated_s: float
    error_s: float
    more: tuple[tuple[float, float], ...]

    @property
    def off_ratio(self) -> float:
        """The excess of the prediction, as a share of the simulated latency."""
        return self.predicted_s / self.simulated_s - 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A pipeline to plan for at a rate."""

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    rate_rps: float


def random_pipeline(
    random: Random, number: int, stages: tuple[Stage, ...], profiles: Mapping[str, StageProfile]
) -> Pipeline:
    """The pipeline of these stages, its SLA and weights at random.

    The SLA is a tenth to twice what a batch of 16 takes of the slowest variant at each stage.
    """
    whole_s = sum(max(it.points[4].latency_s for it in profiles[stage.name].variants) for stage in stages)
    return Pipeline(
        f"random-{number}",
        stages,
        Sla(whole_s * 10 ** random.uniform(-1.0, 0.3)),
        {"default": Objective(alpha=10 ** random.uniform(0.0, 2.0), beta=1.0)},
    )


def random_profile(random: Random, stage: str) -> StageProfile:
    """Variants, slower the better they are; a batch's start is a third to nearly all of one item's time."""
    lightest_s = 10 ** random.uniform(-2.3, -1.3)
    tail = random.uniform(1.05, 2.0)
    variants = []
    for rank in range(random.randint(2, 3)):
        item_s, start = lightest_s * random.uniform(1.5, 3.0) ** rank, random.uniform(0.3, 0.97)
        points = tuple(
            ProfilePoint(cores, size, mean_s * tail, mean_s)
            for cores in CORES
            for size in BATCH_SIZES
            for mean_s in [item_s * (start + (1 - start) * size) / cores**0.75]
        )
        variants.append(VariantProfile(f"v{rank}", 0.6 + 0.12 * rank + random.uniform(0.0, 0.1), points))
    return StageProfile("random", stage, tuple(variants), "made up", date(2026, 1, 1), "made up")


def drawn(seed: int, number: int) -> Case:
    """A pipeline of one or two stages and a rate: timeouts, variants, SLA and weights at random."""
    random = Random(f"{seed} {number}")
    names = [f"s{at}" for at in range(random.randint(1, 2))]
    profiles = {name: random_profile(random, name) for name in names}
    stages = chain(
        [
            Stage(
                name,
                tuple(Variant(each.variant) for each in profiles[name].variants),
                batch_timeout_s=random.choice([0.005, 0.01, 0.03, 0.1, 0.3]),
                in_replica=True,
            )
            for name in names
        ],
        [1.0] * (len(names) - 1),
    )
    pipeline = random_pipeline(random, number, stages, profiles)
    return Case(pipeline, profiles, 10 ** random.uniform(0.7, 2.5))


def judge(seed: int, number: int) -> Judged | None:
    """The plan of a problem, simulated; None where no plan carries the rate in time."""
    case = drawn(seed, number)
    problem = planning_problem(
        case.pipeline, case.profiles, case.rate_rps, compat=Compat.TAIL, allocation=Allocation.FREE
    )
    plan = solve(problem, "exact", explain=False)
    if plan.latency_s is None:
        return None
    simulated_s, error_s = simulated(case, problem, plan.configs)
    more = []
    for at in range(len(plan.configs)):
        config = plan.configs[at]
        configs = (*plan.configs[:at], replace(config, replicas=config.replicas + 1), *plan.configs[at + 1 :])
        ratio = _predicted_s(problem, configs) / plan.latency_s
        if ratio > 1 + LONGER:
            more.append((ratio, simulated(case, problem, configs)[0] / simulated_s))
    return Judged(
        number,
        plan.configs,
        case.rate_rps,
        plan.sla_s,
        plan.latency_s,
        simulated_s,
        error_s,
        tuple(more),
    )


def _predicted_s(problem: PlanningProblem, configs: tuple[StageConfig, ...]) -> float:
    plan = describe(problem, configs)
    assert plan is not None and plan.latency_s is not None
    return plan.latency_s


def simulated(case: Case, problem: PlanningProblem, configs: tuple[StageConfig, ...]) -> tuple[float, float]:
    """The 99th percentile of the latency and its standard error."""
    quantiles_s: list[float] = []
    while True:
        quantiles_s.append(quantile_s(case, problem, configs, len(quantiles_s) + 1))
        if len(quantiles_s) < LEAST_RUNS:
            continue
        mean_s, error_s = (
            float(np.mean(quantiles_s)),
            float(np.std(quantiles_s, ddof=1) / len(quantiles_s) ** 0.5),
        )
        if error_s <= SURE * mean_s or len(quantiles_s) >= MOST_RUNS:
            return mean_s, error_s


def quantile_s(case: Case, problem: PlanningProblem, configs: tuple[StageConfig, ...], seed: int) -> float:
    """The latency's percentile in one simulation of random arrivals, without those of the first SLAs."""
    sim = PipelineSim(case.pipeline, queue="replica", seed=seed)
    for config in configs:
        (stage,) = (stage for stage in problem.stages if stage.name == config.stage)
        columns = stage.columns
        at = columns.place[config.variant, config.batch_size, config.cores]
        made = service(
            config.batch_size,
            columns.mean_s[at],
            columns.latency_s[at],
            columns.single_s[at],
            columns.capacity_rps[at],
            config.cores,
        )
        sim.set_replicas(
            config.stage, 0.0, [Pods(config.replicas, config.batch_size, made, "", config.variant)]
        )
    first_s = FILLING_SLAS * problem.sla_s
    count = REQUESTS + round(case.rate_rps * (first_s + problem.sla_s))
    times_s = np.random.default_rng([seed, 1]).exponential(1.0 / case.rate_rps, count).cumsum()
    sim.offer(times_s)
    done = sim.run(times_s[-1])
    latency_s = np.full(count, np.inf)
    latency_s[done.ids] = done.latency_s
    counts = (times_s >= first_s) & (times_s < sim.now_s - problem.sla_s)
    waited_s = np.minimum(latency_s[counts], sim.now_s - times_s[counts])
    return float(np.quantile(waited_s, problem.percentile / 100.0))


def table(rows: Sequence[Judged]) -> Table:
    """The errors of the plans' predictions, by the number of stages."""
    shown = Table(title="Plans in replicas that batch for themselves: predicted p99 off by")
    heads = ("", "number", "within 10 %", "over 10 % too low", "late", "lowest", "median", "95 %", "highest")
    for name in heads:
        shown.add_column(name, justify="right" if name else "left")
    for name, counts in (("one stage", (1,)), ("two stages", (2,)), ("all", (1, 2))):
        mine = [row for row in rows if len(row.stages) in counts]
        if not mine:
            continue
        off = np.array([row.off_ratio for row in mine])
        late = sum(row.simulated_s > row.sla_s for row in mine)
        marks = [f"{100 * each:+.1f} %" for each in np.quantile(off, [0.0, 0.5, 0.95, 1.0])]
        near, low = f"{100 * np.mean(np.abs(off) <= NEAR):.1f} %", str(int(np.sum(off < -NEAR)))
        shown.add_row(name, str(len(mine)), near, low, str(late), *marks)
    return shown


def main(arguments: Sequence[str]) -> None:
    """Plan, simulate, print the table and the plans that are worst off."""
    parser = argparse.ArgumentParser(prog="python -m experiments.queueing in-replica", description=__doc__)
    parser.add_argument("--problems", type=int, default=PROBLEMS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/queueing/in-replica.txt"))
    options = parser.parse_args(arguments)
    with ProcessPoolExecutor(options.workers) as pool:
        judged = pool.map(partial(judge, options.seed), range(options.problems))
        rows = [row for row in judged if row is not None]
    console = Console(width=max(Console().width, 120))
    console.print(table(rows))
    more = [pair for row in rows for pair in row.more]
    later = sum(simulated_ratio > 1 for _, simulated_ratio in more)
    console.print(
        f"With one more replica {len(more)} plans are predicted to take over {100 * LONGER:.0f} % longer, "
        f"because batches fill more slowly: {later} of them do when simulated."
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{row.off_ratio:+.3f} {row}" for row in sorted(rows, key=lambda row: row.off_ratio)]
    options.out.write_text("\n".join(lines), encoding="utf-8")
    console.print(f"wrote {options.out}")
