"""The result of a simulated run: by request, by tick, and in a few figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ipa.forecast.ladder import failure_in
from ipa.model.decision import Action, Decision, ReasonCode
from ipa.model.resources import CORES, IN_CORES, NO_RESOURCES, Prices, Resources, dimension
from ipa.simulate.columns import Floats

# The latencies of the summary: their names, and the shares of the answered requests that took no longer.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}


@dataclass(frozen=True, slots=True)
class SimTick:
    """One tick: observed rates in rps (None: missing), cores held, accuracy of the serving pods."""

    at_s: float
    reason: str
    rate_rps: float | None
    point_rps: float | None
    upper_rps: float | None
    latency_s: float | None
    cores: float
    pas: float
    configs: str
    # What failed of policy, solver and forecaster, in words; empty if nothing did.
    failure: str = ""


def failure_of(decision: Decision) -> str:
    """The failure of policy, solver or forecaster at the tick, in words; empty if none failed."""
    if decision.reason is ReasonCode.SOLVER_FAILED:
        return decision.detail
    return failure_in(decision.forecast) if decision.forecast else ""


@dataclass(frozen=True, slots=True)
class SimResult:
    """The result of a run of `duration_s`.

    By request, in the order of arrival: `born_s`, and `done_s` (NaN: lost). `ticks` is a row a tick,
    `decisions` are the recorded ones. `pas_mean` and `core_seconds` are over time, every held core counted,
    old and new together; so are `resource_seconds`, of all resources. `accuracy_mean` is over the answered
    requests.
    """

    pipeline: str
    policy: str
    seed: int
    duration_s: float
    sla_s: float
    born_s: Floats
    done_s: Floats
    pas_mean: float
    accuracy_mean: float
    core_seconds: float
    ticks: tuple[SimTick, ...]
    decisions: tuple[Decision, ...]
    resource_seconds: Resources = NO_RESOURCES
    prices: Prices = IN_CORES

    @property
    def latencies_s(self) -> Floats:
        """Latencies of the answered requests."""
        latencies: Floats = (self.done_s - self.born_s)[~np.isnan(self.done_s)]
        return latencies

    @property
    def changes(self) -> int:
        """The number of written changes."""
        return sum(decision.action is Action.APPLY for decision in self.decisions)

    def columns(self) -> dict[str, list[Any]]:
        """The ticks by column, one value a tick in each: what `pandas.DataFrame` takes."""
        return {each.name: [getattr(tick, each.name) for tick in self.ticks] for each in fields(SimTick)}

    def summary(self) -> dict[str, Any]:
        """The figures of the run as plain JSON values; latencies are None if nothing was answered.

        Other resources than cores are there if any were held, `usd_per_hour` if the pipeline has prices.
        `violation_ratio` is the share of the requests that were late or lost, `lost` their number.
        `failed_ticks` are those with a `failure`, `first_failure` is the first in words; None without one.
        """
        failed = [
            f"tick {number}, {tick.at_s:g} s: {tick.failure}"
            for number, tick in enumerate(self.ticks, 1)
            if tick.failure
        ]
        latencies_s = self.latencies_s
        sent = len(self.born_s)
        lost = sent - len(latencies_s)
        late = int((latencies_s > self.sla_s).sum())
        held_mean = self.resource_seconds * (1 / self.duration_s)
        beside = {
            f"{dimension(name).attribute}_mean": amount
            for name, amount in held_mean.amounts.items()
            if name != CORES
        }
        return {
            "pas_mean": self.pas_mean,
            "cores_mean": self.core_seconds / self.duration_s,
            **beside,
            **({"usd_per_hour": self.prices.cost(held_mean)} if self.prices.is_money else {}),
            "violation_ratio": (late + lost) / sent if sent else 0.0,
            "lost": lost,
            **{
                f"latency_{name}_s": float(np.quantile(latencies_s, at)) if len(latencies_s) else None
                for name, at in QUANTILES.items()
            },
            "changes": self.changes,
            "requests": sent,
            "accuracy_mean": self.accuracy_mean,
            "failed_ticks": len(failed),
            "first_failure": failed[0] if failed else None,
            "decisions_by_reason": dict(sorted(Counter(it.reason.value for it in self.decisions).items())),
        }
