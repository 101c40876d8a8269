"""Each image of a layout runs as a restricted pod, and pipelines answer as rendered: `make test-images`.

Skipped unless IPA_TEST_LAYOUT names the layout, since building it takes minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import pytest

import ipa
from ipa.files import load_pipelines, load_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.split import PORT
from ipa.targets.seldon.section import Shape, seldon_of, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.deploy.pods import GIVE_UP_S, Container, Mounted, RunnableImage, loopback_up, why_not
from tests.fakes.deployed import deployed

LAYOUT = os.environ.get("IPA_TEST_LAYOUT", "")
pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(not LAYOUT, reason="IPA_TEST_LAYOUT names no images: make test-images"),
]
ROOT = Path(__file__).resolve().parents[2]
SERVICE, DATAPLANE = f"ipa-serving/service:{ipa.__version__}", f"ipa-serving/dataplane:{ipa.__version__}"
PIPELINES = {
    name: pipeline
    for name, pipeline in load_pipelines(ROOT / "pipelines").items()
    if pipeline.runnable and seldon_of(pipeline) is not None
}
ITEMS = 24
# How far the accuracy of so few answers may be below that of the profiles: about three standard deviations.
SLACK = 0.3

# A V2 request's inputs, and an answer's outputs, by name.
Inputs = list[dict[str, Any]]
Ask = Callable[[Inputs], dict[str, list[Any]]]


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    if problem := why_not(LAYOUT):
        pytest.fail(f"no image can be run here: {problem}")
    loopback_up()
    # Beside the layout: /tmp may be in memory.
    with Mounted(Path(LAYOUT).resolve(), Path(LAYOUT).resolve().parent / "mounted") as images:
        yield images


LOOK = """
echo "user $(id -u) $(id -g)"
grep -E '^(CapPrm|CapEff|NoNewPrivs)' /proc/self/status
for folder in / /opt/ipa /etc /usr/bin /srv /var/tmp /dev; do
  touch "$folder/probe" 2>/dev/null && echo "wrote $folder"
