"""The built-in worlds: the machine, its monitoring, its room or the load is not what the loop expects.

Each takes a setup and returns it changed. Whatever comes and goes lasts a share of the run.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from math import ceil, inf

import numpy as np

from ipa.model.errors import UsageError
from ipa.simulate.ground_truth import SlowPeriod
from ipa.simulate.run import SimSetup, first_configs, inputs_of

# Twelfths of the run at which a neighbour comes, for a twentieth of it.
NEIGHBOUR_TWELFTHS, NEIGHBOUR_RATIO = (3, 7), 1 / 20
# A drift begins after a tenth of the run, and takes ten steps.
DRIFT_FROM_RATIO, DRIFT_STEP_RATIO, DRIFT_STEPS = 1 / 10, 1 / 20, 10
# Bursts: four times the rate for a fifth of the time, a quarter of it else; the mean is the load's.
BURST_RATIOS, BURST_STAYS_S = (0.25, 4.0), (4.0, 1.0)
# The scrapes of a Prometheus, and a rate over three of them.
LATE_SCRAPE_S, LATE_RATE_WINDOW_S = 5.0, 15.0
# The share of its throughput that a plan keeps in reserve where the bound leaves no room.
RESERVE_RATIO = 0.2
LEAST_BETWEEN_KILLS_S = 1.0


def as_profiled(setup: SimSetup) -> SimSetup:
    """The world that the profiles describe."""
    return setup


def slow(setup: SimSetup, ratio: float = 1.5) -> SimSetup:
    """All batches take `ratio` times as long as profiled."""
    return _slowed(setup, SlowPeriod(0.0, inf, ratio))


def slow_stage(setup: SimSetup, ratio: float = 1.5) -> SimSetup:
    """Batches of the first stage take `ratio` times as long as profiled."""
    return _slowed(setup, SlowPeriod(0.0, inf, ratio, setup.pipeline.served[0].name))


def slow_variant(setup: SimSetup, ratio: float = 1.5) -> SimSetup:
    """Batches of the variant that runs first at the last stage take `ratio` times as long as profiled."""
    config = setup.start[-1]
    return _slowed(setup, SlowPeriod(0.0, inf, ratio, config.stage, config.variant))


def drift(setup: SimSetup, ratio: float = 1.5) -> SimSetup:
    """Batches take longer and longer, up to `ratio` times as long past half of the run."""
    first_s, step_s = (len(setup.rates_rps) * share for share in (DRIFT_FROM_RATIO, DRIFT_STEP_RATIO))
    starts_s = (first_s + step * step_s for step in range(DRIFT_STEPS))
    # Ratios of periods that overlap multiply.
    return _slowed(setup, *(SlowPeriod(at_s, inf, ratio ** (1 / DRIFT_STEPS)) for at_s in starts_s))


def neighbours(setup: SimSetup, ratio: float = 2.0) -> SimSetup:
    """Batches take `ratio` times as long, twice for a twentieth of the run."""
    length_s = len(setup.rates_rps)
    starts_s = (length_s * twelfths / 12 for twelfths in NEIGHBOUR_TWELFTHS)
    return _slowed(setup, *(SlowPeriod(at_s, at_s + length_s * NEIGHBOUR_RATIO, ratio) for at_s in starts_s))


def _slowed(setup: SimSetup, *periods: SlowPeriod) -> SimSetup:
    return replace(setup, slow=(*setup.slow, *periods))


def bursts(setup: SimSetup) -> SimSetup:
    """Each second's rate is that of the state in which a Markov process is then."""
    rng, seconds = np.random.default_rng((setup.seed, 1)), len(setup.rates_rps)
    ratios: list[float] = []
    while len(ratios) < seconds:
        for ratio, stay_s in zip(BURST_RATIOS, BURST_STAYS_S, strict=True):
            ratios += [ratio] * int(rng.geometric(1 / stay_s))
    return replace(setup, rates_rps=tuple(np.asarray(setup.rates_rps) * ratios[:seconds]))


def late_metrics(setup: SimSetup, delay_s: float = 10.0) -> SimSetup:
    """Counters are scraped every 5 s at most, and known `delay_s` later."""
    metrics = replace(
        setup.metrics,
        scrape_interval_s=max(setup.metrics.scrape_interval_s, LATE_SCRAPE_S),
        delay_s=delay_s,
        rate_window_s=max(setup.metrics.rate_window_s, LATE_RATE_WINDOW_S),
    )
    return replace(setup, metrics=metrics)


def no_room(setup: SimSetup) -> SimSetup:
    """The bound on cores is what the plan of the highest rate takes: a change finds no cores beside it."""
    peak = replace(setup, rates_rps=(max(setup.rates_rps) / (1 - RESERVE_RATIO),))
    configs = first_configs(peak, inputs_of(peak))
    cores = float(ceil(sum(config.total_cores for config in configs)))
    bounds = replace(setup.pipeline.bounds, cores=cores, transition_cores=cores)
    return replace(setup, pipeline=replace(setup.pipeline, bounds=bounds))


def kills(setup: SimSetup, every_s: float = 60.0) -> SimSetup:
    """Every `every_s` seconds a serving pod dies, of one stage after another; its items wait again."""
    if every_s < LEAST_BETWEEN_KILLS_S:
        raise UsageError(f"world kills:{every_s:g}: at most one pod dies a second", hint="Write kills:60.")
    times_s = np.arange(every_s, len(setup.rates_rps), every_s).tolist()
    stages = cycle(stage.name for stage in setup.pipeline.served)
    killed = ((at_s, stage, 1) for at_s, stage in zip(times_s, stages, strict=False))
    return replace(setup, kills=(*setup.kills, *killed))
