"""Effects of a genuine Seldon on a loop: lost pods, restarted counters, status writes, refused pods."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.control.engine.state import ChangeRequest
from ipa.control.ports import RolloutPhase
from ipa.forecast.ladder import forecast
from ipa.model.decision import Action, Change, Decision, ReasonCode
from ipa.model.errors import ConflictError, InputError
from ipa.model.observation import Measured
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig, in_words
from ipa.model.rolling import DEPLOYMENT, change_peak, quick_hop, waves
from ipa.settings import Settings
from ipa.targets.kubernetes.layout import owner_of
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.metrics import EXECUTOR
from ipa.targets.seldon.section import Shape, with_seldon
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, Trouble
from tests.fakes.kube.api import Request
from tests.fakes.kube.cluster import POD_SECURITY, cores_of
from tests.fakes.kube.samples import create, sample_configs, sample_pipeline
from tests.fakes.looped import troubled
from tests.fakes.world import PIPELINE, SMALLEST, made_loop, ours, scenario
from tests.faults.executors import Executors
from tests.faults.inprocess import Pool
from tests.faults.prometheus import FakePrometheus
from tests.faults.table import Case, variants
from tests.faults.world import ROLLING, SETTINGS, WINDOW_S, KubeWorld, build

# Of a constant load; `make faults` has half an hour.
MINUTES = 30 * float(os.environ.get("IPA_FAULT_HOURS", "0.5"))
TWO = tuple(replace(config, replicas=2) for config in SMALLEST)


@pytest.mark.parametrize("rise", [1.0, 3.0])
def test_g1_a_pod_that_is_lost_is_planned_around(case: Case, rise: float) -> None:
    # Eight pods in place of three take about a minute.
    settings = replace(SETTINGS, rollout_deadline_s=120.0)
    with build(rate_rps=5.0, configs=TWO, settings=settings) as world:
        world.settle()
        world.rate_rps = 20.0
        world.settle()
        running = {config.stage: config for config in world.desired()}
        stage = max(running.values(), key=lambda config: config.replicas)
        lost = sorted(name for name in world.pods() if f"-{stage.stage}" in name)[0]
        world.kube.cluster.crashing.add(lost)
        world.kube.tick()
        since = len(world.decisions)
        world.rate_rps *= rise
        world.ticks(4)
        decisions = world.decisions[since:]
        case.note(f"load × {rise:g}: replicas before", stage.replicas)
        case.equal(
            f"load × {rise:g}: names the pod", any(lost in each.detail for each in decisions[:2]), True
        )
        acted = [at for at, each in enumerate(decisions, 1) if each.action is Action.APPLY]
        if rise > 1:
            case.at_most(f"load × {rise:g}: ticks until planned around", acted[0], 2)
        world.ticks(30)
        case.at_least(f"load × {rise:g}: carried, of the load", world.served_rps() / world.rate_rps, 1.0)
        case.at_most(f"load × {rise:g}: changes", len(applied(world, since)), 4)
        assert ReasonCode.ROLLBACK not in world.reasons(since)
        world.kube.cluster.crashing.clear()
        world.settle()
        case.at_most(f"load × {rise:g}: writes once it is back", world.quiet_writes(), 1)
        world.sound()


def test_g1_where_all_replicas_are_lost_none_is_removed_and_added_again(case: Case) -> None:
    with build(rate_rps=25.0) as world:
        world.settle()
        before = world.desired()
        world.kube.cluster.trouble_of = troubled(Trouble.IMAGE, "big")
        world.rate_rps = 18.0
        since = len(world.decisions)
        world.ticks(12)
        reasons = [each.reason for each in applied(world, since)]
        case.note("changes", [reason.value for reason in reasons])
        case.equal("scaled down or up", {ReasonCode.SCALE_DOWN, ReasonCode.SCALE_UP} & set(reasons), set())
        case.equal("asked for as before", world.desired(), before)
        world.kube.cluster.trouble_of = troubled(None, "big")
        case.at_least("settled after, in ticks", world.settle(), 0)
        world.sound()


def applied(world: KubeWorld, since: int = 0) -> list[Decision]:
    """The decisions from one on that changed something."""
    return [each for each in world.decisions[since:] if each.action is Action.APPLY]


def changes_at_a_constant_load(rate_rps: float, step_s: float) -> tuple[int, KubeWorld]:
    """The changes in `MINUTES` of a constant load, from one minute after it has stepped up."""
    with build(rate_rps=5.0, step_s=step_s, roll_ticks=1) as world:
        executors = Executors(world, 5)
        world.metrics = executors.metrics  # type: ignore[assignment]
        world.window_s = 2 * EXECUTOR.rate_window_s
        world.start_service()
        world.settle()
        since = len(world.decisions)
        world.rate_rps = rate_rps
        world.until_s(world.clock.monotonic_s() + 60.0)
        assert applied(world, since), "the step is planned for"
        since = len(world.decisions)
        world.until_s(world.clock.monotonic_s() + MINUTES * 60.0)
        executors.close()
        return len(applied(world, since)), world


@pytest.mark.parametrize(("rate_rps", "step_s"), variants([(25.0, 4.0)], [(40.0, 1.0)]))
def test_g2_own_writes_do_not_move_the_load(case: Case, rate_rps: float, step_s: float) -> None:
    changes, world = changes_at_a_constant_load(rate_rps, step_s)
    case.equal(f"{rate_rps:g} rps: changes in {MINUTES:g} min", changes, 0)
    world.sound()


def test_g4_an_idle_executor_is_no_load(case: Case) -> None:
    """A load that ends, then a restart: without a request the executor has no series of requests."""
    clock = VirtualClock()
    ended_s = 100.0
    with FakePrometheus(clock, lambda t_s: 20.0 if t_s < ended_s else 0.0) as server:
        server.targets[0].restarts = frozenset({int(ended_s) + 20})
        metrics = PrometheusMetrics(Settings(prometheus_url=server.url), EXECUTOR, share_s=0.0)
        clock.wait(ended_s)
        before = metrics.read(PIPELINE, 60.0)
        clock.wait(60.0)
        signals = metrics.read(PIPELINE, 60.0)
        assert isinstance(before.arrival_rate_rps, Measured)
        case.note("rate before", round(before.arrival_rate_rps.value, 2))
        rate, load = signals.arrival_rate_rps, signals.load
        case.equal("rate once idle", rate.value if isinstance(rate, Measured) else rate, 0.0)
        assert isinstance(load, Measured)
        case.equal("seconds known to be idle", set(load.value.rates_rps[-20:]), {0.0})
        # Not scraped any more: nothing is known.
        server.targets[0].answers = lambda second: False
        clock.wait(30.0)
        case.equal("known without a scrape", isinstance(metrics.read(PIPELINE, 60.0).load, Measured), False)


@pytest.mark.parametrize(
    ("scrape_s", "within_s", "has_history"),
    variants(
        [(5, 45.0, False), (15, 60.0, True), (30, None, False)],
        [(5, 45.0, True), (15, 60.0, False), (30, None, True)],
    ),
)
def test_g13_a_start_on_an_empty_store_plans_for_the_load(
    case: Case, scrape_s: int, within_s: float | None, has_history: bool
) -> None:
    """A service that knows nothing, before a metrics server with or without a past of counters that run."""
    at = f"scraped every {scrape_s} s, {'with' if has_history else 'without'} history"
    load_rps = 25.0
    made = scenario(load_rps, forecaster=partial(forecast, horizon_s=20.0, quantile=0.95))
    with FakePrometheus(made.clock, made.metrics.rate_rps) as server:
        first_s = -math.inf if has_history else 0
        server.targets[0].arrives = lambda second: second >= first_s and second % scrape_s == 0
        metrics = PrometheusMetrics(Settings(prometheus_url=server.url), EXECUTOR, share_s=0.0)
        made = replace(made, metrics=metrics)  # type: ignore[arg-type]
        decisions = replace(made, loop=made_loop(made, ours(), "run")).ticks(40)
    planned = [
        (tick * made.settings.tick_s, each.plan.rate_rps) for tick, each in enumerate(decisions) if each.plan
    ]
    if within_s is None:
        # One sample in the window of a rate is none.
        case.note(f"{at}: ticks with a plan", len(planned))
    else:
        case.at_most(f"{at}: s until the first plan", planned[0][0], within_s)
    ratios = [round(rate_rps / load_rps, 2) for _, rate_rps in planned]
    case.at_most(f"{at}: highest plan, of the last", max(ratios, default=1.0) / ratios[-1], 1.1)
    case.at_least(f"{at}: lowest plan, of the load", min(ratios, default=1.0), 1.0)


def test_g5_status_writes_refuse_nothing(case: Case, tmp_path: Path) -> None:
    """The operator writes the status between our read and our patch, of a free object too."""
    pipeline, configs = sample_pipeline(), sample_configs()
    refused = stale = 0
    with FakeKube() as kube:
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        workload = KubeWorkload(client, layout_of, "blue")
        create(client, pipeline, configs)
        kube.tick(10)

        tries = count()

        def report(request: Request) -> None:
            # A second attempt comes milliseconds later: not each of them finds another status.
            if request.verb == "patch" and not request.is_dry_run and next(tries) % 3 != 1:
                write_status(kube)

        kube.before = report
        wanted = configs
        for number in range(60):
            wanted = (replace(configs[0], replicas=1 + (number + 1) % 2), *configs[1:])
            state = workload.read(pipeline)
            previous = tuple(stage.config for stage in state.stages)
            change = Change(f"d-{number}", "sample", state.revision, previous, wanted, 60.0)
            try:
                workload.write(pipeline, change)
            except ConflictError:
                refused += 1
            if number % 20 == 0:
                try:
                    workload.write(pipeline, change)
                except ConflictError:
                    stale += 1
        case.equal("writes refused, of 60", refused, 0)
        case.equal("stale writes refused, of 3", stale, 3)
        sdep = kube.store.get("seldondeployments", "models", "sample")
        case.equal("claimed by", owner_of(sdep), "blue")
        client.close()


def write_status(kube: FakeKube) -> None:
    """A status write, as the operator's: it moves nothing but the resourceVersion."""
    with kube.store.lock:
        sdep = kube.store.get("seldondeployments", "models", "sample")
        count = int(sdep.get("status", {}).get("written", 0))
        status = {**sdep.get("status", {}), "written": count + 1}
        kube.store.replace("seldondeployments", {**sdep, "status": status})


