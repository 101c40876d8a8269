"""Canaries of the default policy in the simulator.

On Deployments that are scraped every 5 s, and on processes of this machine that are scraped each second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from ipa.control.engine.guards import GuardSettings
from ipa.model.decision import Action, Decision, ReasonCode
from ipa.model.parts import is_shared, parts_of, share_of
from ipa.model.pipeline import Canary, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import Slowdown
from ipa.simulate.cluster import KUBERNETES, ClusterSettings
from ipa.simulate.metrics import ON_CLUSTER, MetricsSettings
from ipa.simulate.run import SimResult, SimSetup, simulate
from ipa.targets.local.target import LOCAL as ON_THIS_MACHINE
from ipa.targets.seldon.variants import at_cluster
from tests.fakes.mixed import PROFILES
from tests.fakes.mixed import SHOP as LOCAL


@dataclass(frozen=True)
class Place:
    """The pipeline as it runs on a target, and that target's world.

    `in_place`: requests go as before until new parts serve, so that a change needs no second write.
    """

    shop: Pipeline
    cluster: ClusterSettings
    metrics: MetricsSettings
    in_place: bool

    @property
    def tried(self) -> Pipeline:
        return replace(self.shop, canary=Canary(5, 60.0))


PLACES = {
    "deployments": Place(at_cluster(LOCAL), KUBERNETES, ON_CLUSTER, False),
    "processes": Place(LOCAL, *ON_THIS_MACHINE.simulation(LOCAL), True),
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return PLACES[request.param]


MIDDLE = (StageConfig("detect", "only", 1, 1.0, 1), StageConfig("classify", "middle", 1, 1.0, 3))


def run(place: Place, rates_rps: Sequence[float], seed: int = 5, **more: object) -> SimResult:
    setup = SimSetup(
        place.shop,
        PROFILES,
        tuple(rates_rps),
        start=MIDDLE,
        cluster=place.cluster,
        metrics=place.metrics,
        guards=GuardSettings(tick_s=10.0, correct_profiles=True),
        seed=seed,
    )
    return simulate(replace(setup, **more))  # type: ignore[arg-type]


def applied(result: SimResult) -> list[Decision]:
    return [each for each in result.decisions if each.action is Action.APPLY]


def tried(place: Place, times: float, rates_rps: tuple[float, ...]) -> SimResult:
    slow = PROFILES["classify"].slowed([Slowdown("classify", "high", times)])
    truth = {**PROFILES, "classify": slow} if times != 1 else None
    return run(place, rates_rps, pipeline=place.tried, truth=truth)


def test_a_new_variant_has_a_small_share_until_it_was_measured_and_then_all(place: Place) -> None:
    result = tried(place, 1.0, (40.0,) * 220)
    if place.in_place:
        begun, taken = applied(result)[:2]
        shared = begun
        assert begun.reason is ReasonCode.CANARY
        assert taken.detail.startswith("the canary passed: 100.0 % of its ")
    else:
        begun, shared, grown, taken = applied(result)[:4]
        assert [it.reason for it in (begun, shared)] == [ReasonCode.CANARY, ReasonCode.RESHARE]
        assert [share_of(part) for part in parts_of(begun.configs)] == [100, 0]
        assert grown.detail.startswith("the canary passed: 100.0 % of its ")
        assert [share_of(part) for part in parts_of(grown.configs)] == [95, 5]
        assert {each.step_of for each in (shared, grown)} == {begun.decision_id}
    assert [share_of(part) for part in parts_of(shared.configs)] == [95, 5]
    # One replica is enough for so few; the others come once it passed.
    (canary,) = (part for part in parts_of(shared.configs) if share_of(part) == 5)
    assert [it.replicas for it in canary] == [1, 1]
    assert not is_shared(taken.configs) and taken.configs[1].variant == "high"
    assert taken.step_of == begun.decision_id
    measuring = [each for each in result.decisions if each.reason is ReasonCode.CANARY_MEASURED]
    assert measuring and all("of 60 s" in each.detail for each in measuring)
    assert not np.isnan(result.done_s).any()


def test_a_variant_that_is_late_is_taken_back_and_held_with_what_was_measured(place: Place) -> None:
    result = tried(place, 30.0, (40.0,) * 220)
    reasons = [each.reason for each in result.decisions]
    at = reasons.index(ReasonCode.ROLLBACK)
    failed = result.decisions[at]
    assert failed.detail.startswith("the canary failed: 0.0 % of its ")
    assert "100.0 % of the others were in time" in failed.detail and failed.configs == MIDDLE
    for each in result.decisions:
        assert all(share_of(part) <= 5 for part in parts_of(each.configs) if part[1].variant == "high")
    after = result.decisions[at + 1]
    assert after.reason is ReasonCode.QUARANTINED and failed.detail.split(":")[1] in after.detail
    # A canary that is late is no reason for more of the others.
    assert all(each.configs[1] == MIDDLE[1] for each in result.decisions[at : at + 4])


def test_a_load_that_rises_while_a_canary_is_measured_brings_more_of_what_is_proven(
    place: Place,
) -> None:
    result = tried(place, 1.0, (40.0,) * 60 + (90.0,) * 120)
    rows = [each.configs for each in applied(result)]
    during = [row for row in rows if any(share_of(part) == 5 for part in parts_of(row))]
    middle = [it.replicas for row in during for it in row if it.variant == "middle"]
    assert max(middle) > MIDDLE[1].replicas
    assert not is_shared(rows[-1])
