"""W: what runs does not become what was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest

from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.state import ChangeRequest
from ipa.control.ports import Signals
from ipa.model.decision import Action, Decision, Notice, ReasonCode
from ipa.model.observation import Batches, Measured
from ipa.model.plan import StageConfig
from ipa.targets.seldon.manifest import read
from tests.fakes.kube import Trouble
from tests.fakes.kube.store import Json
from tests.fakes.looped import troubled
from tests.fakes.policy_contract import VARIANTS
from tests.fakes.world import SMALLEST
from tests.faults.invariants import configs_of
from tests.faults.table import Case
from tests.faults.world import NAME, NAMESPACE, SETTINGS, KubeWorld, build

HIGH_RPS = 25.0
CORRECTING = replace(SETTINGS, correct_profiles=True)
# Of the batches that the metrics tell of.
WINDOW_S = 10.0


def rollback_s(world: KubeWorld, most: int = 60) -> float:
    """Seconds from the next write until the previous configuration runs again, alone."""
    before = world.desired()
    while world.tick().action is not Action.APPLY:
        assert len(world.decisions) < most
    began_s = world.clock.monotonic_s() - world.settings.tick_s
    for _ in range(most):
        world.tick()
        if world.desired() == before and world.invariants.is_settled():
            return world.clock.monotonic_s() - began_s
    return -1.0


@pytest.mark.parametrize("trouble", [Trouble.CRASH, Trouble.IMAGE, Trouble.NEVER_READY])
def test_w1_a_new_variant_does_not_come_up(case: Case, trouble: Trouble) -> None:
    with build() as world:
        world.kube.cluster.trouble_of = troubled(trouble, "big")
        took_s = rollback_s(world)
        lost = world.lost
        limit_s = 30.0 if trouble is not Trouble.NEVER_READY else 90.0
        case.at_least(f"rollback s ({trouble.value})", took_s, 1.0)
        case.at_most(f"rollback s ({trouble.value})", took_s, limit_s)
        case.equal("requests lost", lost, 0.0)
        back = next(one for one in world.applied() if one.reason is ReasonCode.ROLLBACK)
        named = trouble.value if trouble is not Trouble.NEVER_READY else "not ready after"
        case.equal("gives the reason", named in back.detail, True)
        world.sound()


def test_w1_a_broken_variant_is_tried_seldom(case: Case) -> None:
    slow = replace(SETTINGS, tick_s=15.0)
    with build(settings=slow, step_s=15.0) as world:
        world.kube.cluster.trouble_of = troubled(Trouble.CRASH, "big")
        world.until_s(3600)
        tries = [one for one in world.applied() if any(config.variant == "big" for config in one.configs)]
        case.at_most("tries in 1 h", len(tries), 8)
        case.equal("requests lost", world.lost, 0.0)
        world.kube.cluster.trouble_of = lambda pod: None
        # The longest of its waits is 64 minutes.
        took = next((at for at in range(300) if world.tick() and used(world) == {"big"}), -1)
        case.at_least("ticks until it is used after the repair", took, 0)
        world.sound()


def used(world: KubeWorld) -> set[str]:
    """The variants that are asked for."""
    return {one.variant for one in world.desired()}


def pending(world: KubeWorld) -> int:
    """Pods that no node has room for."""
    pods = world.kube.store.everything("pods")
    return sum(
        any(one.get("reason") == "Unschedulable" for one in pod["status"]["conditions"]) for pod in pods
    )


def test_w2_no_room_for_the_pods(case: Case) -> None:
    with build(capacity_cores=5.0) as world:
        world.settle()
        world.rate_rps = 45.0
        pile, tries = 0.0, 0
        for _ in range(60):
            before, had = world.desired(), pending(world)
            world.tick()
            grown = sum(one.replicas for one in world.desired()) - sum(one.replicas for one in before)
            pile += max(grown, 0) if had else 0
            tries += grown > 0
        case.equal("replicas requested while others were unschedulable", pile, 0)
        case.at_most("tries in 5 min", tries, 5)
        named = [one.detail for one in world.decisions if "Unschedulable" in one.detail]
        case.equal("reports unschedulable pods", bool(named), True)
        # Within the room there is, it serves more than it did.
        case.at_least("rps served at the end", world.served_rps(), 45.0)
        world.sound()


def test_w3_the_rollback_fails_too(case: Case) -> None:
    with build() as world:
        # No pod comes up any more, old variant or new.
        world.settle()
        world.kube.cluster.trouble_of = lambda pod: Trouble.IMAGE
        world.rate_rps = HIGH_RPS
        world.ticks(40)
        writes = len(world.kube.writes)
        world.ticks(40)
        loops = len(world.kube.writes) - writes
        case.equal("writes after it", loops, 0)
        case.equal("reason", world.decisions[-1].reason, ReasonCode.ROLLBACK_FAILED)
        case.note("warning events", sum(event.is_warning for event in world.events.events))
        # What was wanted gets ready: nobody needs to say so.
        world.kube.cluster.trouble_of = lambda pod: None
        world.ticks(4)
        case.equal("goes on by itself", world.decisions[-1].reason is ReasonCode.ROLLBACK_FAILED, False)
        assert world.settle() >= 0
        world.sound()


def test_w4_status_stuck_while_deployments_are_ready(case: Case) -> None:
    with build() as world:
        world.settle()
        world.kube.cluster.stuck_status = True
        world.rate_rps = HIGH_RPS
        world.ticks(40)
        false = world.reasons().count(ReasonCode.ROLLBACK)
        carries = world.served_rps() >= HIGH_RPS
        case.equal("false rollbacks", false, 0)
        case.equal("carries the load", carries, True)
        assert world.settle() >= 0
        world.sound()


LEVELS = (None, 1, 3)


def test_w5_replicas_at_three_levels(case: Case) -> None:
    """The read is compared with what the operator makes of it, over all combinations."""
    tried = wrong = 0
    for component, predictor, whole in product(LEVELS, LEVELS, LEVELS):
        tried += 1
        with build() as world:

            def levels(
                sdep: Json,
                component=component,
                predictor=predictor,
                whole=whole,  # type: ignore[no-untyped-def]
            ) -> None:
                spec = sdep["spec"]
                places = (
                    (spec["predictors"][0]["componentSpecs"][0], component),
                    (spec["predictors"][0], predictor),
                    (spec, whole),
                )
                for place, value in places:
                    place.pop("replicas", None)
                    if value is not None:
                        place["replicas"] = value

            world.hand(levels)
            world.kube.tick(8)
            replicas = world.workload.read(world.pipeline).stages[0].config.replicas
            pods = [one for one in world.pods() if "-0-detect" in one]
            wrong += replicas != len(pods)
    case.note("combinations", tried)
    case.equal("wrong reads", wrong, 0)


def test_w5_a_write_counts_whatever_level_replicas_were_at(case: Case) -> None:
    with build() as world:

        def at_the_top(sdep: Json) -> None:
            sdep["spec"]["replicas"] = 1
            for component in sdep["spec"]["predictors"][0]["componentSpecs"]:
                component.pop("replicas")

        world.hand(at_the_top)
        world.ticks(2)
        world.rate_rps = HIGH_RPS
        settled = world.settle()
        case.at_least("ticks to settle", settled, 0)
        case.equal("carries the load", world.served_rps() >= HIGH_RPS, True)
        case.equal("top level unchanged", world.sdep()["spec"]["replicas"], 1)


def test_w6_a_replica_only_decision_touches_replicas_only(case: Case) -> None:
    configs = (StageConfig("detect", "big", 1, 1.0, 1), StageConfig("read", "big", 1, 1.0, 1))
    with build(configs=configs) as world:
        world.settle()
        before, sent = world.pods(), len(world.sent())
        wanted = tuple(replace(one, replicas=one.replicas + 1) for one in world.desired())
        decision = world.loop.tick_once(ChangeRequest(wanted, "two of each"))
        assert decision.action is Action.APPLY, decision.detail
        world.clock.wait(world.settings.tick_s)
        world.ticks(8)
        # The operator tells the orchestrator all of it: that one restarts with every write.
        restarts = len({name for name in before - world.pods() if "svc-orch" not in name})
        patches = [one.body for one in world.sent()[sent:] if isinstance(one.body, list)]
        touched = {
            operation["path"].rpartition("/")[2]
            for body in patches
            for operation in body
            if operation["op"] != "test" and "/annotations" not in operation["path"]
        }
        case.equal("restarts", restarts, 0)
        case.equal("fields touched", touched, {"replicas"})
        world.sound()


@pytest.mark.parametrize("scaler", ["hpaSpec", "kedaSpec"])
def test_w7_an_autoscaler_owns_the_replicas(case: Case, scaler: str) -> None:
    spec: Json = {"maxReplicas": 5} if scaler == "hpaSpec" else {"triggers": [{"type": "cpu"}]}
    with build() as world:
        world.settle()

        writes = len(world.kube.writes)
        with world.kube.store.lock:
            live = world.sdep()
            component = live["spec"]["predictors"][0]["componentSpecs"][1]
            component[scaler] = spec
            world.kube.store.replace("seldondeployments", live)
        world.invariants.hand()
        world.rate_rps = HIGH_RPS
        world.ticks(20)
        fights = len(world.kube.writes) - writes
        case.equal("writes", fights, 0)
        last = world.decisions[-1]
        case.equal("reason", last.reason, ReasonCode.DRIFT)
        case.equal("names stage and autoscaler", "'read'" in last.detail and scaler in last.detail, True)
        world.sound()


@pytest.mark.parametrize("keda", [False, True])
def test_w7_an_autoscaler_that_targets_the_deployment_from_outside(case: Case, keda: bool) -> None:
    with build() as world:
        world.settle()
        writes = len(world.kube.writes)
        name = next(one for one in deployments(world) if "-1-read" in one)
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        labels = {"scaledobject.keda.sh/name": "by-queue"} if keda else {}
        scaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "fast", "labels": labels},
            "spec": {"scaleTargetRef": target, "maxReplicas": 9},
        }
        world.kube.store.create("horizontalpodautoscalers", NAMESPACE, scaler)
        world.rate_rps = HIGH_RPS
        world.ticks(20)
        fights = len(world.kube.writes) - writes
        case.equal("writes", fights, 0)
        case.equal("reason", world.decisions[-1].reason, ReasonCode.DRIFT)
        case.equal("names it", "'fast'" in world.decisions[-1].detail, True)
        world.kube.store.delete("horizontalpodautoscalers", NAMESPACE, "fast")
        case.at_least("ticks to settle after its removal", world.settle(), 0)
        world.sound()


def deployments(world: KubeWorld) -> list[str]:
    return [one["metadata"]["name"] for one in world.kube.store.everything("deployments")]


class Real:
    """Queues before the stages of a world in which every replica is `slower` times as slow as measured.

    A fluid model: what comes beyond capacity waits, and a request's latency is its service and its waits.
    Batches are half full; those of the window from before were as measured.
    """

    def __init__(self, world: KubeWorld, slower: float) -> None:
        self.world, self.slower = world, slower
        self.waiting = dict.fromkeys(world.carried_rps(), 0.0)
        self.late = self.requests = self.longest_s = 0.0
        self.began_s = world.clock.monotonic_s()
        world.clock.every(1.0, self.second)
        world.metrics.fault = self.observed

    def latency_s(self) -> float:
        carried = self.world.carried_rps()
        waits = sum(self.waiting[name] / (rate / self.slower) for name, rate in carried.items())
        service = sum(
            VARIANTS[one.stage][one.variant][1] * (0.4 + 0.6 * one.batch_size) / one.cores**0.8
            for one in self.world.desired()
        )
        return float(service * self.slower + waits)

    def second(self) -> None:
        arriving = self.world.rate_rps
        for name, rate in self.world.carried_rps().items():
            leaving = min(arriving + self.waiting[name], rate / self.slower)
            self.waiting[name] += arriving - leaving
            arriving = leaving
        latency_s = self.latency_s()
        self.requests += self.world.rate_rps
        self.late += self.world.rate_rps * (latency_s > self.world.pipeline.sla.latency_s)
        self.longest_s = max(self.longest_s, latency_s)

    def batches(self, stage: str, now_s: float) -> Batches:
        """Those of the window, of which the part since it began took that much longer."""
        (config,) = (one for one in self.world.desired() if one.stage == stage)
        items = (1 + config.batch_size) / 2
        measured_s = VARIANTS[stage][config.variant][1] * (0.4 + 0.6 * items) / config.cores**0.8
        slow_ratio = min((now_s - self.began_s) / WINDOW_S, 1.0)
        service_s = measured_s * (1 + (self.slower - 1) * slow_ratio)
        return Batches(self.world.rate_rps / items * WINDOW_S, service_s, items, WINDOW_S)

    def observed(self, now_s: float, signals: Signals) -> Signals:
        stages = {
            name: replace(
                stage,
                queue_length=Measured(self.waiting[name]),
                batches=Measured(self.batches(name, now_s)),
            )
            for name, stage in signals.stages.items()
        }
        return replace(signals, latency_s=Measured(self.latency_s()), stages=stages)


def ten_minutes(
    slower: float, settings: GuardSettings = SETTINGS
) -> tuple[KubeWorld, Real, Sequence[Decision]]:
    """A load that the plan carries with a tenth to spare by the profile; and what was decided."""
    with build(settings=settings, rate_rps=12.0) as world:
        world.settle()
        real = Real(world, slower)
        began = len(world.decisions)
        world.until_s(world.clock.monotonic_s() + 600)
        return world, real, world.decisions[began:]


def first(decisions: Sequence[Decision], holds: Callable[[Decision], bool]) -> int:
    """The number of the first decision for which that holds; -1 for none."""
    return next((at for at, one in enumerate(decisions) if holds(one)), -1)


def corrects(decision: Decision) -> bool:
    """True if it was planned with slower replicas than the profile's, by the state it was recorded with."""
    return any(one["steps"] for one in json.loads(decision.inputs)["state"]["correction"]["seen"])


