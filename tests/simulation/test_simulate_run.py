"""Whole runs in the simulator: the production loop over simulated pods, load and metrics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.reproduction.repeat import main as repeat
from ipa.control.engine.guards import GuardSettings
from ipa.forecast.arrivals import request_times, steps
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.errors import InfeasibleError, InputError, UsageError
from ipa.model.pipeline import Edge, Stage, StageKind
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT
from ipa.policies.registry import POLICIES
from ipa.report.blocks import mean_of
from ipa.simulate.cluster import KUBERNETES, ClusterSettings
from ipa.simulate.graph import PipelineSim
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import ON_CLUSTER, MetricsSettings
from ipa.simulate.queue import Pods
from ipa.simulate.run import ForecastSettings, SimResult, SimSetup, simulate
from tests.fakes.commands import Ipa
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST
from tests.golden.test_reproduction import SETTINGS

GUARDS = GuardSettings(tick_s=5.0, rollout_deadline_s=30.0, quarantine_s=60.0)
# Low for a minute, then four times as much for a minute, then low again.
STEP = tuple(float(rate) for rate in steps((4.0, 60), (16.0, 60), (4.0, 60)))
WINDOW = ForecastSettings("window")


def setup(**changed: object) -> SimSetup:
    made = SimSetup(
        PIPELINE, PROFILES, STEP, seed=7, forecast=WINDOW, guards=GUARDS, start=SMALLEST, readiness_s=2.0
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def reasons(result: SimResult) -> set[ReasonCode]:
    return {decision.reason for decision in result.decisions}


def test_equal_setups_have_equal_results_and_other_seeds_others() -> None:
    first, again, other = simulate(setup()), simulate(setup()), simulate(setup(seed=8))
    assert np.array_equal(first.born_s, again.born_s)
    assert np.array_equal(first.done_s, again.done_s, equal_nan=True)
    assert first.ticks == again.ticks
    assert first.summary() == again.summary()
    assert first.decisions == again.decisions
    assert len(other.born_s) != len(first.born_s) or not np.array_equal(other.born_s, first.born_s)


def test_every_request_is_answered_after_it_came_or_is_lost_and_counted() -> None:
    result = simulate(setup())
    summary = result.summary()
    answered = ~np.isnan(result.done_s)
    assert (result.done_s[answered] > result.born_s[answered]).all()
    assert summary["requests"] == len(result.born_s) == answered.sum() + summary["lost"]
    late = (result.latencies_s > result.sla_s).sum()
    assert summary["violation_ratio"] == (late + summary["lost"]) / summary["requests"]
    assert summary["changes"] == sum(it.action is Action.APPLY for it in result.decisions) > 0


def test_the_loop_follows_the_load_up_and_down() -> None:
    # That a load has surged counts for ten minutes, so that it may surge again.
    result = simulate(setup(rates_rps=STEP + STEP[:60] * 10))
    cores = {tick.at_s: tick.cores for tick in result.ticks}
    assert cores[55.0] < cores[110.0] > cores[775.0]
    assert ReasonCode.FIRST_PLAN in reasons(result)


def test_old_and_new_are_paid_while_they_overlap() -> None:
    result = simulate(setup(readiness_s=8.0))
    # What was wanted at each tick, as if every change were done at once.
    wanted = [sum(it.total_cores for it in decision.configs) for decision in result.decisions]
    assert result.core_seconds > GUARDS.tick_s * sum(wanted)


def test_a_policy_that_changes_nothing_is_the_simulation_of_its_stages_alone() -> None:
    start = (StageConfig("detect", "small", 2, 1.0, 2), StageConfig("read", "small", 4, 2.0, 1))
    result = simulate(setup(policy="static", start=start))
    assert result.changes == 0
    truth = GroundTruth(PIPELINE, PROFILES)
    alone = PipelineSim(PIPELINE, seed=7)
    for config in start:
        pods = Pods(config.replicas, config.batch_size, truth.service(config), "pods", config.variant)
        alone.set_replicas(config.stage, 0.0, [pods])
    times_s = request_times(STEP, seed=(7, 1))
    alone.offer(times_s)
    finished = alone.run(1000.0)
    done_s = np.empty(len(times_s))
    done_s[finished.ids] = finished.done_s
    assert np.array_equal(result.done_s, done_s)
    assert result.summary()["cores_mean"] == 4.0
    assert result.pas_mean == result.accuracy_mean == pytest.approx(0.6 * 0.7)


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"infadapter", "ms+"}))
def test_every_policy_runs_by_its_name(policy: str) -> None:
    result = simulate(setup(policy=policy, rates_rps=STEP[:90]))
    assert result.policy == policy
    assert len(result.ticks) == 18
    assert ReasonCode.SOLVER_FAILED not in reasons(result)


def test_a_gap_in_the_scrapes_holds_and_ends() -> None:
    blind = MetricsSettings(gaps=((70.0, 110.0),))
    result = simulate(setup(metrics=blind))
    stale = [tick.at_s for tick in result.ticks if tick.reason == ReasonCode.METRICS_STALE.value]
    # The newest scrape is that of second 69, and 15 s are not too old.
    assert stale == [85.0, 90.0, 95.0, 100.0, 105.0]
    assert all(tick.rate_rps is None for tick in result.ticks if tick.at_s in stale)


def test_an_outage_of_the_monitoring_holds_at_once() -> None:
    result = simulate(setup(metrics=MetricsSettings(outages=((70.0, 80.0),))))
    missing = [tick.at_s for tick in result.ticks if tick.reason == ReasonCode.METRICS_MISSING.value]
    assert missing == [0.0, 70.0, 75.0]


def test_a_broken_variant_is_taken_back_and_left_alone() -> None:
    broken = ClusterSettings(broken=frozenset({("detect", "big")}), gives_up_after_s=10.0)
    result = simulate(setup(cluster=broken))
    assert ReasonCode.ROLLBACK in reasons(result)
    assert result.summary()["lost"] == 0
    assert all(tick.pas <= 0.6 * 0.95 + 1e-9 for tick in result.ticks)


def test_what_finds_no_room_is_taken_back_and_less_is_planned() -> None:
    result = simulate(setup(cluster=ClusterSettings(capacity_cores=5.0)))
    assert max(tick.cores for tick in result.ticks) <= 5.0
    taken_back = [it for it in result.decisions if it.reason is ReasonCode.ROLLBACK]
    assert any("no room" in decision.detail for decision in taken_back)


def test_killed_pods_are_replaced_and_what_they_had_is_not_lost() -> None:
    start = (StageConfig("detect", "small", 1, 1.0, 2), StageConfig("read", "small", 1, 1.0, 2))
    rates = STEP[:60]
    whole = simulate(setup(policy="static", start=start, rates_rps=rates))
    killed = simulate(setup(policy="static", start=start, rates_rps=rates, kills=((20.0, "detect", 2),)))
    assert killed.summary()["lost"] == 0
    # Of what chooses variants, the answers of pods that died since the last tick have the variants' accuracy.
    chosen = replace(PIPELINE, stages=tuple(replace(stage, resident="all") for stage in PIPELINE.stages))
    dense = tuple((at_s, "detect", 2) for at_s in (20.0, 30.0, 40.0))
    late = simulate(setup(pipeline=chosen, start=start, rates_rps=rates, kills=dense, readiness_s=6.0))
    assert late.accuracy_mean >= 0.42 and 0.0 in late.columns()["pas"]
    # Nothing passes while new ones start.
    between = (killed.done_s > 20.5) & (killed.done_s < 22.0)
    assert not between.any()
    assert killed.summary()["latency_p99_s"] > 1.0 > whole.summary()["latency_p99_s"]


def test_pods_roll_as_on_a_cluster() -> None:
    result = simulate(setup(cluster=KUBERNETES, metrics=ON_CLUSTER, readiness_s=6.0))
    assert KUBERNETES.rolling == DEPLOYMENT
    assert result.changes > 0
    assert max(tick.cores for tick in result.ticks) <= PIPELINE.bounds.cores  # type: ignore[operator]


def test_resident_variants_carry_a_step_that_has_no_room_for_other_pods() -> None:
    """Without them the change holds for want of room, and requests are late."""
    start = (StageConfig("detect", "big", 1, 1.0, 2), StageConfig("read", "big", 1, 1.0, 1))
    rates = tuple(float(rate) for rate in steps((3.0, 60), (9.0, 60)))
    bounds = replace(PIPELINE.bounds, cores=3.0, transition_cores=3.0)

    def run(resident: int | str) -> SimResult:
        stages = tuple(replace(stage, resident=resident) for stage in PIPELINE.stages)
        pipeline = replace(PIPELINE, bounds=bounds, stages=stages)
        return simulate(setup(pipeline=pipeline, rates_rps=rates, start=start, readiness_s=8.0))

    alone, resident = run(1), run("all")
    assert ReasonCode.NO_ROOM in reasons(alone)
    assert alone.summary()["violation_ratio"] > 0.02
    ticks = zip(resident.ticks, resident.decisions, strict=True)
    later = {decision.reason for tick, decision in ticks if tick.at_s > 30}
    assert not {ReasonCode.NO_ROOM, ReasonCode.IN_PROGRESS} & later
    assert resident.summary()["violation_ratio"] == 0
    assert {tick.cores for tick in resident.ticks if tick.at_s > 30} == {3.0}
    # The tick after the step, and at the next one it serves.
    changed = [tick.at_s for tick in resident.ticks if "read=big" not in tick.configs]
    assert changed[0] <= 60.0 + 2 * GUARDS.tick_s


def test_a_router_sends_each_request_one_way() -> None:
    detect, read = PIPELINE.stages
    pick = Stage("pick", (), (Edge("detect"),), kind=StageKind.ROUTER)
    ways = tuple(
        replace(read, name=name, after=(Edge("pick", share=share),))
        for name, share in (("rare", 0.25), ("often", 0.75))
    )
    pipeline = replace(PIPELINE, stages=(detect, pick, *ways))
    profiles = {"detect": PROFILES["detect"]}
    profiles |= {way.name: replace(PROFILES["read"], stage=way.name) for way in ways}
    start = (
        SMALLEST[0],
        StageConfig("rare", "small", 1, 1.0, 1),
        StageConfig("often", "big", 1, 1.0, 1),
    )
    fixed = setup(pipeline=pipeline, profiles=profiles, start=start, rates_rps=(4.0,) * 60)
    result = simulate(replace(fixed, policy="static"))
    assert result.pas_mean == pytest.approx(0.6 * (0.25 * 0.7 + 0.75 * 0.95))
    # Each request waits for one of the two ways only.
    services_s = sorted({round(float(it), 6) for it in result.latencies_s})
    assert services_s[0] == pytest.approx(0.05 + 0.03)
    assert simulate(fixed).changes > 0


def test_advisory_writes_nothing() -> None:
    result = simulate(setup(mode=Mode.ADVISORY))
    assert result.changes == 0
    assert {tick.cores for tick in result.ticks} == {2.0}


def test_foresight_is_late_less_often_than_the_last_maximum() -> None:
    summary = simulate(setup(readiness_s=8.0)).summary()
    foresight = ForecastSettings("foresight")
    foreseen = simulate(setup(readiness_s=8.0, forecast=foresight)).summary()
    assert foreseen["violation_ratio"] < summary["violation_ratio"]


def test_without_a_start_the_plan_for_the_first_rates_runs() -> None:
    result = simulate(setup(start=(), rates_rps=STEP[60:90], policy="static"))
    assert result.summary()["violation_ratio"] < 0.05
    with pytest.raises(InfeasibleError, match="starts with"):
        simulate(setup(start=(), rates_rps=(10_000.0,) * 30))


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(InputError, match="no load"):
        simulate(setup(rates_rps=()))
    with pytest.raises(UsageError, match="forecaster"):
        simulate(setup(forecast=ForecastSettings("crystal-ball")))
    with pytest.raises(UsageError, match="policy"):
        simulate(setup(policy="nobody's"))


def test_inputs_are_kept_where_that_is_asked_for() -> None:
    result = simulate(setup(rates_rps=STEP[:20], keep_inputs=True))
    dropped = simulate(setup(rates_rps=STEP[:20]))
    assert all(json.loads(decision.inputs) for decision in result.decisions)
    assert not any(decision.inputs for decision in dropped.decisions)


KEYS = {
    "pas_mean",
    "cores_mean",
    "violation_ratio",
    "lost",
    "latency_p50_s",
    "latency_p99_s",
    "changes",
    "requests",
}


def test_the_command_prints_the_figures(ipa: Ipa, tmp_path: Path) -> None:
    trace = tmp_path / "load.txt"
    trace.write_text("\n".join(["6"] * 60))
    arguments = ["simulate", "digits", "--workload", str(trace), "--seed", "3", "--policy", "ours"]
    figures = json.loads(ipa(*arguments, "-o", "json").out)
    assert figures.keys() >= KEYS
    assert figures["requests"] == len(request_times((6.0,) * 60, seed=(3, 1)))
    text = ipa(*arguments, "--minutes", "0.5").out
    assert "policy ours" in text and "world as-profiled" in text and "latency p99" in text
    slow = ipa(*arguments, "--world", "slow:3", "--world", "no-room", "-o", "json").out
    assert json.loads(slow)["world"] == "slow:3+no-room"
    assert json.loads(slow)["latency_p50_s"] > 1.2 * figures["latency_p50_s"]


def test_the_command_repeats_with_the_seeds_that_follow(ipa: Ipa, tmp_path: Path) -> None:
    trace = tmp_path / "load.txt"
    trace.write_text("\n".join(["6"] * 30))
    arguments = ["simulate", "digits", "--workload", str(trace), "--policy", "static"]

    def output_of(*more: str) -> str:
        return ipa(*arguments, *more).out

    alone = [json.loads(output_of("--seed", str(seed), "-o", "json")) for seed in (3, 4, 5)]
    figures = json.loads(output_of("--seed", "3", "--repeats", "3", "-o", "json"))
    assert set(figures) == {*alone[0], "intervals"}
    assert set(figures["intervals"]) == set(alone[0]) - {"world", "decisions_by_reason", "first_failure"}
    for name, half_width in figures["intervals"].items():
        wanted = mean_of([one[name] for one in alone])
        assert wanted is not None and (figures[name], half_width) == (wanted.value, wanted.half_width)
    assert yaml.safe_load(output_of("--seed", "3", "--repeats", "3", "-o", "yaml")) == figures
    requests = f"{figures['requests']:.1f} ± {figures['intervals']['requests']:.1f}"
    for form in ("text", "md"):
        text = output_of("--seed", "3", "--repeats", "3", "-o", form)
        assert "seeds 3 to 5" in text and requests in text
        # How much one seed's figures are worth is not known.
        assert "±" not in output_of("--repeats", "1", "-o", form)
    assert "intervals" not in json.loads(output_of("--repeats", "1", "-o", "json"))
    ipa(*arguments, "--repeats", "21", code=64)


SMALL_RUN = {
    **SETTINGS,
    "throughput_margin": 0,
    "initial_active_model": ["yolov5n", "resnet18"],
    "initial_replica": [1, 1],
    "initial_cpu_allocation": [1, 1],
}


def test_a_published_run_is_repeated_with_its_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SMALL_RUN))
    arguments = ["video", str(path), "--minutes", "2", "--forecaster", "window"]
    assert repeat(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["changes"] > 0
    assert "hold.stabilising" not in figures["decisions_by_reason"]
    path.write_text(json.dumps({**SMALL_RUN, "alpa": 1}))
    with pytest.raises(InputError) as refused:
        repeat(arguments)
    assert "alpa" in str(refused.value.problems)