REFUSALS = {
    "ResourceQuota": "exceeded quota",
    "PodSecurity": "violates PodSecurity",
    "LimitRange": "maximum cpu usage per Container is 2",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_g6_refused_pods_are_named_and_lack_room(case: Case, what: str) -> None:
    words = REFUSALS[what]
    with build(rate_rps=5.0) as world:
        world.settle()
        before, cluster = world.desired(), world.kube.cluster
        if what == "ResourceQuota":
            cluster.quota_cores = used_cores(world) + 0.25
        else:
            cluster.refusal_of = lambda pod_spec: f'{words} "restricted:latest"'
        world.rate_rps = 40.0
        since = len(world.decisions)
        world.ticks(8)
        decisions = world.decisions[since:]
        acted = next(at for at, each in enumerate(decisions) if each.action is Action.APPLY)
        named = next((at for at, each in enumerate(decisions) if words in each.detail), 99)
        case.at_most(f"{what}: ticks from the write until it is named", named - acted, 3)
        (back,) = [each for each in decisions if each.reason is ReasonCode.ROLLBACK][:1]
        case.equal(f"{what}: taken back", back.configs, before)
        case.equal(f"{what}: variants blamed", blamed(world), 0)
        world.sound()


@pytest.mark.parametrize("room", variants([0.25, 4.5], [2.5]))
def test_g9_a_refusal_is_taken_back_and_planned_around(case: Case, room: float) -> None:
    """A quota refuses pods of a change; their condition outlives it until the controller sees the next write.

    The quota has room for none of them, or for some beside the orchestrator's own new pod.
    """
    at = f"room for {room:g} cores more"
    with build(rate_rps=5.0, step_s=1.0) as world:
        world.settle()
        world.kube.cluster.quota_cores = used_cores(world) + room
        world.rate_rps = 60.0
        world.clock.wait(WINDOW_S)
        since = len(world.decisions)
        # Watches wake the service while controllers have not seen its write.
        for _ in range(60):
            world.decisions.append(world.loop.tick_once())
            world.clock.wait(0.5)
        decisions = world.decisions[since:]
        written = [each for each in decisions if each.action is Action.APPLY]
        case.note(f"{at}: reasons written", [each.reason.value for each in written])
        (back,) = [n for n, each in enumerate(decisions) if each.reason is ReasonCode.ROLLBACK]
        case.note(f"{at}: refused", in_words(decisions[back].previous))
        again = [each for each in decisions[back + 1 :] if each.configs == decisions[back].previous]
        case.equal(f"{at}: decisions for the refused plan after that", len(again), 0)
        case.equal(f"{at}: rollbacks that failed", world.reasons(since).count(ReasonCode.ROLLBACK_FAILED), 0)
        waits = [each.reason is ReasonCode.IN_PROGRESS for each in decisions]
        ready = waits.index(False, back + 1)
        if room > 1:
            acted = next(n for n, each in enumerate(decisions) if n > back and each.action is Action.APPLY)
            case.at_most(f"{at}: ticks until planned around", acted - ready + 1, 2)
        else:
            assert {each.reason for each in decisions[ready:]} == {ReasonCode.NO_ROOM}
            assert all("had no room; retry in" in each.detail for each in decisions[ready:])
        world.sound()


@pytest.mark.parametrize(
    ("room", "is_restarted"), variants([(2.5, True), (3.5, False)], [(2.5, False), (3.5, True)])
)
def test_g9_a_quota_that_admits_a_part_is_settled_in(case: Case, room: float, is_restarted: bool) -> None:
    """A load that no plan within the quota carries: neither a refused plan nor one of two is tried in turn.

    A service that starts anew after the first refusal knows of it from the record.
    """
    at = f"room for {room:g} cores more{', restarted' if is_restarted else ''}"
    with build(rate_rps=5.0, step_s=1.0) as world:
        world.planner = ROLLING.plan
        world.start_service()
        world.settle()
        world.kube.cluster.quota_cores = used_cores(world) + room
        world.rate_rps = 60.0
        since = len(world.decisions)
        while world.tick().reason is not ReasonCode.ROLLBACK:
            assert len(world.decisions) < since + 10
        known, recalled = failures(world), None
        if is_restarted:
            world.start_service()
        refused = [(world.clock.monotonic_s(), peak_cores(world.decisions[-1]))]
        written: Counter[str] = Counter()
        again = 0
        for _ in range(60):
            decision = world.tick()
            recalled = recalled or failures(world)
            now_s, cores = world.clock.monotonic_s(), peak_cores(decision)
            if decision.reason is ReasonCode.ROLLBACK:
                refused.append((now_s, cores))
            elif decision.action is Action.APPLY:
                written[in_words(decision.configs)] += 1
                lately = [it for at_s, it in refused if now_s - at_s < world.settings.quarantine_s]
                again += cores >= min(lately, default=math.inf)
        case.equal(f"{at}: what failed, known in the next tick", recalled, known)
        case.note(f"{at}: cores refused", [cores for _, cores in refused])
        case.equal(f"{at}: as many cores written again while refused", again, 0)
        case.at_most(f"{at}: writes of the same configuration", max(written.values()), 2)
        world.sound()


def test_g11_replicas_and_cores_change_within_the_larger_end(case: Case) -> None:
    """A quota admits half as much again as the larger end: not five replicas of eight cores."""
    before = (replace(SMALLEST[0], replicas=5), *SMALLEST[1:])
    wanted = (replace(SMALLEST[0], replicas=1, cores=8.0), *SMALLEST[1:])
    with build(rate_rps=1.0, configs=before, step_s=1.0) as world:
        beside = used_cores(world) - 5
        world.kube.cluster.quota_cores = beside + 1.5 * 8
        peaks: list[float] = []
        world.clock.every(0.5, lambda: peaks.append(used_cores(world) - beside))
        world.loop.tick_once(ChangeRequest(wanted, "asked by the test"))
        world.clock.wait(40.0)
        state = world.workload.read(world.pipeline)
        case.equal("runs and is settled", (world.desired(), state.settled), (wanted, True))
        case.at_most("cores asked for at once", max(peaks), 8 + 1 + 1)
        world.sound()


def restrict(kube: FakeKube, namespace: str) -> None:
    """Let the namespace enforce restricted PodSecurity."""
    labels = {POD_SECURITY: "restricted"}
    body = {"kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    kube.store.create("namespaces", "", body)


def test_g10_single_is_refused_before_the_write_and_split_serves(case: Case, tmp_path: Path) -> None:
    single, configs = sample_pipeline(), sample_configs()
    split = with_seldon(single, shape=Shape.SPLIT, image="ipa:1")
    with FakeKube() as kube:
        restrict(kube, "models")
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        workload = KubeWorkload(client, layout_of)
        revision = create(client, single, configs)
        kube.writes.clear()
        more = (replace(configs[0], replicas=3), *configs[1:])
        with pytest.raises(InputError, match=r"restricted PodSecurity.*shape: split") as refused:
            workload.write(single, Change("d", "sample", revision, configs, more, 60.0))
        case.note("refused with", refused.value.message)
        case.equal("objects written", len(kube.writes), 0)
        create(client, split, configs)
        kube.tick(8)
        state = workload.read(split)
        case.equal("split serves", state.settled and not state.problem, True)
        client.close()


def test_g10_the_orchestrator_counts_as_readiness(case: Case, tmp_path: Path) -> None:
    """A namespace that cannot be asked: its refused orchestrator is seen after the write."""
    single, configs = sample_pipeline(), sample_configs()
    with FakeKube() as kube:
        restrict(kube, "models")
        kube.denied.add(("get", "namespaces"))
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        workload = KubeWorkload(client, layout_of)
        revision = create(client, single, configs)
        kube.tick(8)
        state = workload.read(single)
        case.equal("stages are ready", [it.ready_replicas for it in state.stages], [1, 2, 1])
        assert "the orchestrator is not ready: its pods cannot be created" in state.problem
        rollout = workload.rollout(single, Change("d", "sample", revision, (), configs, 60.0))
        case.equal("rollout", rollout.phase, RolloutPhase.FAILED)
        assert "the orchestrator: its pods cannot be created" in rollout.detail
        # A copy of the same object where it may run is ready once the orchestrator is.
        with kube.store.lock:
            metadata = {"name": "models", "namespace": "", "labels": {}}
            kube.store.replace("namespaces", {"kind": "Namespace", "metadata": metadata})
        phases = []
        for _ in range(6):
            kube.tick()
            rollout = workload.rollout(single, Change("d", "sample", revision, (), configs, 60.0))
            phases.append(rollout.phase)
        assert phases[-1] is RolloutPhase.READY and not workload.read(single).problem
        client.close()


def test_g12_our_own_writes_are_nobody_elses(case: Case) -> None:
    """The controllers carry a scale-down out between the tick's read and its look at the rollout."""
    wider = tuple(replace(config, replicas=3) for config in SMALLEST)
    # The loop itself makes no change.
    settings = replace(SETTINGS, change_price_s=1e9)
    with build(rate_rps=1.0, configs=wider, step_s=1000.0, settings=settings) as world:
        looks = count()

        def hurry(request: Request) -> None:
            # The second look at the object in a tick is that for the rollout.
            if request.verb == "get" and request.resource == "seldondeployments" and next(looks) % 2:
                world.kube.tick(6)

        since = len(world.decisions)
        for number in range(16):
            wanted = (replace(wider[0], replicas=2 + number % 2), *wider[1:])
            world.kube.tick(6)
            world.decisions.append(world.loop.tick_once(ChangeRequest(wanted, "scaled by the test")))
            looks = count()
            world.kube.before = hurry
            world.decisions.append(world.loop.tick_once())
            world.kube.before = None
            # The operator writes an annotation, which makes another generation for the controller to see.
            with world.kube.store.lock:
                for deployment in world.kube.store.everything("deployments"):
                    notes = {**(deployment["metadata"].get("annotations") or {}), "touched": str(number)}
                    deployment["metadata"] |= {"annotations": notes}
                    world.kube.store.replace("deployments", deployment)
            world.decisions.append(world.loop.tick_once())
        decisions = world.decisions[since:]
        written = [each for each in decisions if each.reason is ReasonCode.REQUESTED]
        case.equal("own writes", len(written), 16)
        reported = [each.detail for each in decisions if "did not make" in each.detail]
        case.equal("reported as others'", len(reported), 0)
        case.equal("held for them", world.reasons(since).count(ReasonCode.IN_PROGRESS), 0)


def used_cores(world: KubeWorld) -> float:
    """The cores that all pods ask for."""
    return sum(cores_of(pod["spec"]) for pod in world.kube.store.everything("pods"))


def peak_cores(decision: Decision) -> float:
    """The most cores at any moment of the change, or of the one that a rollback undoes."""
    ends = decision.previous, decision.configs
    return change_peak(
        *(ends[::-1] if decision.reason is ReasonCode.ROLLBACK else ends), DEPLOYMENT, Bounds()
    ).cpu_cores


def failures(world: KubeWorld) -> list[tuple[frozenset[tuple[str, str]], float, float]]:
    """The changes in quarantine: variants, cores, and until when."""
    return [(it.variants, it.cores, round(it.until_s, 3)) for it in world.loop._state.failures]


def blamed(world: KubeWorld) -> int:
    """The variants that are in quarantine by name."""
    return sum(len(failure.variants) for failure in world.loop._state.failures)


ROLL_TICKS = 20
BEFORE, AFTER = StageConfig("detect", "d-s", 1, 1.0, 1), StageConfig("detect", "d-l", 1, 1.0, 1)


def took_ticks(folder: Path, *steps: StageConfig) -> int:
    """The ticks from the first write until the last one of a stage's configurations is ready."""
    pipeline, others = sample_pipeline(), sample_configs()[1:]
    kube = FakeKube(roll_ticks=ROLL_TICKS)
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(folder)), 10.0)
    # A look after each tick: some thousands of requests, of which none needs a socket.
    client.transport.api.rest_client.pool_manager = Pool(kube)
    workload = KubeWorkload(client, layout_of)
    create(client, pipeline, (steps[0], *others))
    kube.tick(3 * ROLL_TICKS)
    ticks = 0
    for before, after in pairwise(steps):
        state = workload.read(pipeline)
        change = Change("d", "sample", state.revision, (before, *others), (after, *others), 600.0)
        change = replace(change, revision=workload.write(pipeline, change))
        while workload.rollout(pipeline, change).phase is not RolloutPhase.READY:
            kube.tick()
            ticks += 1
    client.close()
    kube._http.server_close()
    return ticks


