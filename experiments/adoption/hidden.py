"""Hidden pipelines: what runs, what it truly takes, and a run of the loop that adopts one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial

import numpy as np
from numpy.typing import NDArray

from experiments.adoption.learning import Adopting
from ipa.control.engine.guards import GuardSettings
from ipa.model.pipeline import Bounds, Edge, Objective, Pipeline, Sla, Stage, Variant
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.policies.base import Policy
from ipa.policies.table import PolicyInputs
from ipa.profiling.priors import assumed_profiles
from ipa.settings import Settings
from ipa.simulate.realtime import moving_load
from ipa.simulate.run import SimResult, SimSetup, simulate

# The service's own loop.
SERVICE = GuardSettings(peek_s=Settings().peek_s, correct_profiles=Settings().correct_profiles)
TODAY = date(2026, 11, 30)
CORES, BATCHES = (0.5, 1.0, 2.0, 4.0), (1, 2, 4, 8, 16)
# Seconds until plans are to be as good as with all points, and those over which costs are compared.
LEARNING_S, COMPARED_S = 1200, 300
# Seconds for which cores and batch sizes are tried.
EXPLORED_S = 900
# The mean time of one item on a core, in seconds, and its logarithm's deviation.
ITEM_S, ITEM_DEVIATION = 0.03, 1.0
READINESS_S = 10.0


@dataclass(frozen=True, slots=True)
class Hidden:
    """A chain of stock Deployments: its pipeline, what runs, its load, and its profiles as they truly are."""

    pipeline: Pipeline
    running: tuple[StageConfig, ...]
    rates_rps: tuple[float, ...]
    truth: Mapping[str, StageProfile]


@dataclass(frozen=True, slots=True)
class Adopted:
    """One run: cores held after the learning, and the share of requests late while learning and after it."""

    cores: float
    late_learning: float
    late_after: float


def hidden(seed: int) -> Hidden:
    """A pipeline by chance: stages, times, cores, replicas as somebody chose them, SLA and load."""
    rng = np.random.default_rng((seed, 500))
    names = ("detect", "classify", "answer")[: int(rng.integers(1, 4))]
    rate_rps = float(np.exp(rng.uniform(np.log(5), np.log(100))))
    truth, running, service_s = dict[str, StageProfile](), list[StageConfig](), 0.0
    for name in names:
        item_s = float(ITEM_S * np.exp(ITEM_DEVIATION * rng.normal()))
        of_cores, of_batch = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.2, 1.0))
        tail_ratio, cores = float(rng.uniform(1.1, 1.8)), float(rng.choice(CORES[1:3]))
        points = [
            ProfilePoint(of, size, mean_s * tail_ratio, mean_s)
            for of in CORES
            for size in BATCHES
            for mean_s in [item_s * of**-of_cores * size**of_batch]
        ]
        variant = VariantProfile("v1", 1.0, tuple(points), READINESS_S)
        truth[name] = StageProfile("shop", name, (variant,), "hidden", TODAY, "hidden", "hidden")
        mean_s = item_s * cores**-of_cores
        replicas = int(np.ceil(1.3 * rate_rps * mean_s / rng.uniform(0.4, 0.8)))
        running.append(StageConfig(name, "v1", 1, cores, max(replicas, 2)))
        service_s += mean_s * tail_ratio
    stages = tuple(
        Stage(name, (Variant("v1"),), after=(Edge(names[at - 1]),) if at else ())
        for at, name in enumerate(names)
    )
    sla_s = round(float(service_s * rng.uniform(4, 10)), 2)
    pipeline = Pipeline("shop", stages, Sla(sla_s), {"default": Objective()}, Bounds())
    rates_rps = moving_load(rate_rps * 0.7, rate_rps * 1.3, LEARNING_S + COMPARED_S, seed)
    return Hidden(pipeline, tuple(running), tuple(map(float, rates_rps)), truth)


def run(
    it: Hidden,
    seed: int,
    policy: str | Callable[[PolicyInputs], Policy],
    profiles: Mapping[str, StageProfile],
    guards: GuardSettings = SERVICE,
) -> Adopted:
    """The loop on the pipeline, that starts as it runs, with these profiles."""
    return _figures(simulate(setup_of(it, seed, policy, profiles, guards)), LEARNING_S)


def setup_of(
    it: Hidden,
    seed: int,
    policy: str | Callable[[PolicyInputs], Policy],
    profiles: Mapping[str, StageProfile],
    guards: GuardSettings = SERVICE,
) -> SimSetup:
    """All that the simulator is told."""
    return SimSetup(
        it.pipeline,
        profiles,
        it.rates_rps,
        policy,
        seed=seed,
        guards=guards,
        start=it.running,
        truth=it.truth,
    )


def run_learning(it: Hidden, seed: int, profiles: Mapping[str, StageProfile]) -> Adopted:
    """The loop that tries cores and batch sizes for EXPLORED_S, then `ours` with what it learned."""
    believed: list[dict[str, StageProfile]] = []
    first = replace(it, rates_rps=it.rates_rps[:EXPLORED_S])
    policy = partial(Adopting, tell=believed.append)
    tried = simulate(setup_of(first, seed, policy, profiles, replace(SERVICE, correct_profiles=False)))
    then = replace(it, rates_rps=it.rates_rps[EXPLORED_S:], running=tried.decisions[-1].configs)
    after = _figures(simulate(setup_of(then, seed, "ours", believed[-1])), LEARNING_S - EXPLORED_S)
    late = EXPLORED_S / LEARNING_S * float(_late(tried).mean())
    return replace(after, late_learning=late + (1 - EXPLORED_S / LEARNING_S) * after.late_learning)


def _late(result: SimResult) -> NDArray[np.bool_]:
    """True for requests that were late or lost."""
    return ~(result.done_s - result.born_s <= result.sla_s)


def _figures(result: SimResult, learning_s: int) -> Adopted:
    late, learning = _late(result), result.born_s < learning_s
    cores = [tick.cores for tick in result.ticks if tick.at_s >= learning_s]
    return Adopted(float(np.mean(cores)), float(late[learning].mean()), float(late[~learning].mean()))


def as_imported(it: Hidden) -> tuple[Pipeline, dict[str, StageProfile]]:
    """The pipeline and its profiles as `ipa import` assumes them, by the load of the first minute."""
    rate_rps = float(np.mean(it.rates_rps[:60]))
    names = [stage.name for stage in it.pipeline.stages]
    pipeline, profiles, _ = assumed_profiles(
        it.pipeline,
        it.running,
        dict.fromkeys(names, rate_rps),
        {},
        (),
        dict.fromkeys(names, 1.0),
        [names],
        TODAY,
    )
    return pipeline, {profile.stage: profile for profile in profiles}


def as_running(it: Hidden) -> dict[str, StageProfile]:
    """The true profiles of the cores and batch sizes that run, and of no others."""
    configs = {config.stage: config for config in it.running}

    def cut(variant: VariantProfile, config: StageConfig) -> VariantProfile:
        points = (each for each in variant.points if (each.cores, each.batch_size) == (config.cores, 1))
        return replace(variant, points=tuple(points))

    return {
        name: replace(profile, variants=tuple(cut(each, configs[name]) for each in profile.variants))
        for name, profile in it.truth.items()
    }
