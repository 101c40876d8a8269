"""Plans with and without the check by simulation: how often they are late, what they cost, what it takes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from time import process_time

import numpy as np

from experiments.bench.render import aligned
from experiments.plancheck.cases import Case, drawn, measured
from experiments.plancheck.runs import cells, run, run_table
from ipa.model.forecast import Forecast
from ipa.model.observation import Missing, MissingReason, Observation
from ipa.model.plan import Plan
from ipa.policies.base import PolicyState
from ipa.policies.checked import CheckedPolicy
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled
from ipa.simulate.plancheck import COMPILED, PLAIN, CheckEffort, PlanCheck

# What counts as the truth: so many requests, with other random numbers than the check's.
TRUTH = CheckEffort(1, (60_000,))
TRUTH_SEED = 7
# Each way to check: how much is simulated, and by which kernel.
WAYS = {"compiled": (COMPILED, "numba"), "plain": (PLAIN, "plain")}


@dataclass(frozen=True, slots=True)
class Row:
    """One plan of a case: `way` is "none", or the kernel of the check. Times are of the processor,
    without the first plan's."""

    group: str
    pipeline: str
    rate_rps: float
    way: str
    sla_s: float
    predicted_s: float
    true_s: float
    cores: float
    objective: float
    pas: float
    check_ms: float
    note: str

    @property
    def over_ratio(self) -> float:
        """How far the true quantile is above the SLA, as a share of it."""
        return self.true_s / self.sla_s - 1.0


@cache
def cases(seed: int, count: int) -> list[Case]:
    """All of them; each process makes its own."""
    return list(chain(measured(), drawn(seed, count)))


def rows_of(seed: int, count: int, at: int) -> list[Row]:
    """A case planned for without a check and with each kind; none where no plan carries it."""
    case = cases(seed, count)[at]
    profiled = Profiled(case.pipeline, case.profiles, solver="exact")
    ours = Ours(case.pipeline, profiled.plan)
    unseen = Missing(MissingReason.NOT_ASKED)
    observation = Observation(case.pipeline.name, 0.0, unseen, unseen, unseen, ())
    forecast = Forecast(case.rate_rps, case.rate_rps, 0.95, 20.0, "given", 1.0)
    state = PolicyState(())
    began_s = process_time()
    first = ours.decide(observation, forecast, state)
    plan_s = process_time() - began_s
    if not first.stages or first.rate_rps < case.rate_rps:
        return []
    truth = PlanCheck(case.pipeline, case.profiles, effort=TRUTH, kernel="numba", seed=TRUTH_SEED)
    found = [_row(case, "none", first, truth, 0.0)]
    for way, (effort, kernel) in WAYS.items():
        checker = PlanCheck(case.pipeline, case.profiles, effort=effort, kernel=kernel)
        checker.warm()
        policy = CheckedPolicy(ours, profiled.shorter, checker)
        began_s = process_time()
        plan = policy.decide(observation, forecast, state)
        check_s = process_time() - began_s - plan_s
        found.append(_row(case, way, plan, truth, 1e3 * max(0.0, check_s)))
    return found


def _row(case: Case, way: str, plan: Plan, truth: PlanCheck, check_ms: float) -> Row:
    verdict = truth(plan.configs, case.rate_rps)
    assert verdict is not None
    assert plan.objective is not None and plan.cost_cores is not None
    assert plan.latency_s is not None and plan.pas is not None
    return Row(
        case.group,
        case.pipeline.name,
        case.rate_rps,
        way,
        plan.sla_s,
        plan.latency_s,
        verdict.quantile_s,
        plan.cost_cores,
        plan.objective,
        plan.pas,
        check_ms,
        plan.note,
    )


def table(rows: Sequence[Row]) -> list[str]:
    """A line for each group and kind of check."""
    head = ["plans", "check", "number", "p99 over the SLA", "by over 2 %", "by over 10 %", "worst"]
    lines = [[*head, "cores", "accuracy", "ms, mean", "ms, 95 %", "ms, most"]]
    groups = list(dict.fromkeys(row.group for row in rows))
    for group in [*groups, "all"]:
        for way in ("none", *WAYS):
            mine = [row for row in rows if row.way == way and group in (row.group, "all")]
            over = np.array([row.over_ratio for row in mine])
            spent = np.array([row.check_ms for row in mine])
            times = (spent.mean(), np.quantile(spent, 0.95), spent.max())
            lines.append(
                [
                    group if way == "none" else "",
                    way,
                    str(len(mine)),
                    *(f"{100 * np.mean(over > limit):.1f} %" for limit in (0.0, 0.02, 0.10)),
                    f"{100 * over.max():+.1f} %",
                    f"{fmean(row.cores for row in mine):.2f}",
                    f"{fmean(row.pas for row in mine):.4f}",
                    *("–" if way == "none" else f"{each:.0f}" for each in times),
                ]
            )
    return aligned(lines)


def main() -> None:
    """Plan, simulate at length, print the table, write all rows."""
    parser = argparse.ArgumentParser(prog="python -m experiments.plancheck", description=__doc__)
    parser.add_argument("--random", type=int, default=200, help="random pipelines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="one, where times are to be right")
    parser.add_argument("--runs", nargs="*", default=[], help="workloads of whole runs, in place of plans")
    parser.add_argument("--out", type=Path, default=Path("runs/plancheck/rows.json"))
    options = parser.parse_args()
    if options.runs:
        with ProcessPoolExecutor(options.workers) as pool:
            print("\n".join(run_table(list(pool.map(run, cells(options.runs))))))
        return
    one = partial(rows_of, options.seed, options.random)
    with ProcessPoolExecutor(options.workers) as pool:
        found = pool.map(one, range(len(cases(options.seed, options.random))))
        rows = [row for each in found for row in each]
    print("\n".join(table(rows)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
