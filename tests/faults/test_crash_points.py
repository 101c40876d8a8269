"""Crash points: whatever step the service dies at, the next process ends what the record says."""

from __future__ import annotations

from pathlib import Path

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.control.election import LeaseTimes
from ipa.control.engine.actuation import IN_FLIGHT
from tests.fakes.kube import FakeKube
from tests.faults.crash import LEASE
from tests.faults.crashing import STORIES, RunOutcome, run, service
from tests.faults.table import WHOLE, Case

# `make faults` kills at every point, some fifty lives of a service; `make test` at every third one.
EACH = 1 if WHOLE else 3
# A restart may have to wait out a rollout and try a broken variant once more.
MTTR_TICKS = 12


def test_a1_killed_at_every_point_and_started_again(case: Case, tmp_path: Path) -> None:
    known: set[str] = set()
    points: list[str] = []
    outcomes: list[RunOutcome] = []
    with service() as process:
        for number, story in enumerate(STORIES):
            whole = run(story, tmp_path / f"{number}-whole", process)
            assert whole.came_to_rest, whole
            outcomes.append(whole)
            for at, point in enumerate(one for one in whole.points if one not in known):
                known.add(point)
                if at % EACH:
                    continue
                killed = run(story, tmp_path / f"{number}-{at}", process, point)
                assert killed.killed, point
                assert killed.came_to_rest, (story.name, point, killed)
                assert killed.configs == whole.configs, (story.name, point, killed)
                points.append(point)
                outcomes.append(killed)
    case.equal("phases at the crash", {*_phases(points)}, {phase.value for phase in IN_FLIGHT})
    case.note("points", len(points))
    case.equal("settled on the same plan", sum(one.came_to_rest for one in outcomes[:]), len(outcomes))
    case.at_most("MTTR ticks", max(one.mttr_ticks for one in outcomes), MTTR_TICKS)
    case.note("accepted writes", sum(one.writes for one in outcomes))
    case.equal("duplicate writes", sum(one.duplicates for one in outcomes), 0)
    case.equal("unaudited writes", sum(one.unaudited for one in outcomes), 0)
    case.equal("writes while another rolled out", sum(one.piled_up for one in outcomes), 0)
    case.equal("writes out of bounds", sum(one.out_of_bounds for one in outcomes), 0)
    case.equal("foreign fields changed", sum(one.foreign_changed for one in outcomes), 0)


def test_a1_killed_while_it_leads_and_hands_over(case: Case, tmp_path: Path) -> None:
    """Whatever of the Lease was written last, another leads after the lease and a retry at most."""
    takeover_s: dict[str, float] = {}
    with service() as process:
        points = [""]
        for at, point in enumerate(points):
            folder = tmp_path / str(at)
            folder.mkdir()
            with FakeKube() as kube:
                passed = process.lead(kube.kubeconfig(folder), point)
                points += [] if point else passed
                assert bool(passed) == (not point)
                takeover_s[point] = _takeover_s(kube, folder)
    assert [point for point in points if "released" in point]
    case.note("points", len(points) - 1)
    limit_s = LeaseTimes().lease_s + 2 * LeaseTimes().retry_s
    case.at_most("takeover s", max(takeover_s.values()), limit_s)
    released_s = takeover_s["leadership: after the lease is released"]
    case.at_most("takeover s after a release", released_s, 2 * LeaseTimes().retry_s)


def _takeover_s(kube: FakeKube, folder: Path) -> float:
    """Seconds until another replica leads, on a clock of its own."""
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(folder)), 10.0)
    now_s = 0.0
    second = LeaseLeadership(client, LEASE, "second", LeaseTimes(), now_s=lambda: now_s, draw=lambda: 1.0)
    while not second.leading() and now_s < 100.0:
        now_s += second.step()
    client.close()
    return now_s


def _phases(points: list[str]) -> list[str]:
    return [
        name
        for name in (point.partition(":")[0].removesuffix(" (rollback)") for point in points)
        if name not in ("starting", "idle")
    ]
