"""The configurations of the scorecard: plans for random loads, some of their parts pinned at random."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.policies.base import pinned
from ipa.policies.profiled import PlannerInputs, Profiled

# Loads, as shares of the most that any plan carries: from nearly idle to nearly all.
LEAST_LOAD, MOST_LOAD = 0.05, 0.85
# The share of draws in which a stage has a variant, and a batch size, that the planner did not choose.
PINNED_RATIO = 0.5
# Draws for one configuration before there are too few different ones.
TRIES = 40


class Place(StrEnum):
    """Where a configuration runs."""

    QUIET = "local, quiet"
    ONE_LOOP = "local, one busy loop"
    TWO_LOOPS = "local, two busy loops"
    SINGLE = "Seldon, single"
    SPLIT = "Seldon, split"

    @property
    def loops(self) -> int:
        """The busy loops beside it."""
        return {Place.ONE_LOOP: 1, Place.TWO_LOOPS: 2}.get(self, 0)

    @property
    def is_local(self) -> bool:
        """True for processes without a cluster."""
        return self not in (Place.SINGLE, Place.SPLIT)


# Configurations by place; together 30 a pipeline.
COUNTS = {Place.QUIET: 12, Place.ONE_LOOP: 4, Place.TWO_LOOPS: 4, Place.SINGLE: 5, Place.SPLIT: 5}
QUICK_COUNTS = {Place.QUIET: 3, Place.ONE_LOOP: 1, Place.SPLIT: 1}


@dataclass(frozen=True, slots=True)
class Draw:
    """A configuration, and the rate of requests that it is given."""

    rate_rps: float
    configs: tuple[StageConfig, ...]


def draws(
    pipeline: Pipeline, profiles: Mapping[str, StageProfile], most_rps: float, count: int, seed: int
) -> list[Draw]:
    """That many different plans for loads up to MOST_LOAD of `most_rps`; fewer if there are, which it says.

    A shape whose own parts take the cores of the bounds may have no plan at all.
    """
    rng = np.random.default_rng(seed)
    planned = Profiled(PlannerInputs(pipeline, profiles, solver="exact", explain=False))
    made: dict[tuple[StageConfig, ...], Draw] = {}
    for _ in range(TRIES * count):
        if len(made) == count:
            break
        rate_rps = most_rps * float(np.exp(rng.uniform(np.log(LEAST_LOAD), np.log(MOST_LOAD))))
        plan = planned.plan(pinned(pipeline, _pins(pipeline, rng)), rate_rps)
        if plan.stages:
            made.setdefault(plan.configs, Draw(rate_rps, plan.configs))
    if len(made) < count:
        print(f"{pipeline.name} has only {len(made)} different plans, {count} are wanted", file=sys.stderr)
    return list(made.values())


def _pins(pipeline: Pipeline, rng: np.random.Generator) -> Sequence[tuple[str, Pin]]:
    pins = []
    for stage in pipeline.served:
        variant = str(rng.choice([it.name for it in stage.variants])) if _chosen(rng) else None
        sizes = [] if stage.unbatched else list(pipeline.bounds.batch_sizes or ())
        batch_size = int(rng.choice(sizes)) if sizes and _chosen(rng) else None
        pins.append((stage.name, Pin(variant=variant, batch_size=batch_size)))
    return pins


def _chosen(rng: np.random.Generator) -> bool:
    return bool(rng.random() < PINNED_RATIO)
