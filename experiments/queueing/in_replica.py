"""Plans for stages whose replicas batch for themselves, held against simulation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import exp, log
from pathlib import Path
from random import Random

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.plancheck.cases import Case, random_pipeline, random_profile
from ipa.model.pipeline import Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.optimize.describe import describe
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation
from ipa.simulate.plancheck import RATE_STEP, CheckEffort, PlanCheck

PROBLEMS = 320
SEED = 1
NEAR = 0.1
# A simulation has this many requests, and is repeated until its quantile is known this well, or so often.
REQUESTS, SURE, LEAST_RUNS, MOST_RUNS = 200_000, 0.02, 2, 20
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
        """How much too long the prediction is, as a share of the simulated latency."""
        return self.predicted_s / self.simulated_s - 1.0


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
    rate_rps = 10 ** random.uniform(0.7, 2.5)
    # As the check rounds it.
    return Case("in replica", pipeline, profiles, exp(round(log(rate_rps) / RATE_STEP) * RATE_STEP))


def judge(seed: int, number: int) -> Judged | None:
    """The plan of a problem, simulated; None where no plan carries the rate in time."""
    case = drawn(seed, number)
    problem = planning_problem(
        case.pipeline, case.profiles, case.rate_rps, compat=Compat.TAIL, allocation=Allocation.FREE
    )
    plan = solve(problem, "exact", explain=False)
    if plan.latency_s is None:
        return None
    simulated_s, error_s = simulated(case, plan.configs)
    more = []
    for at in range(len(plan.configs)):
        config = plan.configs[at]
        configs = (*plan.configs[:at], replace(config, replicas=config.replicas + 1), *plan.configs[at + 1 :])
        ratio = _predicted_s(problem, configs) / plan.latency_s
        if ratio > 1 + LONGER:
            more.append((ratio, simulated(case, configs)[0] / simulated_s))
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


def simulated(case: Case, configs: tuple[StageConfig, ...]) -> tuple[float, float]:
    """The 99th percentile of the latency and its standard error."""
    effort = CheckEffort(1, (REQUESTS,))
    found: list[float] = []
    while True:
        check = PlanCheck(case.pipeline, case.profiles, effort=effort, seed=len(found) + 1)
        verdict = check(configs, case.rate_rps)
        assert verdict is not None
        found.append(verdict.quantile_s)
        if len(found) < LEAST_RUNS:
            continue
        mean_s, error_s = float(np.mean(found)), float(np.std(found, ddof=1) / len(found) ** 0.5)
        if error_s <= SURE * mean_s or len(found) >= MOST_RUNS:
            return mean_s, error_s


def table(rows: Sequence[Judged]) -> Table:
    """How far off the plans' predictions are, by the number of stages."""
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
        found = pool.map(partial(judge, options.seed), range(options.problems))
        rows = [row for row in found if row is not None]
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
