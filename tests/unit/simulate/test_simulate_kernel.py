"""However a run is computed or cut, its results are equal to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.queueing.service import ServiceTime
from ipa.simulate import kernel
from ipa.simulate.columns import Items
from ipa.simulate.kernel import KernelDriver, LazyDriver, ServiceNoise, drive_compiled, drive_plain
from ipa.simulate.queue import Pods, QueueSim
from ipa.simulate.stage import StageSim
from tests.amounts import many

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")

MOMENTS = st.floats(0.0, 60.0)
# Each second of a run, and what is left after it.
COUNTED_S = (*range(120), 200, 500, 1000, 10_000)
GROUPS = st.builds(
    Pods,
    count=st.integers(0, 4),
    batch_size=st.sampled_from([1, 2, 4, 8]),
    service=st.builds(
        ServiceTime,
        full_s=st.floats(0.2, 3.0),
        one_s=st.floats(0.1, 2.0),
        spread=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    ),
)
CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "requests": st.integers(0, 300),
        "most_items": st.integers(1, 5),
        "rounding": st.sampled_from([None, 0, 1]),
        "rules": st.fixed_dictionaries(
            {
                "batch_timeout_s": st.sampled_from([0.0, 0.5, 3.0, float("inf")]),
                "drop_after_s": st.sampled_from([None, 2.0, 10.0]),
                "queue": st.sampled_from(["central", "deadline", "batch", "replica"]),
            }
        ),
        "sets": st.lists(st.tuples(MOMENTS, st.lists(GROUPS, max_size=3)), max_size=4),
        "fail": st.lists(st.tuples(MOMENTS, st.integers(1, 2)), max_size=2),
    }
)


def run_case(case: dict, kernel: KernelDriver, cuts: list[float]) -> list[np.ndarray]:
    """All that can be seen of a run, in columns."""
    rng = np.random.default_rng([case["seed"], 7])
    times = np.sort(rng.uniform(0.0, 60.0, case["requests"]))
    if case["rounding"] is not None:  # several at once, and at the moments of cuts and changes
        times = np.round(times, case["rounding"])
    born = np.sort(times - rng.uniform(0.0, 3.0, len(times)))
    stage = StageSim(seed=case["seed"], kernel=kernel, **case["rules"])
    many = case["most_items"] > 1
    items = rng.integers(0, case["most_items"] + 1, len(times)) if many else None
    stage.offer(times, np.arange(len(times)), born, items)
    parts: list[Items] = []
    steps: list[tuple[float, Callable[[float], object]]] = []
    if case["rules"]["queue"] == "deadline":
        steps += [(0.0, lambda at_s: stage.set_give_way(at_s, 1.0))]
        steps += [(30.0, lambda at_s: stage.set_give_way(at_s, 3.0))]
    for at_s, groups in case["sets"]:
        named = [Pods(g.count, g.batch_size, g.service, f"g{at}") for at, g in enumerate(groups)]
        steps.append((at_s, partial(stage.set_replicas, pods=named)))
    steps += [(at_s, partial(stage.fail, name="g0", count=count)) for at_s, count in case["fail"]]
    steps += [(cut, lambda at_s: parts.append(stage.run(at_s))) for cut in [*cuts, 1e6]]
    for at_s, act in sorted(steps, key=lambda each: each[0]):
        act(at_s)
    columns = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("ids", "born_s", "done_s", "lost", "server")
    ]
    drained = np.array(sorted(each.end_s for each in stage.drained()))
    counts = [
        np.array([count(second) for second in COUNTED_S]) for count in (stage.items_before, stage.waiting_at)
    ]
    return [*columns, drained, *counts, np.array([stage.waiting_at(10**6)])]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@needs_numba
@settings(max_examples=many(80), deadline=None, derandomize=True)
@given(CASES)
def test_the_compiled_loop_and_the_plain_one_are_equal_bit_for_bit(case: dict) -> None:
    assert equal(run_case(case, drive_plain, []), run_case(case, drive_compiled, []))


@settings(max_examples=many(80), deadline=None, derandomize=True)
@given(CASES, st.lists(MOMENTS | st.integers(0, 60).map(float), max_size=6))
def test_a_run_in_several_calls_is_equal_to_one_in_one_call(case: dict, cuts: list[float]) -> None:
    assert equal(run_case(case, drive_plain, []), run_case(case, drive_plain, cuts))


@settings(max_examples=many(60), deadline=None, derandomize=True)
@given(CASES)
def test_every_request_ends_once_or_waits(case: dict) -> None:
    ids, born_s, done_s, *_, waits, waiting = run_case(case, drive_plain, [])
    assert len(set(ids.tolist())) == len(ids)
    assert np.all(done_s >= born_s)
    assert np.all(done_s[1:] >= done_s[:-1])
    assert np.all(waits >= 0)
    assert len(ids) <= case["requests"]
    assert (len(ids) == case["requests"]) == (waiting[0] == 0)


def test_a_replica_serves_one_batch_at_a_time() -> None:
    queue = QueueSim(0.0, kernel.KEEP, 1.0, (3,), drive_plain)
    queue.set_pods(0.0, [Pods(3, 1, ServiceTime(1.0, 1.0), "a"), Pods(9, 1, ServiceTime(3.0, 3.0, 1.0), "b")])
    times = np.sort(np.random.default_rng(0).uniform(0.0, 100.0, 600))
    queue.offer((np.arange(600), times, times))
    (formed,) = queue.run(1e4)
    for server in range(12):
        mine = np.flatnonzero(formed.server == server)
        assert len(mine) > 5
        assert np.all(formed.starts_s[mine[1:]] >= formed.ends_s[mine[:-1]])


@needs_numba
def test_the_patient_loop_is_plain_until_it_has_done_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LazyDriver, "ENOUGH", 500)
    compiled, taken, columns = kernel.drive_compiled, [0], []
    patient = LazyDriver()

    def counted(scalars: Any, arrays: Any, factors: Any) -> None:
        taken.append(len(arrays[0]))
        compiled(scalars, arrays, factors)

    monkeypatch.setattr(kernel, "drive_compiled", counted)
    for loop in (patient, drive_plain):
        queue = QueueSim(0.5, kernel.KEEP, 1.0, (3,), loop)
        queue.set_pods(0.0, [Pods(2, 4, ServiceTime(1.5, 1.0, 0.3))])
        times = np.sort(np.random.default_rng(0).uniform(0.0, 400.0, 1500))
        queue.offer((np.arange(1500), times, times))
        parts = []
        for until_s in (100.0, 200.0, 300.0, 1e4):
            queue.run(until_s)
            parts.append(queue.take_done(until_s))
        columns.append([np.concatenate(column) for column in zip(*parts, strict=True)])
    # The first hundreds of items are formed by the plain loop.
    assert 0 < sum(taken) < 1500
    assert equal(*columns)


def test_factors_are_the_same_however_they_are_taken() -> None:
    factors = ServiceNoise((4,))
    number = factors.stream(0.3)
    taken = []
    for _ in range(6):
        factors.refill(number)
        taken.append(factors.values[factors.next[number] : factors.last[number]].copy())
    drawn = np.concatenate(taken)
    assert len(drawn) == 6 * ServiceNoise.BLOCK
    assert np.array_equal(drawn, np.random.default_rng((4, 0)).gamma(1 / 0.3, 0.3, len(drawn)))
    assert factors.stream(0.0) == -1
    assert factors.stream(0.2) == 1
