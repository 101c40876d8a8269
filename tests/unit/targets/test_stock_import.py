"""`ipa import` of stock Deployments: what is read, what is said to be unknown, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.scraper import SeriesStore, parse_samples
from ipa.files import load_pipeline
from ipa.model.errors import IpaError
from ipa.model.pipeline import Sla
from ipa.settings import Settings
from ipa.targets.base import ImportRequest, target_named
from ipa.targets.scale.workload import ScaleWorkload
from tests.fakes.commands import Ipa
from tests.fakes.kube import FakeKube
from tests.unit.targets.test_scale_target import KINDS

Json = dict[str, Any]
NAMES = "deployments/detect", "classify"
SIDECAR = {"name": "mesh", "image": "mesh:1"}


def stock(name: str, replicas: int, *beside: Json, cpu: Json, env: dict[str, str]) -> Json:
    """A Deployment as its owner applied it, which knows nothing of ipa."""
    container = {
        "name": "server",
        "image": f"shop/{name}:v2",
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {kind: {"cpu": amount} for kind, amount in cpu.items()},
    }
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container, *beside]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


DETECT = stock(
    "detect",
    3,
    SIDECAR,
    cpu={"requests": "500m", "limits": "2"},
    env={"MLSERVER_MODEL_NAME": "yolo", "MLSERVER_MODEL_MAX_BATCH_SIZE": "4", "API_KEY": "x"},
)
CLASSIFY = stock("classify", 1, cpu={}, env={"MODEL_NAME": "resnet18"})


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with FakeKube(kinds=KINDS) as made:
        for body in (DETECT, CLASSIFY):
            made.store.create("deployments", "shop", body)
        yield made


@pytest.mark.parametrize("target", ["scale", "deployments"])
def test_a_chain_is_written_as_it_runs_and_what_is_unknown_is_said(
    target: str, kube: FakeKube, tmp_path: Path, ipa: Ipa
) -> None:
    kubeconfig = kube.kubeconfig(tmp_path)
    folders = ["--pipelines-dir", f"{tmp_path}/p", "--profiles-dir", f"{tmp_path}/q"]
    at = ["--at", f"{target}:{kubeconfig}", "-n", "shop", "--name", "pages"]
    out = ipa("import", *NAMES, *at, *folders, "--cores", "8").out
    for words in (
        "runs  detect=v2 b4 3×2 cores",
        "runs  classify=resnet18 b1 1×1 core",
        "'detect': requests and limits of CPU differ; the limit, 2, is planned",
        "'detect': container 'server' is read; 'mesh' stay as they are",
        "'detect': env API_KEY looks like a secret",
        "set resources.requests.cpu of its container, or `scale: {stages: {classify: {cores}}}`",
        "no env MLSERVER_MODEL_MAX_BATCH_SIZE, so it is taken to serve one request at once",
        "each stage has the one variant that runs",
        'the load is taken to be model_infer_request_duration_count{namespace="shop",pod=~"detect-.*"}',
    ):
        assert words in out, words
    pipeline = load_pipeline(tmp_path / "p/pages/pipeline.yaml")
    assert pipeline.bounds.cores == 8
    # What the file says is what the target reads there.
    client = KubeClient.from_kubeconfig(str(kubeconfig), 10.0)
    state = ScaleWorkload(client).read(pipeline)
    client.close()
    assert [str(it.config) for it in state.stages] == [
        "detect=v2 b4 3×2 cores",
        "classify=resnet18 b1 1×1 core",
    ]
    assert not kube.writes
    assert set(pipeline.targets) == {"scale", target} and pipeline.stages[0].container == "yolo"
    if target == "deployments":
        assert "ipa-serving/dataplane" in out and "commands, volumes and probes" in out
        configs = tuple(it.config for it in state.stages)
        made = target_named(target).render(pipeline, configs)
        names = {it["metadata"]["name"] for it in made}
        # All of it is beside what is there.
        assert names >= {"pages-yolo-model", "pages-classify-queue", "pages-router"}
        assert not names & {"detect", "classify"}


def test_what_is_imported_can_be_planned_at_once_by_the_load_that_it_has(
    kube: FakeKube, tmp_path: Path, ipa: Ipa, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SeriesStore()
    for at_s in range(0, 61, 5):
        line = f'model_infer_request_duration_count{{namespace="shop",pod="detect-1"}} {80 * at_s}\n'
        store.add("mesh", float(at_s), parse_samples(line))
    ask, module = (lambda query: (store.rows(query, 60.0), 60.0)), "ipa.adapters.prometheus.client"
    asking = partial(PrometheusMetrics, ask=ask, monotonic_s=lambda: 60.0)
    monkeypatch.setattr(f"{module}.PrometheusMetrics", asking)
    monkeypatch.chdir(tmp_path)
    words = ["import", *NAMES, "--at", f"scale:{kube.kubeconfig(tmp_path)}", "-n", "shop", "--name", "pages"]
    wrong = ipa(*words, "--accuracy", "detect=2", "--accuracy", "detekt=0.5", code=64).err
    assert "'detect=2': the number must be above 0 and at most 1" in wrong
    assert "'detekt' is none of: detect, detect/v2, classify, classify/" in wrong
    out = ipa(*words, "--accuracy", "detect=0.5").out
    assert (
        "by 80 rps that classify=resnet18 b1 1×1 core carries, a batch of 1 is assumed to take 3.12 to" in out
    )
    assert "still missing" not in out and "to measure them: ipa profile pages --at URL --write" in out
    planned = ipa("plan", "pages", "--rate", "10")
    assert "PAS 0.5000" in planned.out and "the times of v2 are assumed, not measured" in planned.err
    assert "measuring" not in planned.err, "one replica of each carries it"
    worth = ipa("plan", "pages", "--rate", "100").err
    assert "→ measuring detect/v2 would probably save 4 cores" in worth
    assert "by 90 rps that classify" in ipa(*words, "--rate", "90", "--force").out


@pytest.mark.parametrize("target", ["scale", "deployments"])
@pytest.mark.parametrize(
    ("workloads", "change", "words"),
    [
        (("detect", "detect"), {}, "named in their order, each once"),
        (("detect", "sort"), {}, "has no Deployment 'sort'"),
        (("detect", "classify"), {"containers": []}, "Deployment 'detect' has no containers"),
    ],
)
def test_what_is_no_chain_is_refused(
    target: str, workloads: tuple[str, ...], change: Json, words: str, tmp_path: Path
) -> None:
    spec = DETECT["spec"] | {"template": {"spec": DETECT["spec"]["template"]["spec"] | change}}
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all([DETECT | {"spec": spec}, CLASSIFY]))
    request = ImportRequest(Sla(1.0), workloads=workloads, file=path)
    with pytest.raises(IpaError, match=words):
        target_named(target).imported(Settings(), "", request)


def test_a_stage_scaled_to_zero_is_planned_with_one_replica(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump(CLASSIFY | {"spec": CLASSIFY["spec"] | {"replicas": 0}}))
    result = target_named("scale").imported(
        Settings(), "", ImportRequest(Sla(1.0), workloads=("classify",), file=path)
    )
    assert result.configs[0].replicas == 1
    assert any("scaled to 0" in note for note in result.notes)
    # Nothing says in which order others are called.
    with pytest.raises(IpaError, match="named in their order"):
        target_named("scale").imported(Settings(), "", ImportRequest(Sla(1.0), file=path))
    with pytest.raises(IpaError, match="is one workload"):
        target_named("kubernetes").imported(
            Settings(), "", ImportRequest(Sla(1.0), workloads=("a", "b"), file=path)
        )
