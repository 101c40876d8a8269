"""Replicas of less than a core: the formula against the simulator, and in which direction it goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.queueing.in_replica import sojourn_in_replica
from ipa.queueing.service import ServiceTime
from ipa.queueing.tail import Sojourn, sojourn, sojourn_with_quota
from ipa.simulate.stage import Pods, StageSim

REQUESTS, WARM = 30_000, 2_000
# The squared coefficient of variation of service times, and what their 99th percentile then is of their mean.
SPREAD = 0.01
TAIL = 1.25
TIMEOUT_S = 0.01
FORMULAS = {"central": sojourn, "replica": sojourn_in_replica}


def predicted(
    queue: str,
    batch_size: int,
    replicas: int,
    quota: float,
    full_s: float,
    one_s: float,
    rate_rps: float,
    machine_cores: float = np.inf,
) -> Sojourn:
    numbers = (quota, batch_size, replicas, full_s, TAIL * full_s, rate_rps, TIMEOUT_S, one_s, 1.0)
    own, *columns, timeout, one, items = (np.array([value], dtype=np.float64) for value in numbers)
    return sojourn_with_quota(
        FORMULAS[queue],
        own,
        machine_cores,
        *columns,
        items=items,
        timeout_s=timeout,
        percentile=99.0,
        service_one_s=one,
    )


def simulated_s(
    queue: str, batch_size: int, replicas: int, quota: float, full_s: float, one_s: float, rate_rps: float
) -> tuple[float, float]:
    """Mean and 99th percentile of the time at the stage."""
    times = np.cumsum(np.random.default_rng(3).exponential(1 / rate_rps, REQUESTS))
    stage = StageSim(queue=queue, batch_timeout_s=TIMEOUT_S if batch_size > 1 else 0.0, seed=4)
    stage.set_replicas(0.0, [Pods(replicas, batch_size, ServiceTime(full_s, one_s, SPREAD, quota))])
    stage.offer(times, np.arange(REQUESTS))
    served = stage.run(1e9)
    took_s = (served.done_s - served.born_s)[served.ids >= WARM]
    return float(np.mean(took_s)), float(np.quantile(took_s, 0.99))


POINTS = [
    # Queue, batch size, replicas, quota, time of a full batch and of one, rate.
    ("central", 1, 1, 0.5, 0.02, 0.02, 15.0),
    ("central", 1, 3, 0.5, 0.03, 0.03, 12.0),
    ("central", 1, 1, 0.5, 0.25, 0.25, 3.0),
    ("central", 4, 2, 0.25, 0.05, 0.02, 60.0),
    ("replica", 1, 1, 0.5, 0.03, 0.03, 14.0),
    ("replica", 1, 2, 0.5, 0.12, 0.12, 10.0),
    ("replica", 1, 3, 0.25, 0.12, 0.12, 8.0),
    ("replica", 4, 2, 0.5, 0.05, 0.02, 60.0),
]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_mean_and_tail_are_near_those_of_the_simulator(
    point: tuple[str, int, int, float, float, float, float],
) -> None:
    sojourn, (mean_s, tail_s) = predicted(*point), simulated_s(*point)
    assert sojourn.mean_s[0] == pytest.approx(mean_s, rel=0.2)
    assert 0.85 * tail_s <= sojourn.quantile_s[0] <= 1.3 * tail_s
    # Without what is saved up while idle both are far too long.
    queue, batch_size, replicas, _, full_s, one_s, rate_rps = point
    (busy_s,) = FORMULAS[queue](
        *(np.array([it]) for it in (batch_size, replicas, full_s, TAIL * full_s, rate_rps)),
        items=np.ones(1),
        timeout_s=np.array([TIMEOUT_S]),
        percentile=99.0,
        service_one_s=np.array([one_s]),
    ).mean_s
    assert busy_s > 1.3 * mean_s


@pytest.mark.parametrize(
    "point",
    [
        ("central", 8, 1, 0.5, 0.035, 0.01, 185.0),
        ("central", 16, 1, 0.25, 0.048, 0.019, 110.0),
        ("central", 2, 1, 0.25, 0.02, 0.018, 80.0),
    ],
    ids=str,
)
def test_small_batches_at_full_speed_use_up_what_is_saved(
    point: tuple[str, int, int, float, float, float, float],
) -> None:
    sojourn, (mean_s, tail_s) = predicted(*point), simulated_s(*point)
    assert 0.7 * mean_s <= sojourn.mean_s[0] <= 1.45 * mean_s
    assert 0.85 * tail_s <= sojourn.quantile_s[0] <= 1.3 * tail_s


def test_a_machine_without_cores_to_spare_is_as_quick_as_the_quota() -> None:
    """A replica of half a core shares the machine with one of another stage."""
    point = ("central", 1, 1, 0.5, 0.2, 0.2, 3.0)
    times_s = [float(predicted(*point, machine_cores).mean_s[0]) for machine_cores in (1.0, 1.5, 2.0, np.inf)]
    own_s = float(sojourn(1, 1, 0.2, TAIL * 0.2, 3.0, timeout_s=TIMEOUT_S).mean_s)
    assert times_s[0] == pytest.approx(own_s)
    assert times_s[0] > times_s[1] > times_s[2] == times_s[3]


def test_a_replica_is_overloaded_at_the_rate_of_its_quota() -> None:
    assert predicted("central", 1, 1, 0.5, 0.1, 0.1, 9.9).mean_s < np.inf
    assert predicted("central", 1, 1, 0.5, 0.1, 0.1, 10.1).quantile_s == np.inf


@given(
    quota=st.floats(0.1, 0.95),
    one_s=st.floats(0.002, 0.5),
    busy=st.floats(0.05, 0.95),
    replicas=st.integers(1, 6),
    batch_size=st.sampled_from([1, 2, 8]),
)
def test_more_replicas_and_quicker_ones_are_never_later(
    quota: float, one_s: float, busy: float, replicas: int, batch_size: int
) -> None:
    full_s = one_s * (1 + 0.5 * (batch_size - 1))
    rate_rps = busy * replicas * batch_size / full_s
    given = ("central", batch_size, replicas, quota, full_s, one_s, rate_rps)
    here = predicted(*given)
    more = predicted("central", batch_size, replicas + 1, quota, full_s, one_s, rate_rps)
    quicker = predicted("central", batch_size, replicas, quota, 0.9 * full_s, 0.9 * one_s, rate_rps)
    assert here.excess_s >= 0
    for better in (more, quicker):
        assert better.mean_s <= here.mean_s + 1e-9
        assert better.quantile_s <= here.quantile_s + 1e-9
