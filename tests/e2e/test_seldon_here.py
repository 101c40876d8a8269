"""Seldon on this machine: pods as real processes, real requests, and changes under load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.demo.summary import read_requests
from experiments.demo_seldon.answers import wrong_answers
from experiments.demo_seldon.cluster import (
    SeldonHere,
    entry_url,
    pipeline_in,
    seldon_here,
    start_sending,
    until_ready,
)
from experiments.fidelity.case import bodies_of
from ipa.adapters.kube.client import KubeClient
from ipa.control.ports import RolloutPhase
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.section import Shape
from tests.fakes.seldon_core import ENVIRONMENT
from tests.fakes.waiting import until

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
)

RATE_RPS, SECONDS = 1.5, 9.0
FIRST = (StageConfig("detect", "v6-224", 1, 0.5, 1), StageConfig("recognise", "v4-160", 1, 0.5, 1))


def sending(here: SeldonHere, pipeline: Pipeline, folder: Path) -> subprocess.Popen[bytes]:
    """Requests at a constant rate, from a process of its own."""
    times_s = [number / RATE_RPS for number in range(int(RATE_RPS * SECONDS))]
    return start_sending(here, pipeline, bodies_of(pipeline.name), times_s, folder, timeout_s=60.0)


IN_CLUSTER = "import sys, tests.fakes.kube.in_cluster; from ipa.cli.main import main; sys.exit(main())"


def probe(here: SeldonHere, pipeline: Pipeline, folder: Path) -> dict[str, Any]:
    """Results of `ipa probe` from within the cluster, by the name of the pipeline's Service."""
    page = folder / "page.json"
    page.write_bytes(bodies_of(pipeline.name)[0])
    file = folder / "pipelines" / pipeline.name / "pipeline.yaml"
    words = ["probe", str(file), "--request", str(page), "--timeout", "60s", "-o", "json"]
    env = {**os.environ, **here.node.environment}
    run = subprocess.run(
        [sys.executable, "-c", IN_CLUSTER, *words], env=env, capture_output=True, check=False
    )
    result: dict[str, Any] = json.loads(run.stdout)
    assert run.returncode == (0 if result["answered"] else 5), run.stderr
    return result


def change(here: SeldonHere, pipeline: Pipeline, wanted: Sequence[StageConfig]) -> None:
    """Write the configuration, and return once it is rolled out."""
    client = KubeClient.from_kubeconfig(str(here.kubeconfig), 5.0)
    workload = KubeWorkload(client, layout_of, "test")
    before = workload.read(pipeline)
    now = tuple(state.config for state in before.stages if state.config)
    written = Change("one", pipeline.name, before.revision, now, tuple(wanted), 0.0)
    workload.write(pipeline, written)
    until(lambda: workload.rollout(pipeline, written).phase is RolloutPhase.READY, within_s=60.0)
    client.close()


def taken(here: SeldonHere, app: str) -> int:
    """The number of pods taken away of the Deployments with that in their name."""
    return sum(it.what == "taken" and app in it.app for it in here.node.events)


@pytest.mark.live
@pytest.mark.parametrize("shape", Shape)
def test_changes_under_load_lose_no_request_and_mix_none_up(
    shape: Shape, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    bounds: dict[str, Any] = {"bounds": {"cores": 4, "max_replicas": 4, "batch_sizes": [1, 2, 4]}}
    # A busy machine is no reason to drop a page here.
    bounds |= {"drop_after": "20s"} if shape is Shape.SPLIT else {}
    pipeline = pipeline_in(shape, root / "pipelines/ocr/pipeline.yaml", tmp_path / "pipelines", bounds)
    front = "-svc-orch" if shape is Shape.SINGLE else "-router"
    with seldon_here(tmp_path / "seldon") as here:
        here.create(pipeline, FIRST)
        until_ready(here, pipeline)
        result = probe(here, pipeline, tmp_path)
        assert (result["answered"], result["url"]) == (True, entry_url(pipeline)), result["detail"]
        more = (FIRST[0], replace(FIRST[1], replicas=2))
        with sending(here, pipeline, tmp_path) as load:
            change(here, pipeline, more)
            # The operator tells the orchestrator every number; a router knows none of them. What a change
            # replaces ends after the change.
            until(lambda: taken(here, front) == (shape is Shape.SINGLE), within_s=60.0)
            assert taken(here, "recognise") == taken(here, "detect") == 0
            change(here, pipeline, (replace(more[0], variant="v4-320"), more[1]))
            until(lambda: taken(here, "detect") == 1, within_s=60.0)
            assert taken(here, "recognise") == 0
            assert load.wait(60) == 0
    requests = read_requests(tmp_path / "requests.jsonl")
    assert {it["outcome"] for it in requests} == {"answered"}, [it for it in requests if it["status"] != 200]
    answers = [(it["page"], it["answer"]) for it in requests]
    assert wrong_answers(pipeline, answers) == 0


@pytest.mark.live
@pytest.mark.timeout(700)
@pytest.mark.xdist_group("seldon-core")
def test_seldon_microservices_change_under_load_and_answer_in_their_own_protocol(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        python = ENVIRONMENT.python()
    except RuntimeError as lacking:
        pytest.skip(str(lacking))
    monkeypatch.chdir(root)
    source = root / "pipelines/signals/pipeline.yaml"
    pipeline = pipeline_in(Shape.SINGLE, source, tmp_path / "pipelines", {})
    first = (StageConfig("clean", "median", 1, 1.0, 1), StageConfig("recognise", "coarse", 1, 1.0, 1))
    with seldon_here(tmp_path / "seldon", python) as here:
        here.create(pipeline, first)
        until_ready(here, pipeline)
        result = probe(here, pipeline, tmp_path)
        assert (result["answered"], result["protocol"]) == (True, "seldon"), result["detail"]
        assert result["url"].endswith("/api/v1.0/predictions")
        with sending(here, pipeline, tmp_path) as load:
            more = (first[0], replace(first[1], replicas=2))
            change(here, pipeline, more)
            change(here, pipeline, (replace(more[0], variant="robust"), more[1]))
            until(lambda: taken(here, "clean") == 1, within_s=60.0)
            assert taken(here, "recognise") == 0
            assert load.wait(60) == 0
    requests = read_requests(tmp_path / "requests.jsonl")
    assert {it["outcome"] for it in requests} == {"answered"}, [it for it in requests if it["status"] != 200]
    assert wrong_answers(pipeline, [(it["page"], it["answer"]) for it in requests]) == 0
    # Nothing of them is left, their servers of metrics included.
    until(lambda: not microservices_here(), within_s=10.0)


def microservices_here() -> list[int]:
    """The processes of Seldon's microservices of this test."""
    return [
        it.pid
        for it in psutil.process_iter(["cmdline"])
        if any("pipelines.signals.models" in word for word in it.info["cmdline"] or ())
    ]
