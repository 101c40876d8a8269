"""Mixtures of the default policy on the fake API server: predictors with traffic, in the loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa.model.parts import is_shared, parts_of
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT
from ipa.policies.table import PolicyInputs, make_policy
from ipa.targets.seldon.shape import at_cluster
from tests.fakes.looped import Looped, applied, looped
from tests.fakes.mixed import PROFILES
from tests.fakes.mixed import SHOP as LOCAL

SHOP = at_cluster(LOCAL)
ALONE = (StageConfig("detect", "only", 1, 1.0, 1), StageConfig("classify", "high", 1, 1.0, 4))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Looped]:
    inputs = PolicyInputs(SHOP, PROFILES, solver="exact", rolling=DEPLOYMENT)
    policy = make_policy("ours", inputs)
    with looped(tmp_path, SHOP, ALONE, policy=policy, predict=inputs.predictor()) as cluster:
        cluster.rate_rps = 40.0
        yield cluster


def test_a_load_that_one_configuration_carries_badly_is_shared_by_two(cluster: Looped) -> None:
    cluster.ticks(10)
    assert not is_shared(cluster.running())
    cluster.rate_rps = 100.0
    decisions = applied(cluster.ticks(40))
    assert is_shared(cluster.running()) and len(parts_of(cluster.running())) == 2
    assert decisions
