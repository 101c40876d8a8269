"""The service times that a run's queues saw, and the profiles with which a simulation sees the same.

A profile is measured on a quiet machine, in another hour; with it a simulation says what a plan will do. With
the service times of the run itself the simulator alone is compared: batches, queues, the change, lateness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from experiments.fidelity.case import Case
from ipa.model.profile import Slowdown, Slowdowns, StageProfile

SERVICE = "ipa_queue_service_seconds"
# After the change what began before it still ends.
SETTLE_S = 6.0
# The mean of a simulation follows the ratio nearly in proportion, so few steps do.
STEPS = 8
LEAST_BATCHES = 20


@dataclass(frozen=True, slots=True)
class Total:
    """Batches that a stage's replicas have served, and how long that took in all."""

    batches: float = 0.0
    seconds: float = 0.0

    def since(self, before: Total) -> float | None:
        """The mean seconds of a batch since then; None where too few were served."""
        batches = self.batches - before.batches
        return (self.seconds - before.seconds) / batches if batches >= LEAST_BATCHES else None


# By stage.
Totals = Mapping[str, Total]
# The mean seconds of a batch, by stage and variant.
Means = Mapping[tuple[str, str], float]


def read_totals(targets: Sequence[str]) -> Totals:
    """The present counts of the queues at those addresses (host:port)."""
    by_stage: dict[str, dict[str, float]] = {}
    for target in targets:
        text = httpx.get(f"http://{target}/metrics").raise_for_status().text
        for family in text_string_to_metric_families(text):
            for sample in family.samples if family.name == SERVICE else ():
                of_stage = by_stage.setdefault(sample.labels["stage"], {})
                of_stage[sample.name] = of_stage.get(sample.name, 0.0) + sample.value
    return {
        stage: Total(values[f"{SERVICE}_count"], values[f"{SERVICE}_sum"])
        for stage, values in by_stage.items()
    }


def means_of(case: Case, start: Totals, changed: Totals, settled: Totals, end: Totals) -> Means:
    """The mean service of each variant before and after the change, what the change disturbed left out.

    One that ran in both halves has the later mean, in which more was served.
    """
    means: dict[tuple[str, str], float] = {}
    for configs, first, last in ((case.before, start, changed), (case.after, settled, end)):
        for config in configs:
            mean_s = last[config.stage].since(first[config.stage])
            if mean_s is not None:
                means[config.stage, config.variant] = mean_s
    return means


def fitted(
    profiles: Mapping[str, StageProfile],
    observed: Means,
    simulate: Callable[[Mapping[str, StageProfile]], Means],
) -> tuple[Mapping[str, StageProfile], Slowdowns]:
    """The profiles with which `simulate` has the mean service times that were seen, and how much slower.

    By steps: a CPU quota saves something up while its replica is idle, so the ratio of the times is not that
    of the means.
    """
    ratios = dict.fromkeys(observed, 1.0)
    tried = profiles
    for _ in range(STEPS):
        means = simulate(tried)
        for key in observed.keys() & means.keys():
            ratios[key] *= observed[key] / means[key]
        slowdowns = tuple(Slowdown(stage, variant, ratio) for (stage, variant), ratio in ratios.items())
        tried = {name: profile.slowed(slowdowns) for name, profile in profiles.items()}
    return tried, slowdowns
