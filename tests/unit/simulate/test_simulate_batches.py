"""The batches that a simulated stage reports."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.model.observation import Batches, Measured, Missing, MissingReason
from ipa.queueing.service import ServiceTime
from ipa.simulate.columns import KEPT_S, served
from ipa.simulate.metrics import MetricsSettings, SimMetrics
from ipa.simulate.queue import Pods
from ipa.simulate.stage import StageSim
from tests.unit.simulate.test_simulate_world import PIPELINE

PAIRS = ServiceTime(1.0, 0.5)


def played(times: list[float], until_s: float, step_s: float, **rules: object) -> StageSim:
    """A stage of one replica that takes two at once, run in steps."""
    stage = StageSim(batch_timeout_s=0.25, **rules)  # type: ignore[arg-type]
    stage.set_replicas(0.0, [Pods(1, 2, PAIRS)])
    stage.offer(times, range(len(times)))
    for at_s in np.arange(step_s, until_s + step_s / 2, step_s):
        stage.run(float(at_s))
    return stage


@pytest.mark.parametrize("step_s", [0.5, 10.0])
@pytest.mark.parametrize("kernel", ["plain", "numba"])
def test_batches_count_where_they_end_with_their_items(step_s: float, kernel: str) -> None:
    if kernel == "numba":
        pytest.importorskip("numba")
    # A pair at 0.1 that ends at 1.1; one alone that is due at 2.25 and ends at 2.75; a pair 4.0 to 5.0.
    stage = played([0.0, 0.1, 2.0, 3.9, 4.0], 10.0, step_s, kernel=kernel)
    assert served([stage.batches], 0.0, 10.0) == Batches(3.0, pytest.approx(2.5 / 3), 5 / 3, 10.0)
    assert served([stage.batches], 1.1, 2.75) == Batches(1.0, pytest.approx(0.5), 1.0, pytest.approx(1.65))
    assert served([stage.batches], 1.0, 1.1) == Batches(1.0, pytest.approx(1.0), 2.0, pytest.approx(0.1))
    assert served([stage.batches], 5.0, 10.0) is None
    both = served([stage.batches, stage.batches], 0.0, 10.0)
    assert both is not None and (both.count, both.items) == (6.0, 5 / 3)
    assert served([], 0.0, 10.0) is None


def test_what_is_dropped_is_in_no_batch() -> None:
    # While the first is served the others wait too long.
    stage = played([0.0, 0.01, 0.02, 0.03, 5.0], 20.0, 20.0, drop_after_s=0.5)
    assert served([stage.batches], 0.0, 20.0) == Batches(2.0, pytest.approx(0.75), 1.5, 20.0)


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    stage = StageSim()
    stage.set_replicas(0.0, [Pods(1, 1, ServiceTime(0.1, 0.1))])
    for at_s in range(0, int(3 * KEPT_S), 10):
        stage.offer([float(at_s)], [at_s])
        stage.run(at_s + 10.0)
    assert len(stage.batches._pieces) <= KEPT_S / 10 + 2
    batches = served([stage.batches], 2 * KEPT_S, 3 * KEPT_S)
    assert batches is not None and batches.count == KEPT_S / 10


def metrics(stage: StageSim, now_s: float, settings: MetricsSettings | None = None) -> SimMetrics:
    made = SimMetrics(np.ones(100, dtype=np.int64), settings or MetricsSettings(), lambda: now_s)
    made.stages["detect"][1] = stage
    return made


def test_the_port_has_those_of_its_window_up_to_the_newest_sample() -> None:
    stage = played([float(second) for second in range(60)], 80.0, 1.0)
    batches = metrics(stage, 40.0).read(PIPELINE, 20.0).stages["detect"].batches
    assert batches == Measured(Batches(10.0, pytest.approx(0.5), 1.0, 10.0), 0.0)
    late = metrics(stage, 42.0, MetricsSettings(delay_s=2.0)).read(PIPELINE, 20.0).stages["detect"].batches
    assert late == Measured(batches.value, 2.0)
    idle = metrics(stage, 90.0).read(PIPELINE, 20.0).stages["detect"].batches
    gone = metrics(stage, 60.0, MetricsSettings(outages=((50.0, 70.0),))).read(PIPELINE, 20.0)
    for value, reason in (
        (idle, MissingReason.ABSENT),
        (gone.stages["detect"].batches, MissingReason.UNREACHABLE),
    ):
        assert isinstance(value, Missing) and value.reason is reason
