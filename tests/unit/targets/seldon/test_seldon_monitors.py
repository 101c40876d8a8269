"""PodMonitors as they are rendered; tests/contract/test_monitors_contract.py scrapes as they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ipa.cli.main import run
from ipa.targets.seldon.layouts import parts_of
from ipa.targets.seldon.metrics import monitors_of
from ipa.targets.seldon.target import SELDON
from tests.contract.kube_harness import split
from tests.fakes.kube.samples import sample_pipeline

Capture = pytest.CaptureFixture[str]


def test_a_split_pipeline_has_its_router_and_queues_scraped_and_no_model() -> None:
    pipeline = split(sample_pipeline())
    (monitor,) = SELDON.monitors(pipeline)
    (selected,) = monitor["spec"]["selector"]["matchExpressions"]
    assert (selected["key"], selected["operator"]) == ("seldon-deployment-id", "In")
    names = {part.name for part in parts_of(pipeline)}
    assert set(selected["values"]) == {name for name in names if not name.endswith("-model")}
    assert monitor["spec"]["podMetricsEndpoints"] == [
        {"targetPort": 9000, "path": "/metrics", "interval": "5s"}
    ]


def test_a_monitor_takes_the_pipelines_predictors_and_stages_alone() -> None:
    pipeline = sample_pipeline()
    endpoints = [it["spec"]["podMetricsEndpoints"][0] for it in monitors_of(pipeline)]
    orchestrator, stages = endpoints
    target = pipeline.targets["seldon"]
    by_service, by_container = (it["regex"] for it in orchestrator["relabelings"])
    own = f"{target.name}-{target.predictor}"
    asked = (own, f"{own}-2", f"{own}-10", f"{own}-canary", f"x{own}", target.name)
    assert [bool(re.fullmatch(by_service, name)) for name in asked] == [True, True, True, False, False, False]
    assert by_container == "seldon-container-engine"
    containers = stages["relabelings"][0]["regex"].split("|")
    assert containers == [stage.container or stage.name for stage in pipeline.served]
    assert stages["relabelings"][-1] == {
        "targetLabel": "deployment_name",
        "replacement": target.name,
    }


def test_render_prints_them(root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert run(["render", "video", "--monitors"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [(one["kind"], one["metadata"]["name"]) for one in printed] == [
        ("PodMonitor", "video-orchestrator"),
        ("PodMonitor", "video-stages"),
    ]
    assert {one["metadata"]["namespace"] for one in printed} == {"default"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "10"], "--monitors are the same for every plan"),
        (["--at", "local"], "target local cannot have a pipeline scraped by a manifest"),
    ],
)
def test_what_has_no_meaning_is_refused(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(root)
    assert run(["render", "video", "--monitors", *words]) == 64
    assert said in capsys.readouterr().err
