"""A pipeline with GPU variants, planned, rendered and simulated on the command line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from ipa.cli.difference import difference
from ipa.cli.output import printer
from ipa.cli.views.status_text import difference_table
from ipa.files import load_pipeline, load_profiles
from ipa.files.plans import plan_in
from ipa.model.errors import UsageError
from ipa.model.measured import with_profiles
from ipa.model.plan import StageConfig
from ipa.targets.local.workload import LocalWorkload
from tests.fakes.commands import Ipa

HOME = Path(__file__).parents[2] / "fixtures" / "accelerated"
PLACE = ["--pipelines-dir", str(HOME / "pipelines"), "--profiles-dir", str(HOME / "profiles")]
GPU, SLICE = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb"


def test_a_plan_names_what_it_holds_and_costs(ipa: Ipa) -> None:
    plan = json.loads(ipa("plan", "vision", "--rate", "30", "-o", "json", *PLACE).out)
    assert [stage["variant"] for stage in plan["stages"]] == ["large", "network"]
    assert plan["stages"][0]["beside"] == {"cpu_cores": 0, "memory_gib": 8, "accelerators": {GPU: 1}}
    cores, memory = plan["cost_cores"], 8 + 5
    assert plan["cost_usd_per_hour"] == pytest.approx(0.04 * cores + 0.005 * memory + 2.4 + 0.4)
    shown = ipa("plan", "vision", "--rate", "30", *PLACE).out
    assert f"13 GiB of memory, 1 {GPU}, 1 {SLICE}" in shown and "USD/h" in shown


RUNNING = [
    {"stage": "classify", "variant": "small", "batch_size": 1, "cores": 1, "replicas": 2},
    {"stage": "rank", "variant": "trees", "batch_size": 1, "cores": 1, "replicas": 1},
]


def test_a_fleet_keeps_to_its_accelerators_and_memory(ipa: Ipa) -> None:
    ask = ["fleet", "vision=30", "--cores", "40", *PLACE]
    free = json.loads(ipa(*ask, "-o", "json").out)
    assert free["held"]["memory_gib"] == 13 and free["held"][GPU] == free["held"][SLICE] == 1
    without = json.loads(
        ipa(*ask, "--accelerators", f"{GPU}=0", "--accelerators", f"{SLICE}=1", "-o", "json").out
    )
    assert (without["held"][GPU], without["held"][SLICE]) == (0, 1)
    assert without["worth"] < free["worth"]
    # The price stays in the objective of each plan.
    (one,) = without["pipelines"]
    assert one["worth"] == pytest.approx(one["plan"]["objective"])
    assert one["plan"]["cost_usd_per_hour"] > 0
    shown = ipa(*ask, "--memory", "6GiB").out
    assert "Fleet of 1 pipeline on 40 cores, 6 GiB of memory" in shown and "of 6 GiB of memory" in shown


def test_a_kind_that_no_variant_has_is_refused_with_those_there_are(ipa: Ipa) -> None:
    printed = ipa("fleet", "vision=30", "--cores", "40", "--accelerators", f"{GPU}s=1", *PLACE, code=65)
    assert f"no variant of the pipelines has '{GPU}s'; there are: {GPU}, {SLICE}" in printed.err


def test_a_difference_shows_what_replicas_hold_and_cost(ipa: Ipa, capfd: pytest.CaptureFixture[str]) -> None:
    plans = [
        json.loads(ipa("plan", "vision", "--rate", rate, "-o", "json", *PLACE).out) for rate in ("30", "300")
    ]
    running = plan_in(plans[0], "the plan")
    stages = [
        {"config": asdict(config), "beside": stage["beside"]}
        for config, stage in zip(running.configs, plans[0]["stages"], strict=True)
    ]
    sums = {key: plans[0][key] for key in ("cost_cores", "pas", "cost_usd_per_hour")}
    status = {"pipeline": "vision", "live": {"revision": "7", "stages": stages, **sums}}
    for wanted, words in (
        (plans[1], (f"1 → 2 (+1) {GPU}", "2.945 → 5.97 (+3.025, +103%) USD/h")),
        ({"stages": RUNNING}, (f"1 → ? {GPU}",)),
    ):
        printer().print(difference_table(difference(status, plan_in(wanted, "the plan"))))
        shown = capfd.readouterr().out
        assert all(each in shown for each in words), shown


def test_a_plan_keeps_to_the_accelerators_there_are(ipa: Ipa) -> None:
    plan = json.loads(ipa("plan", "vision", "--rate", "300", "-o", "json", *PLACE).out)
    held: dict[str, float] = {}
    for stage in plan["stages"]:
        for kind, count in stage["beside"]["accelerators"].items():
            held[kind] = held.get(kind, 0) + count * stage["replicas"]
    assert held == {GPU: 2, SLICE: 2}
    printed = ipa("plan", "vision", "--rate", "2000", *PLACE, code=3)
    assert "cores ≥" in printed.out + printed.err or "rate ≤" in printed.out + printed.err


def test_a_rendered_plan_requests_them(ipa: Ipa) -> None:
    sdep = next(yaml.safe_load_all(ipa("render", "vision", "--rate", "30", *PLACE).out))
    limits = [
        component["spec"]["containers"][0]["resources"]["limits"]
        for component in sdep["spec"]["predictors"][0]["componentSpecs"]
    ]
    assert [each.get(GPU) for each in limits] == ["1", None]
    assert [each.get(SLICE) for each in limits] == [None, "1"]


def test_a_simulated_cluster_has_no_more_than_it_is_given(ipa: Ipa) -> None:
    words = ["simulate", "vision", "--minutes", "2", "--times", "6", "--target", "kubernetes", *PLACE]
    figures = json.loads(ipa(*words, "--accelerators", f"{GPU}=2", "-o", "json").out)
    assert 0 < figures[f"{GPU}_mean"] <= 2 and figures["memory_gib_mean"] > 0
    assert figures["usd_per_hour"] > 2.4
    without = json.loads(ipa(*words, "--accelerators", f"{GPU}=0", "-o", "json").out)
    # The pods that run at the start find room whatever the cluster has; no other does.
    assert without[f"{GPU}_mean"] <= figures[f"{GPU}_mean"]
    ipa(*words, "--accelerators", "gpu", code=64)


def test_local_processes_are_given_none(tmp_path: Path) -> None:
    pipeline = load_pipeline(HOME / "pipelines" / "vision" / "pipeline.yaml")
    pipeline = with_profiles(pipeline, load_profiles(HOME / "profiles", "vision"))
    configs = (StageConfig("classify", "large", 1, 1.0, 1), StageConfig("rank", "trees", 1, 1.0, 1))
    with pytest.raises(UsageError, match="local processes do not get") as raised:
        LocalWorkload(tmp_path).start(pipeline, configs)
    assert [str(problem) for problem in raised.value.problems] == [
        f"variant 'large' of stage 'classify' needs 1 {GPU}",
        f"variant 'network' of stage 'rank' needs 1 {SLICE}",
    ]
