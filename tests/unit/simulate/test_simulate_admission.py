"""More load than a simulated pipeline carries, and what is answered in time of it."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.model.errors import InputError
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.queueing.service import ServiceTime
from ipa.simulate.columns import Items
from ipa.simulate.graph import Admission, PipelineSim, StageCapacity
from ipa.simulate.stage import Pods, StageSim

STAGES = ("first", "middle", "last")
SLOW, QUICK = ServiceTime(0.1, 0.04, 0.04), ServiceTime(0.025, 0.01, 0.04)
CAPACITY_RPS, DEADLINE_S, SECONDS = 80.0, 0.4, 30.0


def ended(place: str, load_ratio: float, drop: str, cuts: tuple[float, ...] = ()) -> list[Items]:
    """Those that end, with that stage slow."""
    stages = [Stage(name, (Variant("v"),), batch_timeout_s=0.005) for name in STAGES]
    pipeline = Pipeline(
        "p", chain(stages), Sla(DEADLINE_S), {"default": Objective()}, drop_after_s=DEADLINE_S
    )
    sim = PipelineSim(pipeline, drop=drop, seed=1)
    for name in STAGES:
        sim.set_replicas(name, 0.0, [Pods(2, 4, SLOW if name == place else QUICK)])
    sent = int(load_ratio * CAPACITY_RPS * SECONDS)
    sim.offer(np.sort(np.random.default_rng(1).uniform(0, SECONDS, sent)))
    return [sim.run(cut) for cut in (*cuts, SECONDS + 10)]


def goodput_ratio(done: Items) -> float:
    in_time = ~done.lost & (done.latency_s <= DEADLINE_S)
    return float(in_time.sum()) / SECONDS / CAPACITY_RPS


@pytest.mark.parametrize("load_ratio", [1.6, 5.0])
@pytest.mark.parametrize("place", STAGES)
def test_goodput_is_near_the_capacity(place: str, load_ratio: float) -> None:
    (before,) = ended(place, load_ratio, "request")
    (now,) = ended(place, load_ratio, "deadline")
    assert goodput_ratio(before) < 0.1
    assert goodput_ratio(now) > 0.95
    assert len(now.ids) == len(before.ids)


def test_little_is_refused_below_the_capacity() -> None:
    (done,) = ended("middle", 0.8, "deadline")
    assert done.lost.mean() < 0.005


def test_a_run_may_be_cut_anywhere() -> None:
    (whole,) = ended("middle", 2.0, "deadline")
    parts = ended("middle", 2.0, "deadline", cuts=(0.05, 3.0, 3.001, 17.3))
    for name in ("ids", "born_s", "done_s", "lost"):
        column = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(column, getattr(whole, name))


def test_without_replicas_requests_wait() -> None:
    admission = Admission(1.0)
    admission.set_stages({"a": StageCapacity(0.0, 0.0, 0.0)})
    assert not admission.refused(np.arange(0.0, 9.0, 0.01)).any()


def test_a_larger_capacity_admits_more_from_its_moment_on() -> None:
    admission = Admission(1.0)
    times_s = np.arange(0.0, 10.0, 0.01)
    parts = []
    for rate_rps, part in zip((10.0, 100.0), np.split(times_s, 2), strict=True):
        admission.set_stages({"a": StageCapacity(rate_rps, 1.0, 0.2)})
        parts.append(admission.refused(part))
    refused = np.concatenate(parts)
    admitted_rps = [np.count_nonzero(~refused[(times_s >= at) & (times_s < at + 2)]) / 2 for at in (2, 7)]
    assert admitted_rps == pytest.approx([10, 100], rel=0.05)


def test_the_rule_is_one_of_the_central_queue() -> None:
    with pytest.raises(InputError, match="drops no request"):
        StageSim(drop="deadline", drop_after_s=1.0, queue="replica")
