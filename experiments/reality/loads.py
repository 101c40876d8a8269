"""The loads: those of the papers, and plain shapes of the same range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ipa.forecast.arrivals import WORKLOADS, steps, workload_rates
from ipa.simulate.columns import Floats

SECONDS = 1200
# The range of the smooth load on which the loop was found dearer than plain autoscalers.
LOW_RPS, HIGH_RPS = 2.0, 14.0
MEAN_RPS = (LOW_RPS + HIGH_RPS) / 2
NOISE_RPS = 2.0
PERIOD_S, SPIKE_S, STEP_S = 300, 30, 200


def _noise(rng: np.random.Generator) -> Floats:
    return np.clip(rng.normal(MEAN_RPS, NOISE_RPS, SECONDS), 0.0, None)


def _sine(rng: np.random.Generator) -> Floats:
    phase = rng.uniform(0, 2 * np.pi)
    return MEAN_RPS + (HIGH_RPS - MEAN_RPS) * np.sin(2 * np.pi * np.arange(SECONDS) / (SECONDS / 2) + phase)


def _periodic(rng: np.random.Generator) -> Floats:
    """The low rate, with a spike to the high one in each period."""
    at = (np.arange(SECONDS) + int(rng.integers(PERIOD_S))) % PERIOD_S
    return np.where(at < SPIKE_S, HIGH_RPS, LOW_RPS + 2.0)


def _stepped(rng: np.random.Generator) -> Floats:
    """Another rate, at random, in each step."""
    return steps(*((rate, STEP_S) for rate in rng.uniform(LOW_RPS, HIGH_RPS, SECONDS // STEP_S)))


SHAPES: dict[str, Callable[[np.random.Generator], Floats]] = {
    "constant": lambda rng: np.full(SECONDS, MEAN_RPS),
    "ramp": lambda rng: np.linspace(LOW_RPS, HIGH_RPS, SECONDS),
    "sine": _sine,
    "noise": _noise,
    "periodic": _periodic,
    "stepped": _stepped,
}
LOADS = (*SHAPES, *WORKLOADS)


def rates_of(load: str, seed: int) -> Floats:
    """The rates in rps of each second; InputError if there is no such load."""
    if load in SHAPES:
        return SHAPES[load](np.random.default_rng((seed, LOADS.index(load))))
    return workload_rates(load, seed=seed)
