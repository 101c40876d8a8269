"""K: answers of the API server that are none, or that say no."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.model.decision import ReasonCode
from ipa.model.errors import ForbiddenError, InputError, IpaError, NotFoundError, UnavailableError
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.faults.manners import NAMESPACE, patch_of
from tests.faults.table import Case
from tests.faults.world import build


@pytest.mark.parametrize("verb", ["get", "patch", "list", "watch"])
def test_k11_answers_that_are_none(
    case: Case,
    kube: FakeKube,
    connect: Callable[..., KubeClient],
    verb: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = connect(clock=VirtualClock())
    acts: dict[str, Callable[[], object]] = {
        "get": lambda: client.get(SELDON_DEPLOYMENT, NAMESPACE, "one"),
        "patch": lambda: client.patch(SELDON_DEPLOYMENT, NAMESPACE, "one", patch_of(2)),
        "list": lambda: client.list_all(SELDON_DEPLOYMENT, NAMESPACE),
        "watch": lambda: list(client.watch(SELDON_DEPLOYMENT, NAMESPACE, "1", 1.0)),
    }
    kinds = [FaultKind.TRUNCATED, FaultKind.HTML, FaultKind.WRONG_KIND, FaultKind.FAILURE]
    typed, leaked = 0, 0
    for kind in kinds:
        kube.fault(kind, verb=verb)
        try:
            acts[verb]()
        except UnavailableError as error:
            typed += 1
            leaked += "secret inside" in f"{error} {error.__cause__} {error.__context__}"
    case.note("verb", verb)
    case.equal("crashes or wrong beliefs", len(kinds) - typed, 0)
    case.equal("leaked bodies", leaked + caplog.text.count("secret inside"), 0)


def test_k11_the_loop_goes_on(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    kinds = [FaultKind.TRUNCATED, FaultKind.HTML, FaultKind.WRONG_KIND, FaultKind.FAILURE]
    with build(over="http") as world:
        world.settle()
        for kind in kinds:
            world.fault(kind)
            world.tick()
        texts = " ".join(decision.detail for decision in world.decisions) + caplog.text
        held = world.reasons()[-len(kinds) :].count(ReasonCode.WORKLOAD_UNKNOWN)
        case.equal("ticks that accepted garbage", len(kinds) - held, 0)
        case.equal("leaked bodies", texts.count("secret inside"), 0)
        case.at_most("ticks to settle", world.settle(), 2)
        world.sound()


def test_k12_token_that_was_rotated(
    case: Case, kube: FakeKube, connect: Callable[..., KubeClient], tmp_path: Path
) -> None:
    client = connect(clock=VirtualClock())
    client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
    kube.requests.clear()
    # Rotated, and ours not yet: the same again would be refused again.
    kube.tokens = {"new"}
    with pytest.raises(ForbiddenError, match="401"):
        client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
    case.equal("requests with an unchanged token", len(kube.requests), 1)
    kube.requests.clear()
    kube.kubeconfig(tmp_path, token="new")
    client.patch(SELDON_DEPLOYMENT, NAMESPACE, "one", patch_of(4))
    case.equal("requests of a call with a renewed token", len(kube.requests), 2)
    case.equal("writes of that call", len(kube.writes), 1)
    client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
    case.equal("requests of the next call", len(kube.requests) - 2, 1)
    kube.requests.clear()
    kube.tokens = {"newer"}
    kube.kubeconfig(tmp_path, token="wrong")
    with pytest.raises(ForbiddenError, match="401"):
        client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
    case.equal("requests with a renewed token, also refused", len(kube.requests), 2)


def test_k12_many_threads_with_a_token_that_was_rotated(
    case: Case, kube: FakeKube, connect: Callable[..., KubeClient], tmp_path: Path
) -> None:
    client = connect(clock=VirtualClock())
    client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
    kube.requests.clear()
    kube.kubeconfig(tmp_path, token="new")
    kube.tokens = {"new"}
    threads = 8
    start, failures = threading.Barrier(threads), []

    def call() -> None:
        start.wait()
        try:
            client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
        except IpaError as error:
            failures.append(error)

    running = [threading.Thread(target=call) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30.0)
    case.equal("failed calls", len(failures), 0)
    case.at_most("requests", len(kube.requests), 2 * threads)


@pytest.mark.parametrize(
    ("status", "error"), [(403, ForbiddenError), (422, InputError), (404, NotFoundError)]
)
def test_k12_refusals_are_not_repeated(
    case: Case, kube: FakeKube, connect: Callable[..., KubeClient], status: int, error: type[IpaError]
) -> None:
    client = connect(clock=VirtualClock())
    if status == 403:
        kube.denied = {("patch", "seldondeployments"), ("get", "seldondeployments")}
    if status == 404:
        with kube.store.lock:
            kube.store.delete("seldondeployments", NAMESPACE, "one")
    nameless = [{"op": "replace", "path": "/spec/predictors/0/graph/name", "value": "nobody"}]
    kube.requests.clear()
    for patch in (nameless,) if status == 422 else (patch_of(2), patch_of(3)):
        with pytest.raises(error):
            client.patch(SELDON_DEPLOYMENT, NAMESPACE, "one", patch)
    case.note("status", status)
    sent = 1 if status == 422 else 2
    case.equal("retries", len(kube.requests) - sent, 0)


def test_k12_rights_withdrawn_hold_the_pipeline(case: Case) -> None:
    ticks = 20
    with build(over="http") as world:
        world.settle()
        world.kube.denied = {("patch", "seldondeployments")}
        world.rate_rps = 25.0
        sent = sum(one.verb == "patch" for one in world.kube.requests)
        world.ticks(ticks)
        tried = sum(one.verb == "patch" for one in world.kube.requests) - sent
        case.equal("patches sent", tried, 1)
        case.equal("reason", world.reasons()[-1].value, ReasonCode.RBAC.value)
        case.equal("reports the missing right", "not allowed" in world.decisions[-1].detail, True)
        # Given back, and a person says so.
        world.kube.denied = set()
        world.say(paused=True)
        world.tick()
        world.say(paused=False)
        case.at_most("ticks to settle after the right is restored", world.settle(), 12)
        world.sound()


def test_k12_object_deleted(case: Case) -> None:
    with build(over="http") as world:
        world.settle()
        with world.kube.store.lock:
            world.kube.store.delete("seldondeployments", "default", "pages")
        writes = len(world.kube.writes)
        world.ticks(10)
        case.equal("writes", len(world.kube.writes) - writes, 0)
        case.equal("reasons", {one.value for one in world.reasons()[-10:]}, {"hold.workload_unknown"})
        case.equal("reports that it is deleted", "does not exist" in world.decisions[-1].detail, True)