def test_w8_the_profile_is_thirty_percent_too_fast(case: Case) -> None:
    world, real, decisions = ten_minutes(1.3, CORRECTING)
    case.at_least("ticks to detect", first(decisions, corrects), 1)
    case.at_most("ticks to detect", first(decisions, corrects), 6)
    warned = [one for one in world.events.events if one.reason is Notice.PROFILE_SLOW]
    case.at_least("residual alarms", len(warned), 1)
    case.at_most("residual alarms", len(warned), 2)
    # 7.5 by when the plan is written, and 8 s of the 600: the controller sees the write a step of 5 s later,
    # and what came meanwhile waits 3 s more.
    case.at_most("requests late %", 100 * real.late / real.requests, 7.5 + 100 * 8 / 600)
    case.note("longest latency s", real.longest_s)
    case.at_most("changes in 10 min", len(world.applied()), 8)
    world.sound()


@pytest.mark.parametrize("slower", [1.0, 0.7])
def test_w8_the_profile_is_right_or_too_slow(case: Case, slower: float) -> None:
    world, real, decisions = ten_minutes(slower, CORRECTING)
    # Requests would be late although the model expected none.
    case.equal("alarms", first(decisions, lambda it: it.reason is ReasonCode.RELIEVED), -1)
    if slower < 1:
        case.at_most("ticks until cores are given back", first(decisions, corrects), 12)
    else:
        case.equal("corrections", first(decisions, corrects), -1)
    case.equal("requests late %", 100 * real.late / real.requests, 0.0)
    case.at_most("changes in 10 min", len(world.applied()), 2 if slower == 1 else 4)
    world.sound()


def test_what_the_checker_reads_is_what_the_adapter_reads() -> None:
    """The oracle of the invariants and the adapter are written apart; on the same object they agree."""
    with build() as world:
        sdep = world.sdep()
        assert sdep["metadata"]["name"] == NAME
        assert configs_of(world.pipeline, sdep) == read(world.pipeline, sdep) == SMALLEST