def test_g7_a_change_takes_as_long_as_modelled(case: Case, tmp_path: Path) -> None:
    errors = []
    for before, after in variants([(1, 7), (8, 1)], [(1, 1), (8, 7)]):
        for changed in (BEFORE, AFTER):
            old, new = replace(BEFORE, replicas=before), replace(changed, replicas=after)
            predicted = waves(old, new, DEPLOYMENT) * ROLL_TICKS
            ticks = took_ticks(tmp_path, old, new)
            # The operator and the controller take a tick or two; what starts no pod of the stage takes
            # nothing else, but that the orchestrator is told of any change in its environment, and starts
            # anew for it.
            if predicted:
                errors.append(abs(ticks / predicted - 1))
            else:
                assert ticks <= 4 + ROLL_TICKS * (old != new), (old, new, ticks)
    case.note("changes that start pods", len(errors))
    case.at_most("error of the predicted time, the worst of them", round(max(errors), 3), 0.2)
    one, more = BEFORE, replace(AFTER, replicas=4)
    hop = quick_hop(one, more, DEPLOYMENT)
    assert hop is not None
    case.note("ticks of a variant and three more replicas in one write", took_ticks(tmp_path, one, more))
    ticks = took_ticks(tmp_path, one, hop, more)
    case.at_most("ticks of the same in two", ticks, 2.2 * ROLL_TICKS)


def test_g7_the_quicker_order_is_taken(case: Case) -> None:
    """A lighter variant and more replicas: first the variant, then the replicas."""
    running = tuple(StageConfig(stage, "big", 1, 1.0, 1) for stage in ("detect", "read"))
    with build(rate_rps=2.0, configs=running) as world:
        world.settle()
        since = len(world.decisions)
        world.rate_rps = 100.0
        world.settle()
        written = [each.configs for each in applied(world, since)]
        kinds = [[(config.variant, config.replicas) for config in configs] for configs in written]
        case.note("written", kinds)
        world.sound()
