"""K: the Kubernetes API fails, lies, forgets or is late."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from ipa.control.engine.guards import bound_faults
from ipa.control.ports import Rollout, WorkloadState
from ipa.model.decision import Action, Change, ReasonCode
from ipa.model.pipeline import Pipeline
from ipa.policies.ours import Ours
from tests.fakes.kube import FaultKind
from tests.fakes.kube.api import Request
from tests.fakes.kube.store import Json
from tests.fakes.workload import FakeWorkload
from tests.fakes.world import PIPELINE as LOCAL
from tests.fakes.world import SMALLEST, Scenario, scenario
from tests.faults.drive import Entry, drive, rename
from tests.faults.invariants import Configs
from tests.faults.table import Case, variants
from tests.faults.world import NAME, NAMESPACE, PLANNER, QUIET, SETTINGS, KubeWorld, build

HIGH_RPS = 25.0
# Ten of the two waves of starts and the loop, and one in which a controller has not seen the write yet.
SETTLED_TICKS = 11


def before_writes(world: KubeWorld, times: int, do: Callable[[], None]) -> None:
    """Let another hand come between our read and each of our next writes."""
    left = [times]

    def faster(request: Request) -> None:
        if request.verb in ("patch", "update") and not request.is_dry_run and left[0]:
            left[0] -= 1
            do()

    world.kube.before = faster


def move(world: KubeWorld) -> None:
    """Give the object another generation, and nothing of ours another value."""
    with world.kube.store.lock:
        live = world.kube.store.get("seldondeployments", NAMESPACE, NAME)
        live["spec"]["predictors"][0]["annotations"]["moved"] = str(world.kube.store.version)
        world.kube.store.replace("seldondeployments", live)


def repeated(world: KubeWorld, since: int) -> int:
    """The writes from that one on that ask for what another one of them asked for."""
    operations = [
        repr([operation for operation in one.body if operation["op"] != "test"])
        for one in world.sent()[since:]
    ]
    return len(operations) - len(set(operations))


def settled_after_a_step(world: KubeWorld) -> int:
    """Ticks until what the higher load asks for runs."""
    world.rate_rps = HIGH_RPS
    return world.settle()


def ticks_to_apply(world: KubeWorld, most: int = 60) -> int:
    """Ticks until a write is accepted; -1 where none is."""
    return next((at for at in range(most) if world.tick().action is Action.APPLY), -1)


@pytest.mark.parametrize("times", [1, 2])
def test_k1_conflict_a_few_times(case: Case, times: int) -> None:
    with build() as world:
        world.settle()
        sent = len(world.sent())
        before_writes(world, times, lambda: move(world))
        world.rate_rps = HIGH_RPS
        mttr = ticks_to_apply(world)
        refused = len(world.sent()) - sent - 1
        case.note(f"refused × {times}: attempts", refused + 1)
        case.equal("identical writes repeated", world.sent_again(), 0)
        case.at_most("MTTR ticks", mttr - times, 1)
        case.equal("decisions with hold.conflict", world.reasons().count(ReasonCode.CONFLICT), times)
        assert world.settle() >= 0
        case.equal("writes once settled", world.quiet_writes(), 0)
        world.sound()


def test_k1_conflict_always(case: Case) -> None:
    with build() as world:
        world.settle()
        sent = len(world.sent())
        before_writes(world, 10**6, lambda: move(world))
        world.rate_rps = HIGH_RPS
        world.ticks(20)
        attempts = len(world.sent()) - sent
        case.at_most("attempts in 20 ticks", attempts, world.settings.max_conflicts)
        case.equal("identical writes repeated", world.sent_again(), 0)
        case.equal("reason", world.decisions[-1].reason, ReasonCode.CONFLICT)
        world.kube.before = None
        at_most = int(world.settings.quarantine_s / world.settings.tick_s) + 1
        case.at_most("MTTR ticks after its end", ticks_to_apply(world), at_most)
        assert world.settle() >= 0
        world.sound()


def _rename(world: KubeWorld) -> None:
    live = world.kube.store.get("seldondeployments", NAMESPACE, NAME)
    predictor = live["spec"]["predictors"][0]
    predictor["componentSpecs"][1]["spec"]["containers"][0]["name"] = "read-v2"
    rename(predictor["graph"], "read", "read-v2")
    world.kube.store.replace("seldondeployments", live)


def _reorder(world: KubeWorld) -> None:
    live = world.kube.store.get("seldondeployments", NAMESPACE, NAME)
    live["spec"]["predictors"][0]["componentSpecs"][1]["spec"]["containers"].reverse()
    world.kube.store.replace("seldondeployments", live)


def _proxy(world: KubeWorld) -> Json:
    containers = [
        one
        for component in world.sdep()["spec"]["predictors"][0]["componentSpecs"]
        for one in component["spec"]["containers"]
    ]
    return next(one for one in containers if one["name"] == "proxy")


WORDS = {_rename: "renamed", _reorder: "moved"}


@pytest.mark.parametrize("hand", WORDS)
def test_k2_container_renamed_or_moved_between_read_and_patch(
    case: Case, hand: Callable[[KubeWorld], None]
) -> None:
    with build() as world:
        world.settle()
        proxy = _proxy(world)
        writes = len(world.kube.writes)
        before_writes(world, 1, lambda: hand(world))
        world.rate_rps = HIGH_RPS
        made = world.ticks(4)
        wrong = sum(one.startswith(("I1 ", "I10 ")) for one in world.invariants.violations)
        case.equal(f"writes to a wrong container ({WORDS[hand]})", wrong, 0)
        assert _proxy(world) == proxy
        case.equal("reason of the faulty tick", made[0].reason, ReasonCode.CONFLICT)
        if hand is _rename:
            case.equal("reasons of the next ticks", {one.reason.value for one in made[1:]}, {"hold.drift"})
            case.equal("names the missing part", "'read'" in made[1].detail, True)
            case.equal("writes", len(world.kube.writes) - writes, 0)
        else:
            # Read by its name, it is found in its new place.
            assert world.settle() >= 0
            case.equal("carries the load", world.served_rps() >= HIGH_RPS, True)
        world.sound()


def test_k5_twenty_minutes_dark(case: Case) -> None:
    with build() as world:
        world.settle()
        began_s = world.clock.monotonic_s()
        before, sent = world.desired(), len(world.kube.requests)
        dark = Entry(62, "kube", "status", status=503, for_s=1200)
        drive(world, [dark, Entry(300, "load", "rate", rate_rps=HIGH_RPS)])
        # A tick without an answer takes some seconds.
        world.until_s(began_s + 1250)
        case.note("requests during the outage", len(world.kube.requests) - sent)
        case.equal("changes during the outage", int(world.desired() != before), 0)
        case.at_most("MTTR ticks", ticks_to_apply(world), 2)
        assert world.settle() >= 0
        world.sound()


@pytest.mark.parametrize(("status", "minutes"), variants([(500, 1), (503, 5)], [(503, 1), (500, 5)]))
def test_k5_errors_for_minutes(case: Case, status: int, minutes: int) -> None:
    with build() as world:
        world.settle()
        world.rate_rps = HIGH_RPS
        world.fault(FaultKind.STATUS, status=status, times=10**9)
        dark = world.ticks(12 * minutes)
        case.equal("reasons", {one.reason.value for one in dark}, {"hold.workload_unknown"})
        world.clear_faults()
        case.at_most("MTTR ticks", ticks_to_apply(world), 2)
        assert world.settle() >= 0
        world.sound()


@pytest.mark.parametrize(
    ("over", "kind"),
    variants(
        [("http", FaultKind.LOST_AFTER), ("process", FaultKind.TRUNCATED), ("http", FaultKind.HTML)],
        [("process", FaultKind.LOST_AFTER), ("http", FaultKind.TRUNCATED), ("process", FaultKind.HTML)],
    ),
)
def test_k7_applied_and_the_answer_lost(case: Case, kind: FaultKind, over: str) -> None:
    with build(over=over) as world:
        world.settle()
        sent = len(world.sent())
        world.fault(kind, verb="patch", is_dry_run=False)
        world.rate_rps = HIGH_RPS
        settled = world.settle()
        case.equal("duplicate writes", repeated(world, sent), 0)
        case.at_most("ticks to settle", settled, SETTLED_TICKS)
        case.equal("writes once settled", world.quiet_writes(), 0)
        world.sound()


def test_k7_lost_and_the_reading_back_too(case: Case) -> None:
    with build() as world:
        world.settle()
        sent = len(world.sent())
        world.fault(FaultKind.LOST_AFTER, verb="patch", is_dry_run=False)

        def then_dark(request: Request) -> None:
            if request.verb == "patch" and not request.is_dry_run:
                world.fault(FaultKind.STATUS, status=503, times=10**9)
                world.kube.before = None

        world.kube.before = then_dark
        world.rate_rps = HIGH_RPS
        first, *_ = world.ticks(3)
        case.equal("reason of the faulty tick", first.reason, ReasonCode.WORKLOAD_UNKNOWN)
        world.clear_faults()
        assert world.settle() >= 0
        case.equal("duplicate writes", repeated(world, sent), 0)
        case.equal("rollbacks", world.reasons().count(ReasonCode.ROLLBACK), 0)
        world.sound()


@pytest.mark.parametrize(
    ("over", "kind"),
    variants(
        [("process", FaultKind.LOST_BEFORE), ("http", FaultKind.STATUS)],
        [("http", FaultKind.LOST_BEFORE), ("process", FaultKind.STATUS)],
    ),
)
def test_k8_not_applied_and_the_answer_lost(case: Case, kind: FaultKind, over: str) -> None:
    with build(over=over) as world:
        world.settle()
        recorded, sent = applied_records(world), len(world.sent())
        world.fault(kind, verb="patch", is_dry_run=False, status=503)
        world.rate_rps = HIGH_RPS
        first = world.tick()
        case.equal("reason of the faulty tick", first.reason, ReasonCode.WORKLOAD_UNKNOWN)
        case.at_most("MTTR ticks", ticks_to_apply(world), 2)
        new = applied_records(world) - recorded
        case.equal("writes without their own decision", len(world.sent()) - sent - new, 0)
        assert world.settle() >= 0
        world.sound()


def applied_records(world: KubeWorld) -> int:
    return sum(one.action is Action.APPLY for one in world.store.recorded)


@pytest.mark.parametrize("ticks", [1, 5])
@pytest.mark.parametrize("age", ["before our last write", "before the one before"])
def test_k10_reads_older_than_our_own_write(case: Case, ticks: int, age: str) -> None:
    with build() as world:
        first = world.kube.store.version
        world.settle()
        version = world.kube.store.version if age == "before our last write" else first
        sent = len(world.sent())
        world.rate_rps = HIGH_RPS
        assert world.tick().action is Action.APPLY
        assert world.pool is not None
        # Each read during these ticks is of before the write.
        world.pool.stale_reads, world.pool.stale_at = 10**6, version
        world.ticks(ticks)
        world.pool.stale_reads = 0
        settled = world.settle()
        drifts = world.reasons().count(ReasonCode.DRIFT)
        case.equal("duplicate writes", repeated(world, sent), 0)
        case.equal("false drifts", drifts, 0)
        case.at_most("ticks to settle", settled, SETTLED_TICKS)
        world.sound()


def test_k13_made_anew_in_the_middle_of_a_rollout(case: Case) -> None:
    for when in ("while it rolls", "between read and write"):
        with build() as world:
            world.settle()
            world.rate_rps = HIGH_RPS
            if when == "while it rolls":
                assert world.tick().action is Action.APPLY
                world.recreate()
            else:
                before_writes(world, 1, world.recreate)
            writes, at = len(world.kube.writes), len(world.decisions)
            world.tick()
            uid = world.sdep()["metadata"]["uid"]
            old = len(world.kube.writes) - writes
            case.equal(f"writes under the old plan, {when}", old, 0)
            settled = world.settle()
            later = [one for one in world.decisions[at:] if one.action is Action.APPLY]
            assert later
            assert all(one.revision.startswith(f"{uid}/") for one in later)
            case.equal("rollbacks", world.reasons(at).count(ReasonCode.ROLLBACK), 0)
            case.at_most(f"ticks to settle, {when}", settled, 16)
            world.sound()


def _annotated(sdep: Json) -> Json:
    sdep["metadata"].setdefault("annotations", {})["hook"] = "1"
    return sdep


def _rewritten(sdep: Json) -> Json:
    """The same in other words: amounts as decimals, env sorted, defaults filled in."""
    for component in sdep["spec"]["predictors"][0]["componentSpecs"]:
        component["spec"].setdefault("serviceAccountName", "default")
        for container in component["spec"]["containers"]:
            container["env"] = sorted(container["env"], key=lambda entry: str(entry["name"]))
            for amounts in container["resources"].values():
                amounts["cpu"] = str(float(str(amounts["cpu"]).removesuffix("m")) / _scale(amounts["cpu"]))
    return sdep


def _scale(amount: object) -> float:
    return 1000.0 if str(amount).endswith("m") else 1.0


def _capped(sdep: Json) -> Json:
    for component in sdep["spec"]["predictors"][0]["componentSpecs"]:
        component["replicas"] = min(component["replicas"], 1)
    return sdep


@pytest.mark.parametrize("hook", [_annotated, _rewritten])
def test_k14_a_webhook_that_says_the_same_in_other_words(case: Case, hook: Callable[[Json], Json]) -> None:
    with build() as world:
        world.settle()
        world.kube.api.mutate = hook
        sent = len(world.sent())
        settled = settled_after_a_step(world)
        case.at_most("ticks to settle", settled, SETTLED_TICKS)
        case.equal("false drifts", world.reasons().count(ReasonCode.DRIFT), 0)
        case.at_most("writes", len(world.sent()) - sent, 2)
        case.equal("writes once settled", world.quiet_writes(20), 0)


def test_k14_a_webhook_that_makes_it_something_else(case: Case) -> None:
    with build() as world:
        world.settle()
        world.kube.api.mutate = _capped
        sent = len(world.sent())
        world.rate_rps = HIGH_RPS
        world.ticks(40)
        loops = len(world.sent()) - sent
        case.equal("writes in 40 ticks", loops, 0)
        case.equal("reason", world.decisions[-1].reason, ReasonCode.CONFLICT)
        case.equal("gives the reason", "webhook" in world.decisions[-1].detail, True)
        world.sound()


def test_k15_gitops_puts_it_back_every_three_minutes(case: Case) -> None:
    with build(settings=replace(SETTINGS, tick_s=15.0), step_s=15.0) as world:
        back = Entry(181, "hand", "revert", every_s=180, until_s=5400)
        drive(world, [Entry(30, "load", "rate", rate_rps=HIGH_RPS), back])
        world.until_s(5430)
        case.at_most("fights in 90 min", world.reverts, world.settings.max_drifts)
        case.equal("reason", world.decisions[-1].reason, ReasonCode.DRIFT)
        drifts = [event for event in world.events.events if event.reason is ReasonCode.DRIFT]
        case.note("drift events", len(drifts))
        world.sound()


@pytest.mark.parametrize("seed", variants([0], [1, 2]))
def test_k15_a_person_edits_replicas(case: Case, seed: int) -> None:
    case.seeds = str(seed)
    source = random.Random(seed)
    with build() as world:
        world.settle()
        alternations, writes = 0, len(world.kube.writes)
        for _ in range(12):

            def scale(sdep: Json) -> None:
                component = sdep["spec"]["predictors"][0]["componentSpecs"][source.randrange(2)]
                component["replicas"] = component["replicas"] % 4 + 1

            world.hand(scale)
            # Long enough for us to put it back, were we to.
            world.ticks(source.randrange(14, 24))
            alternations += len(world.kube.writes) > writes
            writes = len(world.kube.writes)
        case.at_most("reverts of 12 edits by another writer", alternations, world.settings.max_drifts)
        case.equal("reason", world.decisions[-1].reason, ReasonCode.DRIFT)
        world.sound()


# Over the API server and the real adapter; all of them over a workload in memory, several times faster.
API_SEEDS = int(os.environ.get("IPA_FAULT_SEEDS", "10"))
SEEDS = int(os.environ.get("IPA_FAULT_SEEDS", "40"))


# A thousand seeds are minutes of work.
@pytest.mark.timeout(1800)
def test_k17_random_delay_of_each_call(case: Case) -> None:
    """Each call takes 0 to 5 s of virtual time; the load steps, and another hand moves the object."""
    case.seeds = f"0–{API_SEEDS - 1}"
    violating, unsettled, longest_s = [], [], 0.0
    for seed in range(API_SEEDS):
        world, settled = delayed(seed)
        if world.invariants.violations:
            violating.append((seed, world.invariants.violations[:2]))
        if not settled:
            unsettled.append(seed)
        longest_s = max(longest_s, world.invariants.longest_mixed_s)
    print(violating, unsettled)
    case.equal("violating seeds", len(violating), 0)
    case.equal("seeds that do not settle", len(unsettled), 0)
    case.note("longest mixed s", longest_s)


def random_delay(source: random.Random) -> Callable[[Request], tuple[float, float]]:
    """0 to 5 s, a part of it before the request is served."""

    def delay(request: Request) -> tuple[float, float]:
        whole_s = source.uniform(0.0, 5.0)
        before_s = source.uniform(0.0, whole_s)
        return before_s, whole_s - before_s

    return delay


def delayed(seed: int) -> tuple[KubeWorld, bool]:
    """A world after a step of the load with slow calls, and whether it settled."""
    source = random.Random(seed)
    configs: Configs = tuple(replace(one, replicas=source.randrange(1, 3)) for one in SMALLEST)
    rate_rps = source.choice([8.0, 15.0, HIGH_RPS])
    with build(delay=random_delay(source), configs=configs, rate_rps=rate_rps) as world:
        world.clock.at(source.uniform(0.0, 40.0), lambda: move(world))
        for _ in range(14):
            world.tick()
            if len(world.decisions) > 3 and world.reasons()[-1] in QUIET:
                break
        return world, world.invariants.is_settled()


class Slow(FakeWorkload):
    """A workload in memory, each call of which takes 0 to 5 s."""

    source = random.Random(0)

    def read(self, pipeline: Pipeline) -> WorkloadState:
        self.clock.wait(self.source.uniform(0.0, 5.0))
        return super().read(pipeline)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        self.clock.wait(self.source.uniform(0.0, 5.0))
        written = super().write(pipeline, change)
        self.clock.wait(self.source.uniform(0.0, 5.0))
        return written

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        self.clock.wait(self.source.uniform(0.0, 5.0))
        return super().rollout(pipeline, change)


def test_k17_random_delay_in_memory(case: Case) -> None:
    case.seeds = f"0–{SEEDS - 1}"
    violating = []
    for seed in range(SEEDS):
        source = random.Random(seed)
        low, high = source.choice([1.0, 5.0]), source.choice([8.0, 15.0, HIGH_RPS])
        step_s = source.uniform(0.0, 40.0)
        made = scenario(
            lambda t_s, low=low, high=high, step_s=step_s: low if t_s < step_s else high,
            policy=Ours(LOCAL, PLANNER),
            workload_of=Slow,
        )
        made.workload.source = source
        wrong: list[str] = []

        def check(change: Change, made: Scenario = made, wrong: list[str] = wrong) -> None:
            recorded = made.store.decision(change.decision_id)
            if recorded.configs != change.configs or recorded.action is not Action.APPLY:
                wrong.append("written without its record")
            if bound_faults(LOCAL, change.configs) or not made.workload.ready:
                wrong.append("outside its bounds, or a second change at once")

        made.workload.before_write = check
        for _ in range(11):
            decision = made.loop.tick_once()
            made.clock.wait(made.settings.tick_s)
        if wrong or decision.action is Action.APPLY or not made.workload.ready:
            violating.append((seed, wrong, decision.reason))
    print(violating)
    case.equal("violating seeds", len(violating), 0)
