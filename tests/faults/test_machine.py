"""Any order of ticks, faults, hands, crashes, clock jumps and changes of leader keeps the invariants.

The loop with the real adapter runs over the fake API server, served in this process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from hypothesis.stateful import rule as plain_rule

from ipa.control.ports import Freeze
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.errors import UnavailableError
from ipa.model.plan import StageConfig
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from tests.fakes.kube import FaultKind, Trouble
from tests.fakes.looped import troubled
from tests.fakes.world import SMALLEST
from tests.faults.drive import BAD, Entry, hand
from tests.faults.world import QUIET, build

# `make faults` tries more.
STEPS, EXAMPLES = 30, int(os.environ.get("IPA_FAULT_EXAMPLES", "8"))
COUNTED = {"steps": 0, "ticks": 0, "writes": 0}


def rule(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule after which the loop makes 0 to 3 ticks."""

    def made(act: Callable[..., None]) -> Any:
        def acted(self: Machine, ticks: int, **chosen: Any) -> None:
            act(self, **chosen)
            self.world.ticks(ticks)
            COUNTED["ticks"] += ticks

        acted.__name__ = act.__name__
        return plain_rule(ticks=st.integers(0, 3), **arguments)(acted)

    return made


class Machine(RuleBasedStateMachine):
    """One world; each rule is one thing that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.context = build(settled=True)
        self.world = self.context.__enter__()
        self.edited = False

    @rule()
    def go_on(self) -> None:
        """Nothing but ticks."""

    @rule(rate_rps=st.sampled_from([0.0, 1e-9, 2.0, 12.0, 33.0, 60.0, 5000.0]))
    def load(self, rate_rps: float) -> None:
        self.world.rate_rps = rate_rps

    @rule(kind=st.sampled_from([*[""] * 7, *BAD]))
    def data(self, kind: str) -> None:
        self.world.metrics.fault = (lambda now_s, signals: BAD[kind](signals)) if kind else None
        self.world.invariants.blind = bool(kind)

    @rule(
        verb=st.sampled_from(["get", "list", "patch"]),
        kind=st.sampled_from(
            [FaultKind.LOST_BEFORE, FaultKind.HANG, FaultKind.HTML, FaultKind.WRONG_KIND, FaultKind.STATUS]
        ),
        status=st.sampled_from([500, 503, 409, 429]),
        times=st.integers(1, 3),
    )
    def fail(self, verb: str, kind: FaultKind, status: int, times: int) -> None:
        self.world.fault(kind, verb=verb, status=status, times=times)

    @rule()
    def answer(self) -> None:
        self.world.clear_faults()

    @rule(kind=st.sampled_from([FaultKind.LOST_AFTER, FaultKind.TRUNCATED]))
    def lose_the_answer(self, kind: FaultKind) -> None:
        self.world.fault(kind, verb="patch", is_dry_run=False)

    @rule(kind=st.sampled_from([0, 0, 401, 403, 422]))
    def refuse(self, kind: int) -> None:
        if kind:
            self.world.fault(FaultKind.STATUS, verb="patch", status=kind, reason="Forbidden")

    @rule(back=st.integers(0, 40), reads=st.integers(0, 4))
    def read_stale(self, back: int, reads: int) -> None:
        assert self.world.pool is not None
        self.world.pool.stale_reads = reads
        self.world.pool.stale_at = self.world.kube.store.version - back

    # What stops the loop comes seldom, so that there is a loop to stop.
    @rule(stage=st.sampled_from(["detect", "read"]), replicas=st.sampled_from([0, 0, 0, 1, 6]))
    def edit_by_hand(self, stage: str, replicas: int) -> None:
        if replicas:
            hand(self.world, Entry(0, "hand", "scale", stage=stage, replicas=replicas))

    @rule(effect=st.sampled_from(["label", "label", "label", "recreate", "reorder"]))
    def another_hand(self, effect: str) -> None:
        hand(self.world, Entry(0, "hand", effect, stage="read"))

    @rule(trouble=st.sampled_from([None, *Trouble]), variant=st.sampled_from(["big", "small", "big"]))
    def pods(self, trouble: Trouble | None, variant: str) -> None:
        self.world.kube.cluster.trouble_of = troubled(trouble, variant)

    @rule(cores=st.sampled_from([None, 4.0, 8.0]))
    def room(self, cores: float | None) -> None:
        self.world.kube.cluster.capacity_cores = cores

    @rule(paused=st.sampled_from([False, False, False, True]))
    def pause(self, paused: bool) -> None:
        self.world.say(paused=paused)

    @rule(mode=st.sampled_from([*Mode, *[Mode.ACTIVE] * 4]))
    def mode(self, mode: Mode) -> None:
        self.world.say(mode=mode)

    @rule(seconds=st.sampled_from([0, 0, 0, 40]))
    def freeze(self, seconds: int) -> None:
        now = self.world.clock.now()
        self.world.say(freezes=(Freeze(now, now + timedelta(seconds=seconds)),) if seconds else ())

    @rule()
    def crash(self) -> None:
        self.world.start_service()

    @rule(hours=st.sampled_from([-1.0, 1.0, 24.0]))
    def jump_the_clock(self, hours: float) -> None:
        self.world.clock.set_wall(self.world.clock.now() + timedelta(hours=hours))

    @rule(leads=st.sampled_from([True, True, True, False]))
    def change_of_leader(self, leads: bool) -> None:
        self.world.invariants.standby = not leads

    @rule(failing=st.sampled_from([False, False, False, True]))
    def fill_the_disk(self, failing: bool) -> None:
        self.world.store.failing = UnavailableError("disk full") if failing else None

    @invariant()
    def nothing_is_broken(self) -> None:
        COUNTED["steps"] += 1
        self.world.sound()
        decisions = self.world.store.recorded
        assert len({decision.decision_id for decision in decisions}) == len(decisions)
        assert len({decision.tick for decision in decisions}) == len(decisions)

    def teardown(self) -> None:
        """After the last fault it converges, and then is quiet (I8, I9)."""
        world = self.world
        try:
            world.rate_rps, world.metrics.fault, world.invariants.blind = 5.0, None, False
            world.clear_faults()
            world.store.failing, world.invariants.standby = None, False
            world.kube.cluster.trouble_of, world.kube.cluster.capacity_cores = (lambda pod: None), None
            assert world.pool is not None
            world.pool.stale_reads = 0
            # A person has looked: what was blocked goes on.
            world.say(mode=Mode.ACTIVE, paused=True, freezes=())
            world.tick()
            world.say(paused=False)
            # The best plan may be one that failed before, or fails only now, once its quarantine ends.
            settled = world.settle(800, unless=_quarantines)
            assert settled >= 0, [(one.reason.value, one.detail) for one in world.decisions[-4:]]
            # What is missed of a better plan adds up for minutes, to one more change, of two steps at most.
            late_writes = world.quiet_writes(24)
            assert late_writes <= 2
            assert not late_writes or world.settle(800, unless=_quarantines) >= 0
            assert world.quiet_writes(6) == 0
            assert {one.reason for one in world.decisions[-3:]} <= QUIET
            world.sound()
            COUNTED["writes"] += len(world.kube.writes)
        finally:
            self.context.__exit__(None, None, None)


def _quarantines(decision: Decision) -> bool:
    """True if a plan that failed was still set aside when this was decided."""
    inputs = json.loads(decision.inputs)
    return any(each["until_s"] > inputs["now_s"] for each in inputs["state"]["failures"])


# A thousand steps or more over a whole API server.
@pytest.mark.timeout(900)
def test_invariants_hold_through_any_trouble() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert COUNTED["steps"] >= 25 * EXAMPLES
    assert COUNTED["writes"] > EXAMPLES, "it had something to do"


def test_the_successor_of_what_made_room_loses_no_replicas_without_data() -> None:
    """It came with as many as were there, more than planned, and those went while the load was unseen."""
    with build(settled=True) as world:
        world.recreate((StageConfig("detect", "big", 1, 1.0, 8), StageConfig("read", "big", 1, 1.0, 4)))
        world.rate_rps = 70.0
        world.ticks(4)
        world.rate_rps = 5000.0
        world.ticks(4)
        world.rate_rps, world.invariants.blind = 12.0, True
        world.metrics.fault = lambda now_s, signals: BAD["stale"](signals)
        # Three waves of starts of the successor, after a roll of the orchestrator and the tick of each write.
        world.ticks(15)
        written = [one for one in world.decisions if one.action is Action.APPLY]
        assert [sum(each.replicas for each in one.configs) for one in written] == [10, 10]
        assert written[-1].reason is ReasonCode.SWITCH_VARIANT
        world.sound()


def test_the_checker_sees_what_is_wrong() -> None:
    """The invariants can fail: a write behind the loop's back breaks several at once."""
    with build() as world:
        world.say(paused=True)
        world.tick()
        sdep = world.sdep()
        client = world.workload._client  # type: ignore[attr-defined]
        replicas = [f"/spec/predictors/0/componentSpecs/{at}/replicas" for at in (0, 1)]
        for path, value in [(replicas[0], 9), (replicas[1], 7), ("/metadata/labels/theirs", "2")]:
            operation = {"op": "replace", "path": path, "value": value}
            client.patch(SELDON_DEPLOYMENT, "default", "pages", [operation])
        for _ in range(6):
            world.tick()
        assert sdep["metadata"]["labels"]["theirs"] == "1"
        assert set(world.invariants.counts) >= {"I1", "I2", "I3", "I5", "I7", "I10"}
        assert world.desired() != SMALLEST
