"""A mixture under a load that scatters around a level: nothing moves for an hour."""

from __future__ import annotations

from random import Random

from ipa.control.engine.guards import GuardSettings
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Mode
from ipa.model.parts import is_shared
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT
from ipa.policies.table import PolicyInputs, make_policy
from ipa.targets.seldon.shape import at_cluster
from tests.fakes.clock import VirtualClock
from tests.fakes.metrics import FakeMetrics
from tests.fakes.mixed import PROFILES
from tests.fakes.mixed import SHOP as LOCAL
from tests.fakes.store import FakeStore
from tests.fakes.workload import FakeWorkload
from tests.fakes.world import window_max

SHOP = at_cluster(LOCAL)
HIGH = (StageConfig("detect", "only", 1, 1.0, 1), StageConfig("classify", "high", 1, 1.0, 4))
TICK_S = 10.0


class Deployments(FakeWorkload):
    rolling = DEPLOYMENT


def test_an_hour_of_a_load_that_scatters_moves_nothing_once_it_has_settled() -> None:
    random, clock = Random(7), VirtualClock()
    inputs = PolicyInputs(SHOP, PROFILES, solver="exact", rolling=DEPLOYMENT)
    rates: dict[int, float] = {}

    def rate_rps(at_s: float) -> float:
        # Planned for with a tenth on top: the best mixtures of 106.7 and of 110 rps differ by a replica.
        scattered = rates.setdefault(int(at_s) // 20, random.choice([97.0, 100.0]))
        return 100.0 if at_s < 300.0 else scattered

    metrics = FakeMetrics(clock, rate_rps)
    store, workload = FakeStore(PipelineControl(mode=Mode.ACTIVE)), Deployments(clock, HIGH)
    loop = ControlLoop(
        SHOP,
        LoopPorts(clock, metrics, workload, store, store),
        policy=make_policy("ours", inputs),
        predict=inputs.predictor(),
        forecaster=window_max,
        settings=GuardSettings(tick_s=TICK_S),
        window_s=20.0,
        run_id="run",
    )

    def after(seconds: float) -> list[Action]:
        made = []
        for _ in range(round(seconds / TICK_S)):
            made.append(loop.tick_once().action)
            clock.wait(TICK_S)
        return made

    assert Action.APPLY in after(300.0) and is_shared(workload.desired)
    assert Action.APPLY not in after(3600.0) and is_shared(workload.desired)
