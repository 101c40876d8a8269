"""Worlds by name: what each changes, how they hold together, and which names are refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from ipa.model.errors import IpaError
from ipa.simulate.ground_truth import SlowPeriod
from ipa.simulate.metrics import ON_CLUSTER, MetricsSettings
from ipa.simulate.run import SimSetup, in_world
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST

SETUP = SimSetup(PIPELINE, PROFILES, (4.0,) * 1200, seed=7, start=SMALLEST)
LATE = MetricsSettings(scrape_interval_s=5.0, delay_s=7.0, rate_window_s=15.0)
MINE = """
from dataclasses import replace

def steady(setup, rps):
    return replace(setup, rates_rps=(rps,))

class Times:
    def __call__(self, setup, ratio=2):
        return replace(setup, rates_rps=tuple(ratio * rate for rate in setup.rates_rps))

def nothing(setup): ...
"""


def within(world: str, **changed: object) -> SimSetup:
    return in_world(replace(SETUP, world=world, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("world", "changed"),
    [
        ("as-profiled", {}),
        ("slow", {"slow": (SlowPeriod(0.0, inf, 1.5),)}),
        ("slow-stage:2", {"slow": (SlowPeriod(0.0, inf, 2.0, "detect"),)}),
        ("slow-variant:2", {"slow": (SlowPeriod(0.0, inf, 2.0, "read", "small"),)}),
        ("neighbours:3", {"slow": (SlowPeriod(300.0, 360.0, 3.0), SlowPeriod(700.0, 760.0, 3.0))}),
        ("drift:1024", {"slow": tuple(SlowPeriod(120.0 + 60 * step, inf, 2.0) for step in range(10))}),
        ("late-metrics:7", {"metrics": LATE}),
        ("kills:500", {"kills": ((500.0, "detect", 1), (1000.0, "read", 1))}),
        ("slow:2+late-metrics:7", {"slow": (SlowPeriod(0.0, inf, 2.0),), "metrics": LATE}),
    ],
)
def test_a_world_changes_this_and_nothing_else(world: str, changed: dict[str, object]) -> None:
    assert within(world) == replace(within("as-profiled"), **changed)  # type: ignore[arg-type]


def test_what_depends_on_the_run_follows_it() -> None:
    assert [each.start_s for each in within("neighbours", rates_rps=(4.0,) * 120).slow] == [30.0, 70.0]
    assert within("late-metrics:7", metrics=ON_CLUSTER).metrics == replace(ON_CLUSTER, delay_s=7.0)
    rates = within("bursts").rates_rps
    assert set(rates) == {1.0, 16.0} and sum(rates) / 1200 == pytest.approx(4.0, rel=0.2)
    assert rates == within("bursts").rates_rps != within("bursts", seed=8).rates_rps
    calm, busy = (within("no-room", rates_rps=(rps,)).pipeline.bounds for rps in (4.0, 16.0))
    assert busy.cores == busy.transition_cores and calm.cores < busy.cores  # type: ignore[operator]


def test_the_start_is_planned_without_the_world_unless_that_takes_it_away() -> None:
    planned = within("as-profiled", start=()).start
    assert within("slow:3+no-room", start=()).start == planned
    busier = in_world(replace(SETUP, world=lambda it: replace(it, rates_rps=(16.0,) * 60, start=())))
    assert sum(it.total_cores for it in busier.start) > sum(it.total_cores for it in planned)


@pytest.fixture(name="mine")
def _mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of worlds in the current folder."""
    (tmp_path / "my_worlds.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("world", "rate_rps"),
    [
        ("my_worlds:Times", 8.0),
        ("my_worlds:steady:5+my_worlds:Times:3", 15.0),
        ("my_worlds:Times:3+my_worlds:steady:5", 5.0),
    ],
)
def test_worlds_of_a_file_are_applied_in_their_order(world: str, rate_rps: float) -> None:
    assert set(within(world).rates_rps) == {rate_rps}


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("world", "says"),
    [
        ("nobody:2", "there is no world 'nobody'\n  There are: as-profiled, slow,"),
        ("slow:fast", "world 'slow:fast': 'fast' is not a number above 0\n  Write slow alone, or"),
        *((f"slow:{each}", f"{each!r} is not a number above 0") for each in ("", "0", "nan", "1e999")),
        ("slow+", "there is no world ''"),
        ("bursts:2", "world 'bursts:2': bursts takes no number\n  Write bursts."),
        ("kills:0.1", "world kills:0.1: at most one pod dies a second\n  Write kills:60."),
        ("my_worlds:steady", "needs a number\n  Write my_worlds:steady:1.5."),
        ("my_worlds:steady:x", "world 'my_worlds:steady:x': 'x' is not a number above 0"),
        ("my_worlds:gone", "world 'my_worlds:gone' is not there: module my_worlds has no gone"),
        ("my_worlds:nothing", "does not fit: it returned a NoneType, not a SimSetup"),
        ("math:pi", "world 'math:pi' cannot be made: TypeError: 3.14"),
    ],
)
def test_what_is_no_world_is_refused_with_value_and_remedy(world: str, says: str) -> None:
    with pytest.raises(IpaError) as caught:
        within(world)
    assert says in str(caught.value)
