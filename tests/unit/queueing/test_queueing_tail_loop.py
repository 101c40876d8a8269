"""The event loop keeps the queue's rules, and the formula agrees with the event loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.queueing.__main__ import NEAR, errors
from experiments.queueing.paths import draw_path, measure_path
from experiments.queueing.points import draw, measure
from experiments.queueing.stage_loop import MANY, StageRules, item_counts, run_stage, service_factors
from ipa.serving.batching import Batcher
from tests.fakes.replayed import replay


@pytest.mark.parametrize("seed", range(6))
def test_the_event_loop_keeps_the_rules_of_the_data_plane(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, replicas = int(rng.choice([1, 2, 4, 8])), int(rng.integers(1, 5))
    items, timeout = float(rng.choice([1.0, 2.5, 7.0])), float(rng.choice([0.0, 0.3, 2.0]))
    rules = StageRules(size, replicas, 0.8 * replicas * size / items, 0.3 * replicas / items, 0.1, timeout)
    arrivals = np.cumsum(rng.exponential(1.0, 400))
    counts = item_counts(rng, items, 400)
    factors = service_factors(rng, 0.1, int(counts.sum()))
    batcher, loads = Batcher(size, timeout, 10**9), (arrivals.tolist(), counts.tolist())
    _, expected = replay(batcher, *loads, replicas, rules.service_of, factors.tolist())
    assert run_stage(arrivals, counts, rules, factors) == pytest.approx(expected, rel=1e-12)


def test_a_long_run_of_the_event_loop_begins_as_a_short_one() -> None:
    """Long runs are compiled if numba is installed."""
    rng = np.random.default_rng(7)
    rules, counts = StageRules(8, 3, 8.0, 3.0, 0.1, 2.0), np.full(MANY // 2, 2)
    arrivals, factors = np.cumsum(rng.exponential(1.0, len(counts))), service_factors(rng, 0.1, MANY)
    short = run_stage(arrivals[:400], counts[:400], rules, factors)
    assert np.array_equal(run_stage(arrivals, counts, rules, factors)[:380], short[:380])


def test_the_formula_agrees_with_the_event_loop_at_random_stages() -> None:
    """`python -m experiments.queueing` does the same with longer runs and no allowance for noise."""
    made = [measure(draw(np.random.default_rng([79, index])), index, effort=0.1) for index in range(20)]
    noise = 2.0 * np.array([each.error / each.quantiles[3] for each in made])
    error = errors(made)
    assert np.mean(np.abs(error) <= NEAR + noise) >= 0.95
    assert np.all(error >= -NEAR - noise)


def test_a_paths_quantile_is_near_what_the_event_loop_measures_where_batches_are_small() -> None:
    made = []
    for index in range(3):
        stages = draw_path(np.random.default_rng([78, index]))
        single = tuple(
            replace(stage, batch_size=1, one=1.0, rate=stage.load * stage.replicas) for stage in stages
        )
        made.append(measure_path(single, index, 60_000))
    assert all(-NEAR <= path.error_ratio <= 2.0 * NEAR for path in made)
    assert all(abs(path.correlated_ratio) <= NEAR for path in made)
