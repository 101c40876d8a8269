"""K: answers of the API server that are none or say no, and the service's own manners towards it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from ipa.adapters.kube import client as client_module
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import KubeEvents
from ipa.adapters.kube.transport import RATE_PER_S
from ipa.adapters.kube.watch import WATCH_S, Watcher
from ipa.model.decision import Event, ReasonCode
from ipa.model.errors import ForbiddenError, InputError, IpaError, NotFoundError, UnavailableError
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import SharedClock, VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.api import Request
from tests.faults.manners import NAMES, NAMESPACE, edit, named, patch_of
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
        world.kube.store.delete("seldondeployments", "default", "pages")
        writes = len(world.kube.writes)
        world.ticks(10)
        case.equal("writes", len(world.kube.writes) - writes, 0)
        case.equal("reasons", {one.value for one in world.reasons()[-10:]}, {"hold.workload_unknown"})
        case.equal("reports that it is deleted", "does not exist" in world.decisions[-1].detail, True)


@pytest.mark.parametrize("form", ["status 410", "ERROR event in a 200 stream"])
def test_k3_expired_watch(case: Case, kube: FakeKube, connect: Callable[..., KubeClient], form: str) -> None:
    rounds, seeds = 10, 3
    case.seeds = f"0–{seeds - 1}"
    missed = made_up = relists = 0
    names: set[str] = set()
    last = threading.Event()

    def hear(namespace: str, name: str) -> None:
        names.add(name)
        if last.is_set():
            # It came through the watch, which ends now.
            kube.expire_watches()

    for seed in range(seeds):
        draw, clock = random.Random(seed), VirtualClock()
        watcher = Watcher(connect(clock=clock), NAMESPACE, SELDON_DEPLOYMENT, hear, clock, seed=seed)
        watcher.step()
        for number in range(rounds):
            edited = set(draw.sample(NAMES, draw.randint(0, 3)))
            for name in sorted(edited):
                edit(kube, name, 10 + seed * rounds + number)
            if form == "status 410":
                with kube.store.lock:
                    kube.store.version += 1
                    kube.store.compact()
            else:
                kube.fault(FaultKind.EXPIRED, verb="watch")
            names.clear()
            # The watch that is refused, and the list after it.
            watcher.step()
            watcher.step()
            missed += len(edited - names)
            made_up += len(names - edited)
        relists += watcher.lists - 1
    case.equal("missed changes", missed, 0)
    case.equal("false change notifications", made_up, 0)
    case.equal("relists for each expiry", relists / (rounds * seeds), 1.0)
    # And it resumes: what happens after the last list comes through the watch.
    names.clear()
    last.set()
    edit(kube, "two", 99)
    watcher.step()
    case.equal("lists to see the next change", watcher.lists - 1 - rounds, 0)
    assert names == {"two"}


class Pushed:
    """A server that answers 429 until a time, and twenty loops that want something of it."""

    def __init__(self, kube: FakeKube, clock: SharedClock, retry_after: str | None, until_s: float) -> None:
        self.kube, self.clock, self.retry_after, self.until_s = kube, clock, retry_after, until_s
        self.at_s: list[float] = []
        self.served = 0
        self._lock = threading.Lock()
        kube.delay = self._seen

    def _seen(self, request: Request) -> None:
        now_s = self.clock.monotonic_s()
        with self._lock:
            self.at_s.append(now_s)
            if now_s < self.until_s:
                self.kube.fault(FaultKind.STATUS, status=429, retry_after=self.retry_after)

    def crowd(self, get: Callable[[], object], loops: int = 20, reads: int = 5) -> None:
        """So many loops, each until it was answered so many times; one that fails waits for its next tick."""

        def loop() -> None:
            left = reads
            while left:
                try:
                    get()
                    left -= 1
                except IpaError:
                    self.clock.wait(5.0)
            self.clock.leave()

        self.clock.crowd([threading.Thread(target=loop) for _ in range(loops)])
        self.served = loops * reads

    def most_in(self, window_s: float) -> int:
        """The most requests in any window of that length."""
        times = sorted(self.at_s)
        return max(sum(start <= at < start + window_s for at in times) for start in times)


@pytest.mark.parametrize("retry_after", ["30", None])
def test_k4_pushback(
    case: Case, kube: FakeKube, connect: Callable[..., KubeClient], retry_after: str | None
) -> None:
    outage_s = 60.0
    clock = SharedClock()
    client = connect(clock=clock)
    pushed = Pushed(kube, clock, retry_after, outage_s)
    with pytest.raises(UnavailableError):
        client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
    pushed.crowd(lambda: client.get(SELDON_DEPLOYMENT, NAMESPACE, "one"))
    during = [at for at in pushed.at_s if at < outage_s]
    case.note("Retry-After s", retry_after or "none")
    if retry_after is not None:
        asked_s = float(retry_after)
        gaps = [later - earlier for earlier, later in pairwise(during)]
        case.equal("requests before Retry-After", sum(gap < asked_s for gap in gaps), 0)
    # One at a time tries, the waits doubling up to the longest.
    case.at_most("requests in a minute of 429", len(during), 3 if retry_after else 20)
    budget = 1 + RATE_PER_S
    case.at_most("requests in the busiest second", pushed.most_in(1.0), budget)
    case.equal("reads answered eventually", len(pushed.at_s) - len(during), pushed.served)


def test_k4_a_call_that_cannot_wait(case: Case, kube: FakeKube, connect: Callable[..., KubeClient]) -> None:
    clock = VirtualClock()
    client = connect(clock=clock)
    kube.fault(FaultKind.STATUS, status=503, retry_after="120")
    with pytest.raises(UnavailableError):
        client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
    sent, waited_s = len(kube.requests), 0.0
    for verb in (
        partial(client.get, SELDON_DEPLOYMENT),
        lambda *place: client.patch(SELDON_DEPLOYMENT, *place, patch_of(3)),
    ):
        before_s = clock.monotonic_s()
        with pytest.raises(UnavailableError, match="backing off from the API server until 00:0"):
            verb(NAMESPACE, "one")
        waited_s += clock.monotonic_s() - before_s
    case.equal("s of waiting beyond the deadline", waited_s, 0.0)
    case.equal("requests sent", len(kube.requests) - sent, 0)
    clock.wait(150.0)
    assert client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")["kind"] == "SeldonDeployment"


def sockets_to(kube: FakeKube) -> int:
    """The number of this process's sockets that are at the server's port as clients."""
    port = int(kube.url.rpartition(":")[2])
    connections = psutil.Process().net_connections("tcp")
    return sum(
        bool(one.raddr) and one.raddr.port == port and one.status != "TIME_WAIT" for one in connections
    )


@pytest.mark.live
@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.DRIP, FaultKind.RESET, FaultKind.LOST_BEFORE])
def test_k6_slow_or_no_answers(case: Case, kind: FaultKind) -> None:
    deadline_s, faults = 0.5, 2
    with build(over="http", timeout_s=deadline_s) as world:
        world.settle()
        before = sockets_to(world.kube)
        took_s, reasons = [], set()
        for _ in range(faults):
            world.fault(kind, resource="seldondeployments")
            began_s = time.monotonic()
            reasons.add(world.tick().reason)
            took_s.append(time.monotonic() - began_s)
        settled = world.settle()
        case.note("fault", kind.name.lower())
        case.equal("ticks that held and said why", reasons, {ReasonCode.WORKLOAD_UNKNOWN})
        # Wide, for a busy machine: without a deadline it would be the server's patience, which is endless.
        case.at_most(f"longest tick s at a deadline of {deadline_s:g} s", max(took_s), 10.0)
        # The backoff may outlast one tick at so short a deadline.
        case.at_most("ticks to settle", settled, 3)
        case.equal("leaked sockets", max(0, sockets_to(world.kube) - before), 0)
        world.sound()


@pytest.mark.live
def test_k9_silent_watch(case: Case, kube: FakeKube, connect: Callable[..., KubeClient]) -> None:
    watch_s = 1.0
    changed_s: list[float] = []
    told_s: list[float] = []
    clock = VirtualClock()
    watcher = Watcher(
        connect(clock=clock),
        NAMESPACE,
        SELDON_DEPLOYMENT,
        lambda namespace, name: told_s.append(time.monotonic()),
        clock,
        watch_s=watch_s,
    )
    watcher.step()
    # Accepted, then nothing: no event, no bookmark, no end.
    kube.fault(FaultKind.SILENT, verb="watch")
    edit(kube, "three", 5)
    changed_s.append(time.monotonic())
    watcher.step()
    assert told_s == []
    watcher.step()
    stale_s = told_s[0] - changed_s[0]
    case.equal("missed changes", 1 - len(told_s), 0)
    case.equal("relists", watcher.lists - 1, 1)
    case.at_most(f"staleness s at a watch of {watch_s:g} s", stale_s, 20.0)
    case.note("staleness of the service's watch at most, in s", round(WATCH_S * stale_s / watch_s, 1))


def test_k16_pages_that_expire(
    case: Case, kube: FakeKube, connect: Callable[..., KubeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, page = 30, 2
    case.seeds = f"0–{seeds - 1}"
    monkeypatch.setattr(client_module, "PAGE", page)
    client = connect(clock=VirtualClock())
    missing = twice = given_up = starts = 0
    for seed in range(seeds):
        draw = random.Random(seed)
        left = draw.randint(1, client_module.LIST_STARTS - 1)

        def expire(request: Request, draw: random.Random = draw) -> None:
            nonlocal left, starts
            is_later = "continue" in request.query
            starts += request.verb == "list" and not is_later
            if is_later and left and draw.random() < 0.5:
                left -= 1
                kube.expire_lists()
            # Others go on changing things meanwhile.
            edit(kube, draw.choice(NAMES), draw.randint(1, 9))

        kube.delay = expire
        try:
            items, _ = client.list_all(SELDON_DEPLOYMENT, NAMESPACE)
        except UnavailableError:
            given_up += 1
            continue
        names = [one["metadata"]["name"] for one in items]
        missing += len(set(NAMES) - set(names))
        twice += len(names) - len(set(names))
    kube.delay = None
    case.equal("missing items", missing, 0)
    case.equal("items twice", twice, 0)
    case.equal("abandoned lists", given_up, 0)
    case.note("restarts", starts - seeds)
    # One whose pages always expire ends, and says so.
    kube.delay = lambda request: kube.expire_lists() if "continue" in request.query else None
    with pytest.raises(UnavailableError, match="expired"):
        client.list_all(SELDON_DEPLOYMENT, NAMESPACE)


@pytest.mark.parametrize("skew_s", [300.0, -300.0])
def test_c3_skew_of_the_api_server(
    case: Case, connect: Callable[..., KubeClient], kube: FakeKube, skew_s: float
) -> None:
    clock = VirtualClock()
    kube.wall_s, kube.skew_s = lambda: clock.now().timestamp(), skew_s
    client = connect(clock=clock)
    sink = KubeEvents(client, clock, SELDON.entry_of)
    for _ in range(5):
        clock.wait(7.3)
        client.get(SELDON_DEPLOYMENT, NAMESPACE, "one")
    pipeline = named("one")
    sink.emit(pipeline, Event(ReasonCode.DRIFT, "kubectl", is_warning=True))
    (event,) = kube.store.find("events", NAMESPACE)
    event_s = datetime.fromisoformat(event["lastTimestamp"].replace("Z", "+00:00")).timestamp()
    assert client.skew_s is not None
    case.note("skew s", skew_s)
    case.at_most("error of the measured skew s", abs(client.skew_s - skew_s), 1.0)
    case.at_most("error of an Event's time on the server s", abs(event_s - (kube.wall_s() + skew_s)), 1.5)


def test_c3_skew_of_the_api_server_decides_nothing(case: Case) -> None:
    def decisions(skew_s: float) -> list[tuple[object, ...]]:
        with build(over="http") as world:
            world.kube.skew_s = skew_s
            world.settle()
            world.rate_rps = 25.0
            world.settle()
            return [(one.tick, one.action, one.reason, one.configs) for one in world.decisions]

    straight = decisions(0.0)
    wrong = sum(decisions(skew_s) != straight for skew_s in (300.0, -300.0))
    case.equal("wrong verdicts", wrong, 0)
    case.note("decisions compared", len(straight))
