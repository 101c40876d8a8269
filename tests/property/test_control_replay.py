"""Every recorded decision is taken again as it was, whatever happened to the loop that took it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from subprocess import check_output

import pytest

from ipa.adapters.store import open_store
from ipa.control.audit.replay import (
    Replayer,
    ReplayResult,
    inputs_in,
    replay,
    verify_certificate,
)
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import ChangeRequest
from ipa.control.engine.tick import is_outcome
from ipa.control.ports import Freeze, Signals, StagePin
from ipa.files import pipeline_from_mapping, pipeline_to_mapping
from ipa.forecast.arrivals import steps
from ipa.model.decision import Decision, Mode, ReasonCode
from ipa.model.errors import ConflictError, ForbiddenError, UnavailableError
from ipa.model.observation import Batches, Measured, Missing, MissingReason
from ipa.model.pipeline import Canary, Fallback, Pin
from ipa.policies.ours import Ours
from ipa.simulate.cluster import KUBERNETES
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.run import SimSetup, simulate
from tests.fakes.policy_contract import slower
from tests.fakes.store import FakeStore
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, made_loop, profiled, scenario

GUARDS = GuardSettings(tick_s=5.0, rollout_deadline_s=30.0, quarantine_s=60.0, correct_profiles=True)
DECLARED = replace(PIPELINE, fallback=Fallback(20.0, after_ticks=3, recover_ticks=2))


def check_same(decision: Decision, replayed: ReplayResult) -> None:
    """It is the decision itself, word for word, but for times and rounding."""
    assert (replayed.outcome, replayed.differences, replayed.notes) == ("same", (), ()), decision
    again = replayed.again
    assert again is not None
    assert again.inputs_digest == decision.inputs_digest
    assert replace(again, plan=None) == replace(decision, plan=None, inputs="")


class Trouble:
    """Some ticks of each of many troubles, one after the other by chance, over a loop that goes on."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.rate_rps, self.queued, self.slower, self.blind = 5.0, 0.0, 1.0, False
        self.policy = Ours(DECLARED, profiled().probe)
        self.made = scenario(
            lambda t_s: self.rate_rps, pipeline=DECLARED, settings=GUARDS, policy=self.policy
        )
        self.made.metrics.fault = lambda now_s, signals: self.shown(signals)

    def shown(self, signals: Signals) -> Signals:
        """The signals with what waits and how long batches take; without the load where it is not seen."""
        took = Measured(Batches(60.0, 0.05 * self.slower, 1.0, 5.0))
        stages = {
            name: replace(stage, queue_length=Measured(self.queued), batches=took)
            for name, stage in signals.stages.items()
        }
        shown = replace(signals, stages=stages)
        assert isinstance(shown.load, Measured)
        if not self.blind:
            return shown
        either = (
            replace(shown.load, age_s=60.0),
            Missing(MissingReason.UNREACHABLE, "no route"),
            Missing(MissingReason.INVALID, "no numbers"),
        )
        return replace(shown, load=self.chance.choice(either))

    def tell(self, chapters: int) -> list[Decision]:
        workload = self.made.workload
        for _ in range(chapters):
            self.chance.choice(self.chapters)(self)
            self.rate_rps = self.chance.choice((0.5, 5.0, 12.0, 33.0, 45.0))
            self.made.ticks(self.chance.randint(1, 5))
            self.blind, self.queued, workload.broken, workload.lacks_room = False, 0.0, set(), False
            for errors in workload.errors.values():
                errors.clear()
            if self.chance.random() < 0.5:
                # Whatever blocks it ends with a pause.
                self.made.say(mode=Mode.ACTIVE, paused=True, pins=(), freezes=())
                self.made.ticks(1)
                self.made.say(paused=False)
                self.made.ticks(self.chance.randint(2, 12))
        return self.made.store.recorded

    def more(self) -> None:
        self.rate_rps = 90.0

    def crowd(self) -> None:
        self.queued, self.slower = 300.0, self.chance.choice((1.0, 1.7, 4.0))
        self.made.ticks(4)

    def go_blind(self) -> None:
        self.blind = True
        self.made.ticks(3)

    def break_variants(self) -> None:
        workload = self.made.workload
        workload.broken = {(stage, "big") for stage in ("detect", "read")}
        workload.lacks_room = self.chance.random() < 0.3
        self.rate_rps = self.chance.choice((3.0, 14.0))
        self.made.ticks(7)
        if self.chance.random() < 0.3:
            # Nor does what ran before.
            workload.broken |= {(stage, "small") for stage in ("detect", "read")}
        self.made.ticks(8)

    def refuse(self) -> None:
        error = self.chance.choice(
            (ConflictError("modified"), ForbiddenError("no"), UnavailableError("lost"))
        )
        self.made.workload.errors["write"] += [error] * self.chance.randint(1, 3)

    def do_not_answer(self) -> None:
        self.made.workload.errors[self.chance.choice(("read", "rollout"))].append(UnavailableError("lost"))
        self.made.workload.lose_answers = 1

    def edit_by_hand(self) -> None:
        self.made.workload.by_another_hand("read", replicas=self.chance.randint(1, 6))

    def say_mode(self) -> None:
        self.made.say(mode=self.chance.choice(tuple(Mode)))
        self.rate_rps = self.chance.choice((0.5, 33.0))
        self.made.ticks(7)

    def pin(self) -> None:
        pin = self.chance.choice((Pin(variant="big"), Pin(replicas=2, cores=2.0)))
        self.made.say(pins=(StagePin("read", pin, "a test", "kim"),))

    def freeze(self) -> None:
        now = self.made.clock.now()
        weekly = self.chance.random() < 0.5
        self.made.say(freezes=(Freeze(now, now + timedelta(seconds=12), "a sale", "kim", weekly),))

    def ask(self) -> None:
        replicas = self.chance.randint(1, 9)
        wanted = tuple(replace(config, replicas=replicas) for config in SMALLEST)
        self.made.loop.tick_once(ChangeRequest(wanted, "requested by kim", by="kim"))

    def restart(self) -> None:
        run_id = f"run{len(self.made.store.recorded)}"
        self.made = replace(self.made, loop=made_loop(self.made, self.policy, run_id, DECLARED))

    chapters = (
        *(more, crowd, go_blind, break_variants, refuse, do_not_answer),
        *(edit_by_hand, say_mode, pin, freeze, ask, restart),
    )