done
touch /tmp/probe && echo "wrote /tmp"
"""


def test_images_are_of_no_root_and_change_nothing(mounted: Mounted, tmp_path: Path) -> None:
    stages = {f"ipa/{name}:{ipa.__version__}" for name in PIPELINES}
    assert set(mounted.names) == {SERVICE, DATAPLANE, *stages}
    for name in mounted.names:
        folder = tmp_path / name.replace("/", "-")
        with Container(mounted.image(name), folder, command=["sh", "-c", LOOK]) as looking:
            lines = looking.output().split("\n")
        assert lines == [
            *("user 10001 10001", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"),
            *("wrote /tmp", ""),
        ], name


def test_the_service_answers_as_the_chart_starts_it(mounted: Mounted, tmp_path: Path) -> None:
    with deployed(ROOT, tmp_path) as made:
        (tmp_path / "tmp").mkdir()
        made.kube.kubeconfig(tmp_path / "tmp")
        (tmp_path / "tmp" / "kubeconfig").chmod(0o644)
        env = {
            **{"IPA_TARGET": "kubernetes", "IPA_HOST": "0.0.0.0", "IPA_PORT": "8080", "IPA_AUTH": "keys"},
            **{"IPA_KUBECONFIG": "/tmp/kubeconfig", "IPA_PROMETHEUS_URL": made.settings.prometheus_url},
            "IPA_STORE_URL": "sqlite:////tmp/ipa.sqlite3",
        }
        words = ["serve", "video", "--policy=ours", "--log=json", "--mode=advisory"]
        with Container(mounted.image(SERVICE), tmp_path, arguments=words, env=env) as service:
            service.wait_until_ready("http://127.0.0.1:8080/healthz")
            service.wait_until_ready("http://127.0.0.1:8080/readyz")
            # Who does not say who he is sees nothing.
            response = httpx.get("http://127.0.0.1:8080/v1/pipelines", trust_env=False)
        assert response.status_code == 401


@dataclass(frozen=True)
class Asked:
    """Requests of a pipeline, and the accuracy, 0 .. 1, of the answer to each."""

    requests: Sequence[Inputs]
    score: Callable[[int, dict[str, list[Any]]], float]


def _digits() -> Asked:
    from pipelines.digits.bench import workload

    labels = workload("classify", 1).expected
    return Asked(
        workload("locate", 1).items[:ITEMS],
        lambda number, outputs: float(outputs["digit"] == [int(labels[number])]),
    )


def _ocr() -> Asked:
    from pipelines.ocr.client import image_tensor, lines
    from pipelines.ocr.pages import make_pages
    from pipelines.ocr.score import page_accuracy

    pages = make_pages(1, ITEMS)
    return Asked(
        [[image_tensor("image", [page.jpeg])] for page in pages],
        lambda number, outputs: page_accuracy(pages[number].lines, lines(outputs["text"], outputs["box"])),
    )


def _text() -> Asked:
    from pipelines.text.bench import passage_request, pipeline_accuracy, workload

    passages = workload("extract", 1).passages[:ITEMS]
    return Asked(
        [passage_request(each) for each in passages],
        lambda number, outputs: pipeline_accuracy(passages[number], outputs),
    )


ASKED = {"digits": _digits, "ocr": _ocr, "text": _text}


def post(port: int, model: str, inputs: Inputs) -> Inputs:
    """The outputs of one V2 request."""
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v2/models/{model}/infer",
        json={"inputs": inputs},
        timeout=GIVE_UP_S,
        trust_env=False,
    )
    assert answer.status_code == 200, f"{model}: {answer.status_code} {answer.text[:500]}"
    outputs: Inputs = answer.json()["outputs"]
    return outputs


def pods(
    mounted: Mounted, documents: Sequence[Mapping[str, Any]], folder: Path, stack: ExitStack
) -> dict[str, tuple[int, str]]:
    """Start each container of SeldonDeployments with the operator's env; port and model of each by name.

    All share one network: each Service is a port here, written into the env in place of its name.
    """
    containers = [
        (document["metadata"], container)
        for document in documents
        for component in document["spec"]["predictors"][0]["componentSpecs"]
        for container in component["spec"]["containers"]
    ]
    ports = {
        container["name"] + meta["name"]: PORT + place for place, (meta, container) in enumerate(containers)
    }
    services = {
        f"http://{meta['name']}-default.{meta['namespace']}:{PORT}": ports[container["name"] + meta["name"]]
        for meta, container in containers
    }
    started = {}
    for place, (meta, container) in enumerate(containers):
        assert container["securityContext"]["runAsNonRoot"]
        port, name = PORT + place, container["name"]
        env = {
            **{"MLSERVER_HTTP_PORT": str(port), "MLSERVER_GRPC_PORT": str(port + 500)},
            **{"MLSERVER_METRICS_PORT": str(port + 1000), "MLSERVER_MODEL_NAME": name},
            **{"PREDICTIVE_UNIT_HTTP_SERVICE_PORT": str(port)},
            **{entry["name"]: entry["value"] for entry in container["env"]},
        }
        for url, its_port in services.items():
            env = {key: value.replace(url, f"http://127.0.0.1:{its_port}") for key, value in env.items()}
        image: RunnableImage = mounted.image(container["image"].removeprefix("registry.example/"))
        running = Container(
            image, folder / meta["name"] / name, command=container.get("command", ()), env=env
        )
        started[meta["name"] if len(documents) > 1 else name] = (stack.enter_context(running), port, name)
    for running, port, _ in started.values():
        running.wait_until_ready(f"http://127.0.0.1:{port}/v2/health/ready")
    return {each: (port, name) for each, (_, port, name) in started.items()}


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_answers_as_rendered(name: str, shape: Shape, mounted: Mounted, tmp_path: Path) -> None:
    # A busy machine is late, and would drop requests at their SLA.
    patient = replace(PIPELINES[name], drop_after_s=GIVE_UP_S)
    pipeline = with_seldon(patient, shape=shape, image=DATAPLANE)
    best = [_best(pipeline, stage.name) for stage in pipeline.stages]
    configs = [
        StageConfig(stage.name, it[0], 1, 1.0, 1) for stage, it in zip(pipeline.stages, best, strict=True)
    ]
    requests = ASKED[name]()
    with ExitStack() as stack:
        urls = pods(mounted, SELDON.render(pipeline, configs), tmp_path, stack)

        def ask(inputs: Inputs) -> dict[str, list[Any]]:
            if shape is Shape.SPLIT:
                inputs = post(urls[f"{name}-router"][0], name, inputs)
            else:
                # As the orchestrator: the outputs of one stage are the inputs of the next.
                for stage in pipeline.stages:
                    inputs = post(*urls[stage.name], inputs)
            return {output["name"]: output["data"] for output in inputs}

        scores = [requests.score(number, ask(request)) for number, request in enumerate(requests.requests)]
    assert len(scores) == ITEMS
    expected = prod(accuracy for _, accuracy in best)
    assert fmean(scores) > expected - SLACK, f"{fmean(scores):.2f}, the profiles say {expected:.2f}"


def _best(pipeline: Pipeline, stage: str) -> tuple[str, float]:
    """The stage's most accurate variant, and its accuracy, by its profile."""
    variants = load_profiles(ROOT / "profiles", pipeline.name)[stage].variants
    best = max(variants, key=lambda it: it.accuracy)
    return best.variant, best.accuracy
