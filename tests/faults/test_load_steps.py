"""G: a step of the load on shape single, where each write restarts what counts the load."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ipa.control.engine.guards import GuardSettings
from ipa.targets.seldon.metrics import EXECUTOR
from tests.faults.executors import ORCHESTRATOR, Executors
from tests.faults.table import Case, variants
from tests.faults.world import KubeWorld, build


class Rolls:
    """The changes of pod templates, counted by Deployment."""

    def __init__(self, world: KubeWorld) -> None:
        self.world = world
        self.counts: Counter[str] = Counter()
        self._templates: dict[str, str] = {}
        self._see()
        world.clock.every(0.25, self._see)

    def _see(self) -> None:
        for deployment in self.world.kube.store.everything("deployments"):
            name = deployment["metadata"]["name"]
            template = json.dumps(deployment["spec"]["template"], sort_keys=True)
            if ORCHESTRATOR not in name and self._templates.get(name, template) != template:
                self.counts[name] += 1
            self._templates[name] = template


SETTINGS = GuardSettings(tick_s=5.0, rollout_deadline_s=300.0, quarantine_s=120.0, correct_profiles=True)
# Once the window of the mean rates is full, and what that was planned for is ready.
WARM_S, AFTER_S = 160.0, 90.0


def stepped(interval_s: int, step_s: float, roll_ticks: int) -> tuple[int, float, int]:
    """The most changes of one pod template after a step from 8 to 25 rps, late requests, and writes."""
    with build(rate_rps=8.0, step_s=step_s, roll_ticks=roll_ticks, settings=SETTINGS) as world:
        world.clock.wait(WARM_S / 4)
        executors = Executors(world, interval_s, seed=1)
        world.metrics = executors.metrics  # type: ignore[assignment]
        world.window_s = 2 * EXECUTOR.rate_window_s
        world.start_service()
        world.until_s(WARM_S)
        before, late, rolls = len(world.applied()), executors.late, Rolls(world)
        world.rate_rps = 25.0
        world.until_s(WARM_S + AFTER_S)
        world.sound()
        executors.close()
        return max(rolls.counts.values(), default=0), executors.late - late, len(world.applied()) - before


STEPS = variants(
    [(5, 0.5, 1), (10, 2.0, 1), (5, 0.5, 10)],
    [(5, 2.0, 1), (5, 2.0, 10), (10, 0.5, 1), (10, 0.5, 10), (10, 2.0, 10)],
)


@pytest.mark.parametrize(("interval_s", "step_s", "roll_ticks"), STEPS)
def test_g14_a_step_rolls_the_same_pods_twice_at_most(
    case: Case, interval_s: int, step_s: float, roll_ticks: int
) -> None:
    at = f"scraped every {interval_s} s, pods ready after {roll_ticks} steps of {step_s:g} s"
    rolls, late, writes = stepped(interval_s, step_s, roll_ticks)
    case.at_most(f"{at}: rolls of the same pods in {AFTER_S:g} s", rolls, 2)
    case.note(f"{at}: writes", writes)
    case.note(f"{at}: requests late", late)
