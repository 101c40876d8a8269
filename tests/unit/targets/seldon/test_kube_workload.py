"""KubeWorkload where things go wrong: lost answers, faster hands, pods that do not come up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.control.ports import RolloutPhase
from ipa.model.errors import ConflictError
from tests.fakes.kube import FaultKind, Trouble
from tests.fakes.kube.api import Request
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.unit.targets.conftest import World
from tests.unit.targets.seldon.test_kube_split import component_of

Json = dict[str, Any]
PIPELINE = sample_pipeline()
CONFIGS = DETECT, READ, SORT = sample_configs()
LARGE = (replace(DETECT, variant="d-l"), READ, SORT)
MORE = (replace(DETECT, replicas=3), READ, SORT)


def rescale(sdep: Json) -> None:
    sdep["spec"]["predictors"][0]["componentSpecs"][1]["replicas"] = 7


def test_a_write_is_one_dry_run_and_one_patch(world: World) -> None:
    change = world.change(*MORE)
    world.kube.requests.clear()
    revision = world.workload.write(PIPELINE, change)
    # What the namespace's PodSecurity admits is asked before.
    requests = [one for one in world.kube.requests if one.resource != "namespaces"]
    sent = [(one.verb, one.is_dry_run) for one in requests]
    assert sent == [("get", False), ("patch", True), ("patch", False)]
    assert requests[1].body == requests[2].body
    assert revision == world.workload.read(PIPELINE).revision != change.revision


def test_it_is_not_settled_from_the_write_until_the_last_old_pod_is_gone(world: World) -> None:
    assert world.workload.read(PIPELINE).settled
    change = world.write(*LARGE)
    assert "does not carry the change yet" in world.workload.rollout(PIPELINE, change).detail
    states = []
    for _ in range(8):
        state = world.workload.read(PIPELINE)
        states.append((world.workload.rollout(PIPELINE, change).phase, state.settled))
        # maxUnavailable 0: capacity never falls.
        assert state.stages[0].ready_replicas >= 1
        world.kube.tick()
    ready = states.index((RolloutPhase.READY, True))
    assert ready > 2
    assert set(states[:ready]) == {(RolloutPhase.PROGRESSING, False)}
    assert set(states[ready:]) == {(RolloutPhase.READY, True)}


def test_env_that_the_operator_overrides_or_that_is_there_twice_does_not_keep_it_unready(
    world: World,
) -> None:
    def add(sdep: Json) -> None:
        env = sdep["spec"]["predictors"][0]["componentSpecs"][1]["spec"]["containers"][0]["env"]
        env.insert(0, {"name": "MODEL", "value": "not what counts"})
        env.append({"name": "MLSERVER_HTTP_PORT", "value": "1"})

    world.kube.edit("models", "sample", add)
    change = world.write(replace(READ, batch_size=2))
    assert world.watch(change, 9)[-1].phase is RolloutPhase.READY


def test_an_unanswered_patch_and_another_hand_make_a_conflict(world: World) -> None:
    change = world.change(*MORE)
    world.kube.fault(FaultKind.LOST_BEFORE, verb="patch", is_dry_run=False)

    def meanwhile(request: Request) -> None:
        if request.verb == "get" and any(not one.is_dry_run for one in patches()):
            world.kube.before = None
            world.kube.edit("models", "sample", rescale)

    def patches() -> list[Request]:
        return [one for one in world.kube.requests if one.verb == "patch"]

    world.kube.before = meanwhile
    with pytest.raises(ConflictError, match="by another writer"):
        world.workload.write(PIPELINE, change)


def _is_large(pod: Json) -> bool:
    return any(one.get("image") == "registry.example/detect:l" for one in pod["containers"])


def test_old_pods_in_trouble_do_not_fail_the_change_that_replaces_them(world: World) -> None:
    def crash_small(pod: Json) -> Trouble | None:
        images = [one.get("image") for one in pod["containers"]]
        return Trouble.CRASH if "registry.example/detect:s" in images else None

    world.kube.cluster.trouble_of = crash_small
    world.kube.tick()
    assert world.workload.read(PIPELINE).stages[0].ready_replicas == 0
    change = world.write(*LARGE)
    phases = [rollout.phase for rollout in world.watch(change, 8)]
    assert RolloutPhase.FAILED not in phases
    assert phases[-1] is RolloutPhase.READY


def test_another_hands_failure_is_not_this_changes(world: World) -> None:
    world.kube.cluster.trouble_of = lambda pod: Trouble.CRASH if _is_large(pod) else None
    change = world.write(*MORE)
    switched = {"image": "registry.example/detect:l"}
    world.kube.edit("models", "sample", lambda it: component_of(it)["spec"]["containers"][0].update(switched))
    assert {rollout.phase for rollout in world.watch(change, 4)} == {RolloutPhase.READY}


def test_a_deployment_past_its_progress_deadline_fails_the_change(world: World) -> None:
    world.kube.cluster.progress_deadline_ticks = 3
    world.kube.cluster.trouble_of = lambda pod: Trouble.NEVER_READY if _is_large(pod) else None
    change = world.write(*LARGE)
    phases = [rollout.phase for rollout in world.watch(change, 9)]
    assert phases[3] is RolloutPhase.PROGRESSING
    assert phases[-1] is RolloutPhase.FAILED
