"""`ipa render`, and its examples beside the shipped pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.files import load_pipelines
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import seldon_of, with_seldon
from tests.fakes.commands import Ipa
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.schema import admit, real_schema, small_schema

ROOT = Path(__file__).resolve().parents[4]
SHIPPED = {
    name: pipeline
    for name, pipeline in load_pipelines(ROOT / "pipelines").items()
    if seldon_of(pipeline) is not None
}


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.chdir(root)


def rendered(ipa: Ipa, *arguments: str) -> dict[str, Any]:
    sdep: dict[str, Any] = yaml.safe_load(ipa("render", *arguments).out)
    return sdep


@pytest.mark.parametrize("name", SHIPPED)
def test_the_example_is_what_render_prints_and_is_valid(name: str, root: Path, ipa: Ipa) -> None:
    text = ipa("render", name).out
    example = root / "pipelines" / name / "seldondeployment.yaml"
    assert example.read_text() == text, f"make it anew: ipa render {name} > {example}"
    admit(yaml.safe_load(text), small_schema(), strict=True)


def test_the_examples_are_valid_under_the_published_schema(root: Path, shared_data: Path) -> None:
    schema = real_schema(shared_data / "seldondeployment-crd-v1.17.1.yaml.gz")
    examples = sorted((root / "pipelines").glob("*/seldondeployment.yaml"))
    assert len(examples) == len(SHIPPED)
    for example in examples:
        admit(yaml.safe_load(example.read_text()), schema, strict=True)


def test_render_for_a_rate_and_of_its_plan_run_that_plan(ipa: Ipa, tmp_path: Path) -> None:
    out = ipa("plan", "video", "--rate", "10", "--at", "kubernetes", "-o", "json").out
    path = tmp_path / "plan.json"
    path.write_text(out)
    plan = json.loads(path.read_text())
    by_rate = rendered(ipa, "video", "--rate", "10")
    assert rendered(ipa, "video", "--plan", str(path)) == by_rate
    assert [
        (one.variant, one.batch_size, one.cores, one.replicas) for one in read(SHIPPED["video"], by_rate)
    ] == [(one["variant"], one["batch_size"], one["cores"], one["replicas"]) for one in plan["stages"]]


STAGE = {"stage": "crop", "variant": "yolov5n", "batch_size": 1, "cores": 1, "replicas": 1}
OTHER = {**STAGE, "stage": "classification", "variant": "resnet18"}


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 65, "cannot be read"),
        ("{", 65, "is not JSON"),
        ("[]", 65, "expected a mapping"),
        ("{}", 65, "has no stages"),
        ('{"stages": [1]}', 65, "/stages/0: entry 1 of stages is 1; expected a mapping with stage"),
        (
            json.dumps({"stages": [{**STAGE, "replicas": True}]}),
            65,
            "/stages/0/replicas: replicas is true; expected a whole number",
        ),
        (json.dumps({"stages": [STAGE]}), 65, "one configuration for every stage"),
        (
            json.dumps({"stages": [STAGE, {**OTHER, "replicas": 0}]}),
            65,
            "/stages/1/replicas: replicas is 0; it must be at least 1",
        ),
        (json.dumps({"stages": [{**STAGE, "variant": "x"}, OTHER]}), 1, "It has: yolov5n"),
    ],
)
def test_a_plan_that_cannot_be_used_says_why(
    content: str | None, code: int, words: str, tmp_path: Path, ipa: Ipa
) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_text(content)
    assert words in ipa("render", "video", "--plan", str(path), code=code).err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing"], 1, "There are:"),
        (["video", "--rate", "10", "--plan", "x"], 64, "cannot both be given"),
        (["video", "--objective", "default"], 64, "--objective needs --rate"),
        (["video", "--rate", "1000000"], 3, "no plan for 'video' carries"),
    ],
)
def test_questions_without_an_answer(arguments: list[str], code: int, words: str, ipa: Ipa) -> None:
    assert words in ipa("render", *arguments, code=code).err


def test_shape_split_prints_a_document_for_each_part(tmp_path: Path, root: Path, ipa: Ipa) -> None:
    folder = tmp_path / "video"
    folder.mkdir()
    text = (root / "pipelines/video/pipeline.yaml").read_text(encoding="utf-8")
    given = yaml.safe_load(text)
    given["seldon"] |= {"shape": "split", "image": "registry.example/ipa:1"}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    documents = list(yaml.safe_load_all(ipa("render", "video", "--pipelines-dir", str(tmp_path)).out))
    assert [document["metadata"]["name"] for document in documents] == [
        *("video-crop-model", "video-classification-model"),
        *("video-crop-queue", "video-classification-queue"),
        "video-router",
    ]
    for document in documents:
        admit(document, small_schema(), strict=True)


def test_parts_are_rendered_as_predictors_with_their_traffic(tmp_path: Path, ipa: Ipa) -> None:
    plans = []
    for rate in ("3", "12"):
        plans.append(json.loads(ipa("plan", "video", "--rate", rate, "-o", "json").out))
    stages = [
        {**stage, "share_percent": percent}
        for percent, plan in zip((20, 80), plans, strict=True)
        for stage in plan["stages"]
    ]
    text = json.dumps({**plans[1], "stages": stages})
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    sdep = rendered(ipa, "video", "--plan", str(path))
    predictors = sdep["spec"]["predictors"]
    assert [one["traffic"] for one in predictors] == [20, 80]
    assert [len(one["componentSpecs"]) for one in predictors] == [len(plans[0]["stages"])] * 2
    admit(sdep, small_schema(), strict=True)
    broken = json.loads(text)
    broken["stages"][0]["share_percent"] = "half"
    path.write_text(json.dumps(broken), encoding="utf-8")
    err = ipa("render", "video", "--plan", str(path), code=65).err
    assert '/stages/0/share_percent: share_percent is "half"' in err


def test_containers_are_fit_for_restricted_pod_security_unless_they_may_run_as_root() -> None:
    pipeline = sample_pipeline()
    rooted = with_seldon(pipeline, run_as_root=True)
    for each, is_non_root in ((pipeline, True), (rooted, False)):
        (predictor,) = render(each, sample_configs())["spec"]["predictors"]
        for component in predictor["componentSpecs"]:
            (container,) = component["spec"]["containers"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "runAsNonRoot": is_non_root,
                "seccompProfile": {"type": "RuntimeDefault"},
            }