def test_whatever_happens_every_decision_is_taken_again_as_it_was() -> None:
    reasons: set[ReasonCode] = set()
    # Between them these seeds come to every reason below.
    for seed in (1, 4):
        trouble = Trouble(seed)
        predict = profiled().predict
        decisions = trouble.tell(30)
        assert len(decisions) > 200
        for decision in decisions:
            inputs = inputs_in(decision)
            assert is_outcome(decision) == isinstance(inputs, ReplayResult)
            if not isinstance(inputs, ReplayResult):
                check_same(decision, replay(decision, inputs, DECLARED, trouble.policy, predict))
        reasons.update(decision.reason for decision in decisions)
    # A standby records nothing, nor does who cannot; shares, guarded mode and lateness are in the runs below.
    elsewhere = {ReasonCode.NOT_LEADER, ReasonCode.AUDIT_FAILED, ReasonCode.RESHARE, ReasonCode.GUARDED}
    elsewhere |= {ReasonCode.RELIEVED, ReasonCode.AMENDED, ReasonCode.SLO_BROKEN}
    # The last one is of earlier versions.
    elsewhere |= {ReasonCode.CANARY, ReasonCode.CANARY_MEASURED, ReasonCode.STABILISING}
    rare = {
        ReasonCode.SIGNALS_DISAGREE,
        ReasonCode.ROLLBACK_FAILED,
        ReasonCode.QUARANTINED,
        ReasonCode.SOLVER_FAILED,
    }
    assert set(ReasonCode) - reasons <= elsewhere | rare


RATES = tuple(float(rate) for rate in steps((4.0, 40), (16.0, 50), (4.0, 45), (38.0, 45), (3.0, 60)))
SLOW = slower(1.6)
SETUP = SimSetup(
    pipeline_from_mapping(pipeline_to_mapping(PIPELINE)),
    PROFILES,
    RATES,
    seed=7,
    guards=GUARDS,
    start=SMALLEST,
    readiness_s=2.0,
    keep_inputs=True,
    metrics=MetricsSettings(gaps=((50.0, 75.0),)),
    kills=((120.0, "read", 1),),
)
# The contract of policies (tests.fakes.policy_contract) has the decisions of every other one replayed.
RUNS = {
    **{name: replace(SETUP, policy=name) for name in ("ours", "ours-frugal", "hpa")},
    "shadow": replace(SETUP, mode=Mode.SHADOW),
    "guarded": replace(SETUP, mode=Mode.GUARDED),
    "slow": replace(SETUP, truth=SLOW),
    "slow to start": replace(SETUP, truth=SLOW, readiness_s=12.0),
    "cluster": replace(SETUP, cluster=KUBERNETES),
    "canary": replace(
        SETUP, cluster=KUBERNETES, pipeline=replace(SETUP.pipeline, canary=Canary(5, 20.0)), kills=()
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_decision_of_a_simulated_run_is_taken_again_as_it_was(name: str) -> None:
    setup = RUNS[name]
    decisions = simulate(setup).decisions
    store = FakeStore()
    store.recorded = list(decisions)
    again = Replayer(store)
    for decision in decisions:
        result = again(decision, setup.pipeline, setup.profiles, None, True)
        check_same(decision, result)
        assert verify_certificate(json.loads(json.dumps(result.certificate)), "it").faults == ()
    assert len(decisions) >= 45


def export(folder: str) -> None:
    """Print the record of two simulated runs and of a loop with troubles."""
    decisions = [*Trouble(1).tell(12)]
    for seed, name in enumerate(("ours", "canary")):
        decisions += simulate(replace(RUNS[name], seed=seed)).decisions
    store = open_store(f"sqlite:///{folder}/{os.environ['PYTHONHASHSEED']}.sqlite3")
    for decision in decisions:
        store.record(decision)
    print(*(entry.line() for entry in store.entries(0, len(decisions))), sep="\n")


def test_equal_runs_have_equal_records(tmp_path: Path) -> None:
    code = f"from {__name__} import export; export({str(tmp_path)!r})"
    first, second = (
        check_output([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, text=True)
        for seed in ("1", "2")
    )
    assert len(first.splitlines()) > 100
    assert first.splitlines() == second.splitlines()
