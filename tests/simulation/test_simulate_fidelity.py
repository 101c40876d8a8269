"""The simulator against closed forms; request by request against SimPy, Ciw and the data plane's batcher."""

from __future__ import annotations

from math import factorial, inf

import ciw
import numpy as np
import pytest
import simpy
from numpy.typing import NDArray

from ipa.forecast.arrivals import request_times
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.queueing.service import ServiceTime
from ipa.serving.batching import Batcher, Outcome
from ipa.simulate.columns import Items
from ipa.simulate.graph import PipelineSim
from ipa.simulate.queue import SPREAD, Pods
from ipa.simulate.stage import StageSim
from tests.fakes.replayed import replay
from tests.fakes.simpy_stage import SimpyStage, feed

# Two simulators that add up the same numbers in another order may differ by so much.
SAME_S = 1e-9
# The t quantile for a two-sided 99 % interval over so many seeds. Ten are too few: queues are so correlated
# that the spread of ten means says little.
SEEDS, T = 40, 2.708


def poisson(rate: float, count: int, seed: int) -> NDArray[np.float64]:
    return np.cumsum(np.random.default_rng([seed, 9]).exponential(1 / rate, count))


def factors(seed: int, spread: float, count: int) -> NDArray[np.float64]:
    """Those that a stage of that seed draws for its first spread."""
    return np.random.default_rng((seed, 0)).gamma(1 / spread, spread, count)


def run_stage(times: NDArray[np.float64], pods: Pods, seed: int, **rules: object) -> Items:
    stage = StageSim(seed=seed, **rules)  # type: ignore[arg-type]
    stage.set_replicas(0.0, [pods])
    stage.offer(times, np.arange(len(times)))
    return stage.run(1e9)


def mean_sojourn(rate: float, pods: Pods, timeout_s: float) -> tuple[float, float]:
    """The mean time at a stage, and half its 99 % confidence interval."""
    means = []
    for seed in range(SEEDS):
        served = run_stage(poisson(rate, 60_000, seed), pods, seed, batch_timeout_s=timeout_s)
        warm = served.ids >= 5_000
        means.append(np.mean((served.done_s - served.born_s)[warm]))
    return float(np.mean(means)), T * float(np.std(means, ddof=1)) / SEEDS**0.5


