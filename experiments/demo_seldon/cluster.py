"""Seldon on this machine, and a pipeline on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ipa.files import load_pipeline
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.settings import Settings
from ipa.targets.deployments.target import DEPLOYMENTS
from ipa.targets.seldon.layouts import parts_of
from ipa.targets.seldon.locate import target_of
from ipa.targets.seldon.section import Shape, is_split
from ipa.targets.seldon.target import SELDON
from tests.fakes.kube import FakeKube
from tests.fakes.kube.executor import ENTRIES
from tests.fakes.kube.node import ENGINE_PORT, Node, prometheus_of

# Of the orchestrator or router, and of each queue, where a page takes tenths of a second: they use less.
FRONT_CORES, QUEUE_CORES = 0.25, 0.125


@dataclass(frozen=True, slots=True)
class SeldonHere:
    """A cluster on this machine: its API server, its node, and where kubeconfig and Prometheus are."""

    kube: FakeKube
    node: Node
    kubeconfig: Path
    prometheus_url: str

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a service beside it."""
        return {"IPA_KUBECONFIG": str(self.kubeconfig), "IPA_PROMETHEUS_URL": self.prometheus_url}

    def create(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> None:
        """Create the pipeline's objects, as `kubectl apply` of what `ipa render` prints does."""
        target = DEPLOYMENTS if DEPLOYMENTS.placed(pipeline) else SELDON
        with self.kube.store.lock:
            for body in target.render(pipeline, configs):
                self.kube.store.create(f"{body['kind'].lower()}s", pipeline.namespace, body)


@contextmanager
def seldon_here(folder: Path, seldon_python: str = "", **cluster: Any) -> Iterator[SeldonHere]:
    """Seldon with all that it runs; leaving the block ends every process.

    `seldon_python` is an interpreter with Seldon's microservice, `cluster` is for `FakeKube`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        FakeKube(**cluster) as kube,
        Node(kube.cluster, folder / "pods", seldon_python=seldon_python) as node,
        prometheus_of(node, folder / "prometheus") as url,
    ):
        yield SeldonHere(kube, node, kube.kubeconfig(folder), url)


def entry_url(pipeline: Pipeline) -> str:
    """The address for the pipeline's requests, by the name of its Service."""
    if DEPLOYMENTS.placed(pipeline):
        return DEPLOYMENTS.address(pipeline, Settings()).url
    if is_split(pipeline):
        return f"{parts_of(pipeline)[-1].service}/v2/models/{pipeline.name}/infer"
    target = target_of(pipeline)
    host = f"{target.name}-{target.predictor}.{target.namespace}:{ENGINE_PORT}"
    return f"http://{host}{ENTRIES[target.protocol]}"


def pipeline_in(shape: str, source: Path, folder: Path, changes: Mapping[str, Any]) -> Pipeline:
    """The pipeline of a file in that shape; its file, with those keys changed, is written into `folder`.

    The shape is one of Seldon's, or `deployments` for plain ones. Variants without a `seldon` section are
    given that of their local runtime.
    """
    text = yaml.safe_load(source.read_text())
    text |= changes
    # Where it was only planned, it runs here.
    text.pop("runnable", None)
    text.pop("not_runnable_because", None)
    queues = {"image": "ipa-serving/dataplane:0.2.0", "queue_cores": QUEUE_CORES}
    text["seldon"] = {
        **{"name": text["name"]},
        **({"ignores": ["resident"]} if any("resident" in it for it in text["stages"]) else {}),
        **text.get("seldon", {}),
        **{"shape": str(shape), "orchestrator_cores": FRONT_CORES},
        **(queues if shape == Shape.SPLIT else {}),
    }
    for stage in text["stages"]:
        stage.setdefault("container", stage["name"])
        for variant in stage["variants"]:
            if "seldon" in variant:
                continue
            local = variant["local"]
            env = {
                "MLSERVER_MODEL_IMPLEMENTATION": local["implementation"],
                "MLSERVER_MODEL_EXTRA": json.dumps(local["parameters"]),
            }
            variant["seldon"] = {"image": f"ipa/{text['name']}:0.2.0", "env": env}
    if shape == DEPLOYMENTS.name:
        own = {key: text["seldon"][key] for key in ("name", "ignores") if key in text["seldon"]}
        text[shape] = {**own, **queues, "router_cores": FRONT_CORES}
        del text["seldon"]
        for stage in text["stages"]:
            for variant in stage["variants"]:
                variant[shape] = variant.pop("seldon")
    path = folder / text["name"] / "pipeline.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(text, sort_keys=False))
    return load_pipeline(path)


def until_ready(here: SeldonHere, pipeline: Pipeline, within_s: float = 90.0) -> None:
    """Return once every Service has a ready pod; RuntimeError if one has none in time."""
    entry = entry_url(pipeline).removeprefix("http://").partition(":")[0]
    until_s = time.monotonic() + within_s
    missing = [entry]
    while missing and time.monotonic() < until_s:
        time.sleep(0.2)
        services = json.loads(here.node.hosts.read_text())
        missing = [name for name in {entry, *services} if not services.get(name, {}).get("pods")]
    if missing:
        raise RuntimeError(
            f"no pod of {', '.join(missing)} was ready within {within_s:g} s; see the logs of its pods"
        )


def start_sending(
    here: SeldonHere,
    pipeline: Pipeline,
    bodies: Sequence[bytes],
    times_s: Sequence[float],
    folder: Path,
    timeout_s: float = 10.0,
) -> subprocess.Popen[bytes]:
    """The sender of these requests at those times, in the cluster; it writes requests.jsonl into `folder`."""
    (folder / "bodies.json").write_text(json.dumps([body.decode() for body in bodies]))
    (folder / "times.json").write_text(json.dumps(list(times_s)))
    command = [sys.executable, "-m", "experiments.demo_seldon.traffic", "--url", entry_url(pipeline)]
    command += ["--bodies", str(folder / "bodies.json"), "--times", str(folder / "times.json")]
    command += ["--out", str(folder / "requests.jsonl"), "--timeout", f"{timeout_s:g}"]
    return subprocess.Popen(command, env={**os.environ, **here.node.environment})
