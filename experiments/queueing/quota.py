"""Random stages of less than a core: the formula against the simulator's replicas, which save CPU time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.queueing.stage_loop import Floats
from ipa.queueing.service import ServiceTime
from ipa.queueing.tail import sojourn, sojourn_with_quota
from ipa.simulate.queue import Pods
from ipa.simulate.stage import StageSim

STAGES, SEED = 600, 7
REQUESTS, WARM = 40_000, 2_000
# The squared coefficient of variation of service times, and what their 99th percentile then is of their mean.
SPREADS = {0.01: 1.25, 0.06: 1.65}
NEAR = 0.1


@dataclass(frozen=True, slots=True)
class QuotaStage:
    """A stage on its busy replicas' times in seconds, and what the simulator measured: mean and p99."""

    batch_size: int
    replicas: int
    quota_cores: float
    full_s: float
    one_s: float
    timeout_s: float
    rate_rps: float
    spread: float
    mean_s: float
    tail_s: float


def measured(seed: int, index: int) -> QuotaStage:
    """The index-th random stage: batches to 16, to 4 replicas, loads 0.1 to 0.92, batches of 4 to 300 ms."""
    rng = np.random.default_rng([seed, index])
    batch_size, replicas = int(2 ** rng.integers(0, 5)), int(rng.integers(1, 5))
    quota_cores, load = float(rng.choice([0.25, 0.5])), float(rng.uniform(0.1, 0.92))
    full_s = float(np.exp(rng.uniform(np.log(0.004), np.log(0.3))))
    one_s = full_s * float(batch_size ** -rng.uniform(0.15, 1.0))
    timeout_s = float(rng.choice([0.0, 0.01, 0.02])) if batch_size > 1 else 0.0
    rate_rps = load * replicas * batch_size / full_s
    times_s = np.cumsum(rng.exponential(1 / rate_rps, REQUESTS))
    stage = StageSim(queue="central", batch_timeout_s=timeout_s, seed=4)
    spread = float(rng.choice(list(SPREADS)))
    stage.set_replicas(0.0, [Pods(replicas, batch_size, ServiceTime(full_s, one_s, spread, quota_cores))])
    stage.offer(times_s, np.arange(REQUESTS))
    served = stage.run(1e9)
    took_s = (served.done_s - served.born_s)[served.ids >= WARM]
    seen_s = float(np.mean(took_s)), float(np.quantile(took_s, 0.99))
    return QuotaStage(batch_size, replicas, quota_cores, full_s, one_s, timeout_s, rate_rps, spread, *seen_s)


def errors(stages: Sequence[QuotaStage]) -> tuple[Floats, Floats]:
    """The excess of the predicted mean and 99th percentile, as shares of the measured ones."""

    def column(name: str) -> Floats:
        return np.array([getattr(stage, name) for stage in stages], dtype=np.float64)

    full_s = column("full_s")
    predicted = sojourn_with_quota(
        *(sojourn, column("quota_cores"), np.inf, column("batch_size"), column("replicas")),
        *(full_s, np.array([SPREADS[stage.spread] for stage in stages]) * full_s, column("rate_rps")),
        items=np.ones_like(full_s),
        timeout_s=column("timeout_s"),
        percentile=99.0,
        service_one_s=column("one_s"),
    )
    return predicted.mean_s / column("mean_s") - 1, predicted.quantile_s / column("tail_s") - 1


def main(arguments: Sequence[str]) -> None:
    """Simulate the stages and print how far the predictions are off."""
    parser = argparse.ArgumentParser(prog="python -m experiments.queueing quota", description=__doc__)
    parser.add_argument("--stages", type=int, default=STAGES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    with ProcessPoolExecutor(options.workers) as pool:
        stages = list(pool.map(partial(measured, options.seed), range(options.stages), chunksize=8))
    shown = Table(title=f"{len(stages)} stages of less than a core: predictions off by")
    for head in ("", "within 10 %", "over 10 % too low", "lowest", "median", "highest"):
        shown.add_column(head, justify="right" if head else "left")
    for name, off in zip(("mean", "p99"), errors(stages), strict=True):
        marks = [f"{100 * each:+.0f} %" for each in np.quantile(off, [0.0, 0.5, 1.0])]
        shown.add_row(
            name, f"{100 * np.mean(np.abs(off) <= NEAR):.0f} %", str(int(np.sum(off < -NEAR))), *marks
        )
    Console(width=max(Console().width, 100)).print(shown)
