"""A change is ready once the smoke request is answered; a failure is told, or takes the change back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from ipa.control.engine.observe import observe
from ipa.control.loop.probed_workload import ATTEMPTS, ProbedCreating, ProbedWorkload
from ipa.control.ports import RolloutPhase
from ipa.model.decision import Action, Change, ReasonCode
from ipa.model.errors import IpaError, UnavailableError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.probe import AfterRollout, PipelineProbe, ProbeResult
from ipa.service.live_state import live_state
from ipa.service.one_shot import NO_SIGNALS
from ipa.testing.examples import PIPELINE, PROFILES, SMALLEST
from tests.fakes.clock import VirtualClock
from tests.fakes.workload import FakeWorkload
from tests.fakes.world import Scenario, scenario

BODY: dict[str, Any] = {"inputs": []}
BIGGER = (replace(SMALLEST[0], replicas=3), *SMALLEST[1:])


def probed(after: AfterRollout | None) -> Pipeline:
    return replace(PIPELINE, probe=PipelineProbe(BODY, after_rollout=after))


class Sender:
    """Sends nothing: it answers with these faults in turn, and then with none."""

    def __init__(self, *faults: str | IpaError) -> None:
        self.faults, self.sent = list(faults), 0

    def __call__(self, pipeline: Pipeline, probe: PipelineProbe) -> ProbeResult:
        assert probe.request == BODY
        self.sent += 1
        fault = self.faults.pop(0) if self.faults else ""
        if isinstance(fault, IpaError):
            raise fault
        return ProbeResult("http://here", 0.1, fault)


class World:
    """A workload that runs `SMALLEST`, behind the requests of `sender`."""

    def __init__(self, pipeline: Pipeline, sender: Sender) -> None:
        self.clock, self.pipeline, self.sender = VirtualClock(), pipeline, sender
        self.inner = FakeWorkload(self.clock, SMALLEST)
        self.workload = ProbedWorkload(self.inner, sender)

    def write(self, *, is_rollback: bool = False, decision_id: str = "d-1") -> Change:
        state = self.workload.read(self.pipeline)
        change = Change(
            decision_id, self.pipeline.name, state.revision, SMALLEST, BIGGER, 60.0, is_rollback=is_rollback
        )
        change = replace(change, revision=self.workload.write(self.pipeline, change))
        self.clock.wait(self.inner.readiness_s)
        return change

    def phases(self, change: Change, count: int) -> list[RolloutPhase]:
        return [self.workload.rollout(self.pipeline, change).phase for _ in range(count)]


@contextmanager
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    with caplog.at_level(logging.INFO, "ipa.control"):
        said: list[str] = []
        yield said
        said += [record.getMessage() for record in caplog.records]


def test_a_change_is_ready_once_the_request_is_answered() -> None:
    world = World(probed(AfterRollout.ROLL_BACK), Sender("no answer"))
    change = world.write()
    assert world.phases(change, 3) == [RolloutPhase.PROGRESSING, RolloutPhase.READY, RolloutPhase.READY]
    # An answer is enough for the change.
    assert world.sender.sent == 2
    assert world.workload.read(world.pipeline).problem == ""


def test_nothing_is_sent_before_the_change_is_ready() -> None:
    world = World(probed(AfterRollout.ROLL_BACK), Sender())
    change = world.write()
    world.inner.broken = {(BIGGER[0].stage, BIGGER[0].variant)}
    world.inner.serving = SMALLEST
    world.phases(change, 2)
    assert world.sender.sent == 0


@pytest.mark.parametrize("pipeline", [PIPELINE, probed(None)], ids=["no probe", "not after rollouts"])
def test_nothing_is_sent_unless_the_pipeline_asks_for_it(pipeline: Pipeline) -> None:
    world = World(pipeline, Sender("never"))
    assert world.phases(world.write(), 2) == [RolloutPhase.READY] * 2
    assert world.sender.sent == 0


def test_a_request_that_fails_three_times_fails_the_rollout(caplog: pytest.LogCaptureFixture) -> None:
    world = World(probed(AfterRollout.ROLL_BACK), Sender(*["it answered 500: crashed"] * 9))
    change = world.write()
    with heard(caplog) as said:
        phases = world.phases(change, ATTEMPTS + 1)
    assert phases == [RolloutPhase.PROGRESSING] * (ATTEMPTS - 1) + [RolloutPhase.FAILED] * 2
    assert world.sender.sent == ATTEMPTS
    words = f"the smoke request failed ({ATTEMPTS} of {ATTEMPTS}): http://here: it answered 500: crashed"
    assert world.workload.rollout(world.pipeline, change).detail == words
    assert any("after d-1" in line and words in line for line in said)
    # The next change starts anew.
    world.sender.faults.clear()
    assert world.phases(replace(change, decision_id="d-2"), 1) == [RolloutPhase.READY]
    assert world.workload.read(world.pipeline).problem == ""


def test_a_failure_that_is_only_told_is_a_problem_until_the_next_answer() -> None:
    world = World(probed(AfterRollout.REPORT), Sender(*["late"] * ATTEMPTS))
    change = world.write()
    assert world.phases(change, ATTEMPTS + 1) == [RolloutPhase.PROGRESSING] * 2 + [RolloutPhase.READY] * 2
    state = world.workload.read(world.pipeline)
    assert "the smoke request failed (3 of 3): http://here: late" in state.problem
    seen = observe(world.pipeline, NO_SIGNALS, state, at_s=0.0)
    assert seen.problem == state.problem and seen.running() is not None
    assert world.phases(replace(change, decision_id="d-2"), 1) == [RolloutPhase.READY]
    assert world.workload.read(world.pipeline).problem == ""


def test_a_rollback_is_not_taken_back_for_its_request() -> None:
    world = World(probed(AfterRollout.ROLL_BACK), Sender(*["late"] * ATTEMPTS))
    change = world.write(is_rollback=True)
    assert world.phases(change, ATTEMPTS)[-1] is RolloutPhase.READY
    assert "late" in world.workload.read(world.pipeline).problem


def test_a_request_that_cannot_be_sent_takes_nothing_back() -> None:
    world = World(probed(AfterRollout.ROLL_BACK), Sender(*[UsageError("no address is known")] * 5))
    assert world.phases(world.write(), 2) == [RolloutPhase.READY] * 2
    assert world.sender.sent == 1
    assert world.workload.read(world.pipeline).problem == (
        "the smoke request cannot be sent: no address is known"
    )


def test_an_error_of_sending_counts_as_a_failure() -> None:
    world = World(probed(AfterRollout.ROLL_BACK), Sender(*[UnavailableError("it hangs")] * ATTEMPTS))
    assert world.phases(world.write(), ATTEMPTS)[-1] is RolloutPhase.FAILED


def test_a_look_without_a_decision_sends_nothing() -> None:
    world = World(probed(AfterRollout.ROLL_BACK), Sender())
    assert world.phases(world.write(decision_id=""), 1) == [RolloutPhase.READY]
    assert world.sender.sent == 0


def test_another_writer_s_change_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipa.control.ports import Rollout

    world = World(probed(AfterRollout.ROLL_BACK), Sender("late"))
    change = world.write()
    replaced = Rollout(RolloutPhase.READY, "another writer replaced the change")
    monkeypatch.setattr(world.inner, "rollout", lambda *_: replaced)
    assert world.workload.rollout(world.pipeline, change) == replaced
    assert world.sender.sent == 0


def test_a_workload_that_creates_still_creates() -> None:
    class Creating(FakeWorkload):
        def create(self, pipeline: Pipeline, configs: object) -> str:
            return "1"

        def as_written(self, pipeline: Pipeline, configs: object) -> object:
            return configs

    made = ProbedCreating(Creating(VirtualClock(), SMALLEST), Sender())  # type: ignore[arg-type]
    assert made.create(PIPELINE, SMALLEST) == "1"
    assert made.as_written(PIPELINE, SMALLEST) == SMALLEST
    assert made.rolling is FakeWorkload.rolling


def in_a_loop(after: AfterRollout, sender: Sender) -> Scenario:
    """A loop that adds capacity at its first tick."""

    def behind(*made: Any) -> Any:
        return ProbedWorkload(FakeWorkload(*made), sender)

    return scenario(25.0, pipeline=probed(after), workload_of=behind)  # type: ignore[arg-type]


def test_a_loop_takes_back_a_change_whose_request_fails() -> None:
    made = in_a_loop(AfterRollout.ROLL_BACK, Sender(*["it answered 500: crashed"] * ATTEMPTS))
    decisions = made.ticks(6)
    (first, rollback) = [each for each in decisions if each.action is Action.APPLY][:2]
    assert first.configs != SMALLEST
    waiting = [each.detail for each in decisions if each.reason is ReasonCode.IN_PROGRESS]
    assert any("the smoke request failed (1 of 3)" in detail for detail in waiting)
    assert rollback.reason is ReasonCode.ROLLBACK and rollback.configs == SMALLEST
    assert "the smoke request failed (3 of 3): http://here: it answered 500: crashed" in rollback.detail


def test_a_loop_goes_on_if_the_failure_is_only_told() -> None:
    made = in_a_loop(AfterRollout.REPORT, Sender(*["it answered 500: crashed"] * ATTEMPTS))
    decisions = made.ticks(6)
    assert ReasonCode.ROLLBACK not in {each.reason for each in decisions}
    shown = live_state(PIPELINE, PROFILES, made.loop.snapshot(), now=made.clock.now(), tick_s=5.0)
    (problem,) = shown.degraded
    assert problem == "the smoke request failed (3 of 3): http://here: it answered 500: crashed"