def erlang_c(servers: int, load: float) -> float:
    """The probability of waiting; `load` is rate times service time."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / factorial(k) for k in range(servers)) + last)


def root(equation: object) -> float:
    """The least solution of an equation x = f(x) with f rising on (0, 1) and f(0) > 0."""
    x = 0.0
    for _ in range(10_000):
        x = equation(x)  # type: ignore[operator]
    return x


def full_batches(rate: float, size: int, service: float) -> float:
    """Only full batches, exponential service: forming, and then the queue E_b/M/1 by its root."""
    sigma = root(lambda x: (rate / (rate + (1 - x) / service)) ** size)
    return (size - 1) / (2 * rate) + service / (1 - sigma)


def what_is_there(rate: float, size: int, service: float) -> float:
    """Batches of what is there, 1 to b items, exponential service; by the chain of (busy, waiting).

    With k waiting behind a busy server the chance falls by a root r a step (Bailey 1954): r is the least
    solution of (λ + μ) r = λ + μ r^(b+1), and the idle chance follows from the flow into busy.
    """
    mu = 1 / service
    r = root(lambda x: (rate + mu * x ** (size + 1)) / (rate + mu))
    # p(busy, k) = c r^k; rate p(idle) = mu c; the sum is one.
    c = 1 / (mu / rate + 1 / (1 - r))
    waiting = c * r / (1 - r) ** 2
    return waiting / rate + service


CLOSED = {
    "M/M/1": (0.8, Pods(1, 1, ServiceTime(1.0, 1.0, 1.0)), inf, 5.0),
    "M/D/1": (0.8, Pods(1, 1, ServiceTime(1.0, 1.0)), inf, 1 + 0.8 / (2 * 0.2)),
    "M/M/4": (3.2, Pods(4, 1, ServiceTime(1.0, 1.0, 1.0)), inf, 1 + erlang_c(4, 3.2) / 0.8),
    "M/M^4/1, full": (3.0, Pods(1, 4, ServiceTime(1.0, 1.0, 1.0)), inf, full_batches(3.0, 4, 1.0)),
    "M/M^4/1, what is there": (3.0, Pods(1, 4, ServiceTime(1.0, 1.0, 1.0)), 0.0, what_is_there(3.0, 4, 1.0)),
}


@pytest.mark.parametrize("name", CLOSED)
def test_the_mean_time_is_that_of_the_closed_form(name: str) -> None:
    rate, pods, timeout_s, expected = CLOSED[name]
    mean, half = mean_sojourn(rate, pods, timeout_s)
    assert half < 0.07 * expected
    assert abs(mean - expected) <= half


@pytest.mark.parametrize("seed", range(12))
def test_a_stage_is_equal_to_simpy_request_by_request(seed: int) -> None:
    rng = np.random.default_rng([seed, 1])
    size, replicas = int(rng.choice([1, 2, 4, 8])), int(rng.integers(1, 5))
    drop = ("none", "request", "batch")[seed % 3]
    timeout, drop_after = float(rng.choice([0.0, 0.3, 2.0])), float(rng.choice([2.0, 4.0, 8.0]))
    service = ServiceTime(0.95 * replicas * size, 0.6 * replicas, 0.2)
    times = poisson(1.0, 3000, seed)
    pods = Pods(replicas, size, service)
    queue, drop_after_s = "batch" if drop == "batch" else "central", None if drop == "none" else drop_after
    served = run_stage(times, pods, seed, batch_timeout_s=timeout, queue=queue, drop_after_s=drop_after_s)
    env = simpy.Environment()
    other = SimpyStage(
        env,
        size,
        replicas,
        timeout,
        service.means_s(size),
        factors(seed, 0.2, 3000).tolist(),
        drop,
        drop_after,
    )
    feed(env, other, times.tolist())
    env.run()
    assert set(served.ids[served.lost].tolist()) == other.dropped
    assert len(served.ids) == 3000
    assert drop == "none" or other.dropped
    is_served = ~served.lost
    expected = np.array([other.done_s[request] for request in served.ids[is_served].tolist()])
    # Where a batch takes longer than a request may, none is kept.
    assert np.max(np.abs(served.done_s[is_served] - expected), initial=0.0) <= SAME_S


@pytest.mark.parametrize("timeout_s", [0.0, 2.0, 20.0])
def test_queues_in_replicas_are_equal_to_so_many_stages_in_simpy(timeout_s: float) -> None:
    """Batches that are made when they are due, whether their replica is busy or not."""
    service, times = ServiceTime(2.7 * 4, 4.0, 0.2), poisson(0.5, 3000, 8)
    served = run_stage(times, Pods(3, 4, service), 8, queue="replica", batch_timeout_s=timeout_s)
    lanes = (np.random.default_rng((8, SPREAD)).random(3000) * 3).astype(np.int64)
    done: dict[int, float] = {}
    for lane in range(3):
        env = simpy.Environment()
        draws = np.random.default_rng((8, 1, lane, 0)).gamma(5.0, 0.2, 3000).tolist()
        other = SimpyStage(env, 4, 1, timeout_s, service.means_s(4), draws, seals=True)
        mine = np.flatnonzero(lanes == lane)
        feed(env, other, times[mine].tolist())
        env.run()
        done |= {int(mine[request]): end for request, end in other.done_s.items()}
    assert len(served.ids) == 3000
    expected = np.array([done[request] for request in served.ids.tolist()])
    assert np.max(np.abs(served.done_s - expected)) <= SAME_S


def test_a_chain_is_equal_to_simpy_request_by_request() -> None:
    variants = (Variant("v"),)
    stages = chain([Stage("a", variants, batch_timeout_s=0.5), Stage("b", variants, batch_timeout_s=1.0)])
    pipeline = Pipeline("p", stages, Sla(1.0), {"default": Objective()}, drop_after_s=9.0)
    one, two = ServiceTime(6.8, 3.0, 0.1), ServiceTime(3.4, 2.0, 0.3)
    times = poisson(1.0, 4000, 4)
    sim = PipelineSim(pipeline, seed=5)
    sim.set_replicas("a", 0.0, [Pods(2, 4, one)])
    sim.set_replicas("b", 0.0, [Pods(1, 4, two)])
    sim.offer(times)
    finished = sim.run(1e6)
    env = simpy.Environment()
    draws = [np.random.default_rng((5, 0, at, 0)) for at in (0, 1)]
    second = SimpyStage(
        env, 4, 1, 1.0, two.means_s(4), draws[1].gamma(1 / 0.3, 0.3, 4000).tolist(), "request", 9.0
    )
    first = SimpyStage(
        env, 4, 2, 0.5, one.means_s(4), draws[0].gamma(10, 0.1, 4000).tolist(), "request", 9.0, second.arrive
    )
    feed(env, first, times.tolist())
    env.run()
    assert set(finished.ids[finished.lost].tolist()) == first.dropped | second.dropped
    assert first.dropped
    assert second.dropped
    is_served = ~finished.lost
    expected = np.array([second.done_s[request] for request in finished.ids[is_served].tolist()])
    assert np.max(np.abs(finished.done_s[is_served] - expected)) <= SAME_S


@pytest.mark.parametrize("servers", [1, 3])
def test_a_chain_of_single_requests_is_equal_to_ciw_request_by_request(servers: int) -> None:
    count, seed = 2000, 6
    times = poisson(1.0, count, seed)
    pipeline = Pipeline(
        "p",
        chain([Stage("a", (Variant("v"),)), Stage("b", (Variant("v"),))]),
        Sla(1.0),
        {"default": Objective()},
    )
    service_s = 0.85 * servers
    sim = PipelineSim(pipeline, seed=seed)
    for stage in ("a", "b"):
        sim.set_replicas(stage, 0.0, [Pods(servers, 1, ServiceTime(service_s, service_s, 0.5))])
    sim.offer(times)
    finished = sim.run(1e6)
    draws = [np.random.default_rng((seed, 0, at, 0)).gamma(2.0, 0.5, count) * service_s for at in (0, 1)]
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*np.diff(times, prepend=0.0).tolist(), inf]), None],
        service_distributions=[ciw.dists.Sequential(each.tolist()) for each in draws],
        routing=[[0.0, 1.0], [0.0, 0.0]],
        number_of_servers=[servers, servers],
    )
    other = ciw.Simulation(network)
    other.simulate_until_max_customers(count, method="Finish")
    records = {each.id_number - 1: each for each in other.get_all_records() if each.node == 2}
    assert len(records) == len(finished.ids) == count
    expected = np.array([records[request].exit_date for request in finished.ids.tolist()])
    assert np.max(np.abs(finished.done_s - expected)) <= SAME_S


@pytest.mark.parametrize(
    ("seed", "usual_s"), [*((seed, None) for seed in range(9)), *((seed, 3.0) for seed in range(6))]
)
def test_a_stage_is_equal_to_the_data_planes_own_batcher(seed: int, usual_s: float | None) -> None:
    """Requests of several items, and early drop one by one; or more requests than are served.

    Of these some give way: a batch takes at most 3 s as a rule.
    """
    rng = np.random.default_rng([seed, 2])
    size, replicas = int(rng.choice([1, 2, 4])), int(rng.integers(1, 4))
    timeout_s, rate = float(rng.choice([0.0, 0.3, 2.0])), 1.0 if usual_s is None else 4.0
    times, items = poisson(rate, 500, seed), rng.integers(1, 6 if usual_s is None else 2, 500)
    service = ServiceTime(0.4 * replicas * size, 0.2 * replicas, 0.1)
    queue = "central" if usual_s is None else "deadline"
    stage = StageSim(batch_timeout_s=timeout_s, drop_after_s=8.0, queue=queue, seed=seed)
    stage.set_replicas(0.0, [Pods(replicas, size, service)])
    stage.set_give_way(0.0, inf if usual_s is None else 8.0 - usual_s)
    stage.offer(times, np.arange(500), items=items)
    served = stage.run(1e6)
    requests, ends = replay(
        Batcher(size, timeout_s, 10**9),
        times.tolist(),
        items.tolist(),
        replicas,
        lambda count: service.mean_s(count, size),
        factors(seed, 0.1, 2500).tolist(),
        8.0,
        usual_s,
    )
    dropped = {at for at, request in enumerate(requests) if request.outcome is Outcome.DROPPED}
    assert set(served.ids[served.lost].tolist()) == dropped
    assert len(dropped) > (0 if usual_s is None else 100)
    assert len(served.ids) == 500
    is_served = ~served.lost
    expected = np.array([ends[request] for request in served.ids[is_served].tolist()])
    assert np.max(np.abs(served.done_s[is_served] - expected)) <= SAME_S


def test_poisson_requests_spread_as_a_poisson_process() -> None:
    times = request_times(np.full(20_000, 5.0), "poisson", seed=3)
    gaps = np.diff(times)
    assert abs(np.mean(gaps) * 5 - 1) < 0.01
    assert abs(np.std(gaps) / np.mean(gaps) - 1) < 0.01
