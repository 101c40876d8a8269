"""A pipeline as a SeldonDeployment and back, and as `ipa render` prints it."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.adapters.kube.kinds import parse_quantity
from ipa.files import load_pipeline, load_pipelines, load_profiles
from ipa.model.errors import DriftError, InputError
from ipa.model.pipeline import Pipeline, Sla, Variant
from ipa.model.plan import StageConfig
from ipa.targets.base import ImportRequest
from ipa.targets.seldon.imported import imported
from ipa.targets.seldon.locate import locate
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import SeldonRun, seldon_of, with_seldon
from ipa.targets.seldon.variants import at_cluster
from tests.fakes.commands import Ipa
from tests.fakes.kube.patching import json_patch
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.schema import admit, prune, real_schema, small_schema
from tests.fakes.kube.store import ApiError

Json = dict[str, Any]
PIPELINE = sample_pipeline()
CONFIGS = sample_configs()


def rendered() -> Json:
    return render(PIPELINE, CONFIGS)


def component(sdep: Json, index: int) -> Json:
    return sdep["spec"]["predictors"][0]["componentSpecs"][index]


def container(sdep: Json, index: int) -> Json:
    return component(sdep, index)["spec"]["containers"][0]


def test_the_container_carries_batch_variant_and_equal_requests_and_limits() -> None:
    one = container(rendered(), 0)
    assert one["image"] == "registry.example/detect:s"
    assert {entry["name"]: entry["value"] for entry in one["env"]} == {
        "MLSERVER_MODEL_MAX_BATCH_SIZE": "1",
        "MLSERVER_MODEL_MAX_BATCH_TIME": "0.02",
    }
    assert one["resources"]["requests"] == one["resources"]["limits"] == {"cpu": "1000m", "memory": "1024Mi"}
    assert container(rendered(), 1)["resources"]["limits"] == {"cpu": "500m"}


def test_a_class_of_ours_is_mlservers_and_a_server_of_seldons_is_the_nodes() -> None:
    ours = Variant(
        "d", targets={"seldon": SeldonRun(image="registry.example/d:1", implementation="ours.Detect")}
    )
    stages = (replace(PIPELINE.stages[0], variants=(ours,)), *PIPELINE.stages[1:])
    sdep = render(replace(PIPELINE, stages=stages), (replace(CONFIGS[0], variant="d"), *CONFIGS[1:]))
    assert {"name": "MLSERVER_MODEL_IMPLEMENTATION", "value": "ours.Detect"} in container(sdep, 0)["env"]
    graph = sdep["spec"]["predictors"][0]["graph"]
    assert "implementation" not in graph
    assert graph["children"][0]["children"][0]["implementation"] == "SKLEARN_SERVER"


def test_it_is_valid_under_the_published_schema_with_nothing_pruned(shared_data: Path) -> None:
    schema = real_schema(shared_data / "seldondeployment-crd-v1.17.1.yaml.gz")
    admit(rendered(), schema, strict=True)
    # The small schema must know nothing that the real one does not.
    unknown = deepcopy(rendered())
    unknown["spec"]["predictors"][0]["graph"]["nonsense"] = 1
    assert prune(unknown, schema)[1] == ["spec.predictors[0].graph.nonsense"]
    assert prune(unknown, small_schema())[1] == ["spec.predictors[0].graph.nonsense"]
    # Nor may it refuse what the real one takes.
    for wrong in (
        {"op": "add", "path": "/spec/predictors/0/replicas", "value": "three"},
        {"op": "remove", "path": "/spec/predictors/0/graph"},
        {"op": "add", "path": "/spec/predictors/0/componentSpecs/0/hpaSpec", "value": {}},
        {"op": "remove", "path": "/spec/predictors/0/name"},
    ):
        for each in (schema, small_schema()):
            with pytest.raises(ApiError):
                admit(json_patch(rendered(), [wrong]), each, strict=True)


@pytest.mark.parametrize(
    ("requests", "limits", "cores"),
    [("500m", "500m", 0.5), ("0.5", "500m", 0.5), (2, "2", 2.0), (None, "1500m", 1.5), ("250m", None, 0.25)],
)
def test_cores_in_any_notation(requests: object, limits: object, cores: float) -> None:
    sdep = rendered()
    given = {"requests": requests, "limits": limits}
    container(sdep, 0)["resources"] = {kind: {"cpu": v} for kind, v in given.items() if v is not None}
    assert read(PIPELINE, sdep)[0].cores == cores


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("1Gi", 2**30), ("1e3", 1000), ("2k", 2000), (".5", 0.5), ("12", 12), (3, 3)],
)
def test_quantities(text: object, value: float) -> None:
    assert parse_quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "m", "1.2.3", "10 Mi", "Ki", "-", None, True, "1KiB"])
def test_what_is_no_quantity(text: object) -> None:
    assert parse_quantity(text) is None


def test_batching_off_is_a_batch_of_one() -> None:
    for value in ("0", "1"):
        sdep = rendered()
        entry = next(e for e in container(sdep, 2)["env"] if e["name"] == "MLSERVER_MODEL_MAX_BATCH_SIZE")
        entry["value"] = value
        assert read(PIPELINE, sdep)[2].batch_size == 1
    container(sdep, 2)["env"] = []
    assert read(PIPELINE, sdep)[2].batch_size == 1


def test_of_two_entries_of_one_name_the_last_counts_as_in_kubernetes() -> None:
    sdep = rendered()
    container(sdep, 1)["env"].insert(0, {"name": "MODEL", "value": "m"})
    assert read(PIPELINE, sdep)[1].variant == "r-s"


def _set(path: list[Any], value: Any) -> Callable[[Json], None]:
    def change(sdep: Json) -> None:
        place: Any = sdep["spec"]["predictors"][0]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


FIRST = ["componentSpecs", 0, "spec", "containers", 0]
SECOND = ["componentSpecs", 1, "spec", "containers", 0]


def _share(sdep: Json) -> None:
    moved = component(sdep, 1)["spec"]["containers"].pop()
    component(sdep, 0)["spec"]["containers"].append(moved)
    del sdep["spec"]["predictors"][0]["componentSpecs"][1]


def _reorder(sdep: Json) -> None:
    graph = sdep["spec"]["predictors"][0]["graph"]
    graph["name"], graph["children"][0]["name"] = graph["children"][0]["name"], graph["name"]


def _foreign(sdep: Json) -> None:
    sdep["metadata"]["labels"]["ipa-serving/pipeline"] = "other"


DRIFTS = {
    "image": (_set([*FIRST, "image"], "evil:1"), "image is 'evil:1', not 'registry.example/detect:s'"),
    "env": (_set([*SECOND, "env", 0, "value"], "xxl"), "stage 'read' runs none of its variants"),
    "valueFrom": (
        _set([*SECOND, "env"], [{"name": "MODEL", "valueFrom": {}}]),
        "env MODEL is 'a value from elsewhere (valueFrom)'",
    ),
    "model URI": (
        _set(["graph", "children", 0, "children", 0, "modelUri"], "s3://x"),
        "modelUri is 's3://x', not 's3://models/sort/s'",
    ),
    "batch": (
        _set([*FIRST, "env"], [{"name": "MLSERVER_MODEL_MAX_BATCH_SIZE", "value": "many"}]),
        "env MLSERVER_MODEL_MAX_BATCH_SIZE is 'many', not a whole number",
    ),
    "unequal cores": (
        _set([*FIRST, "resources", "limits", "cpu"], "2"),
        "resources.requests.cpu is '1000m', resources.limits.cpu is '2'; they must be equal",
    ),
    "no cores": (
        _set([*FIRST, "resources"], {}),
        "has no resources.requests.cpu and no resources.limits.cpu",
    ),
    "renamed container": (
        _set([*FIRST, "name"], "detector"),
        "0 containers are named 'detect' instead of one",
    ),
    "renamed node": (_set(["graph", "name"], "root"), "0 graph nodes are named 'detect' instead of one"),
    "renamed predictor": (_set(["name"], "blue"), "has predictors blue; exactly one must be 'main'"),
    "hpaSpec": (_set(["componentSpecs", 0, "hpaSpec"], {"maxReplicas": 3}), "stage 'detect' has hpaSpec"),
    "kedaSpec": (_set(["componentSpecs", 1, "kedaSpec"], {"triggers": [{}]}), "stage 'read' has kedaSpec"),
    "shared component": (_share, "stage 'read' shares its componentSpec with another stage"),
    "order": (_reorder, "graph node 'reader' is not below 'detect'"),
    "another owner": (_foreign, "label ipa-serving/pipeline names pipeline 'other'"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_what_no_plan_of_ours_would_be_is_refused_and_named(name: str) -> None:
    change, words = DRIFTS[name]
    sdep = rendered()
    change(sdep)
    with pytest.raises(DriftError) as refusal:
        read(PIPELINE, sdep)
    assert words in str(refusal.value)
    assert "models/sample" in refusal.value.message


def test_all_drifts_are_told_at_once() -> None:
    sdep = rendered()
    for name in ("image", "batch", "env"):
        DRIFTS[name][0](sdep)
    with pytest.raises(DriftError) as refusal:
        read(PIPELINE, sdep)
    assert len(refusal.value.problems) == 3


def test_other_predictors_sidecars_and_fields_are_not_ours() -> None:
    sdep = rendered()
    sdep["spec"]["predictors"].insert(0, {"name": "canary", "graph": {"name": "detect"}, "traffic": 10})
    main = sdep["spec"]["predictors"][1]
    main["componentSpecs"][0]["spec"]["containers"].append({"name": "sidecar"})
    main["componentSpecs"][0]["spec"]["containers"][0]["env"].append({"name": "THEIRS", "value": "1"})
    assert read(PIPELINE, sdep) == CONFIGS


def test_names_of_deployments() -> None:
    places = locate(PIPELINE, rendered())
    assert [place.deployment for place in places] == [
        "sample-main-0-detect",
        "sample-main-1-reader",
        "sample-main-2-sort",
    ]
    sdep = rendered()
    component = sdep["spec"]["predictors"][0]["componentSpecs"][0]
    component["spec"]["containers"].append({"name": "x" * 60})
    name = locate(PIPELINE, sdep)[0].deployment
    assert name.startswith("seldon-")
    assert len(name) < 63


def test_configs_that_do_not_fit_are_all_told() -> None:
    bad = (replace(CONFIGS[0], replicas=0, batch_size=0, cores=0.0001), *CONFIGS[1:])
    with pytest.raises(InputError) as refusal:
        render(PIPELINE, bad)
    assert len(refusal.value.problems) == 3
    with pytest.raises(InputError, match="do not fit"):
        render(PIPELINE, CONFIGS[:2])


def test_variants_that_look_the_same_or_take_the_services_env_are_refused() -> None:
    same = SeldonRun(image="registry.example/detect:s", env={"MLSERVER_HTTP_PORT": "1"})
    twins = (
        Variant("a", targets={"seldon": same}),
        Variant("b", targets={"seldon": same}),
        Variant("local only"),
    )
    stages = (replace(PIPELINE.stages[0], variants=twins), *PIPELINE.stages[1:])
    with pytest.raises(InputError) as refusal:
        render(replace(PIPELINE, stages=stages), (replace(CONFIGS[0], variant="a"), *CONFIGS[1:]))
    words = str(refusal.value)
    assert "variants 'a' and 'b' have the same image" in words
    assert "the service sets env MLSERVER_HTTP_PORT" in words


def test_a_variant_or_pipeline_without_seldon_says_so() -> None:
    bare = (*PIPELINE.stages[0].variants, Variant("local only"))
    stages = (replace(PIPELINE.stages[0], variants=bare), *PIPELINE.stages[1:])
    with pytest.raises(InputError, match="'local only' of stage 'detect' has no `seldon:` section"):
        render(replace(PIPELINE, stages=stages), (replace(CONFIGS[0], variant="local only"), *CONFIGS[1:]))
    with pytest.raises(InputError, match="has no `seldon:` section"):
        render(replace(PIPELINE, targets={}), CONFIGS)


HOME = Path(__file__).parents[3] / "fixtures" / "accelerated"
GPU, SLICE = "nvidia.com/gpu", "nvidia.com/mig-1g.5gb"
LARGE = (StageConfig("classify", "large", 4, 1.0, 2), StageConfig("rank", "network", 1, 1.0, 1))
SMALL = (replace(LARGE[0], variant="small"), replace(LARGE[1], variant="trees"))


def vision() -> Pipeline:
    pipeline = load_pipeline(HOME / "pipelines" / "vision" / "pipeline.yaml")
    return at_cluster(pipeline, load_profiles(HOME / "profiles", "vision"))


def live(configs: tuple[StageConfig, ...]) -> dict[str, Any]:
    sdep = render(vision(), configs)
    sdep["metadata"].update(resourceVersion="41", uid="u", generation=3)
    return sdep


def test_each_variant_requests_and_is_limited_to_its_own() -> None:
    sdep = live(LARGE)
    for kind in ("requests", "limits"):
        assert container(sdep, 0)["resources"][kind] == {"cpu": "1000m", "memory": "8192Mi", GPU: "1"}
        assert container(sdep, 1)["resources"][kind] == {"cpu": "1000m", "memory": "5120Mi", SLICE: "1"}
    assert read(vision(), sdep) == LARGE
    assert GPU not in container(live(SMALL), 0)["resources"]["limits"]


@pytest.mark.parametrize("count", [None, "2"])
def test_another_number_is_drift(count: str | None) -> None:
    sdep = live(LARGE)
    limits = container(sdep, 0)["resources"]["limits"]
    limits.pop(GPU)
    if count is not None:
        limits[GPU] = count
    with pytest.raises(DriftError, match="stage 'classify' runs none of its variants") as refusal:
        read(vision(), sdep)
    shown = "absent" if count is None else repr(count)
    assert f"nearest is 'large': {GPU} is {shown}, not '1'" in str(refusal.value)


def test_an_imported_deployment_keeps_what_it_requests() -> None:
    pipeline = imported(live(LARGE), ImportRequest(Sla(0.6))).pipeline
    runs = [seldon_of(stage.variants[0]) for stage in pipeline.stages]
    assert [run and dict(run.accelerators) for run in runs] == [{GPU: 1.0}, {SLICE: 1.0}]


ROOT = Path(__file__).resolve().parents[4]
SHIPPED = {
    name: pipeline
    for name, pipeline in load_pipelines(ROOT / "pipelines").items()
    if seldon_of(pipeline) is not None
}


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.chdir(root)


def printed_manifest(ipa: Ipa, *arguments: str) -> dict[str, Any]:
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
    by_rate = printed_manifest(ipa, "video", "--rate", "10")
    assert printed_manifest(ipa, "video", "--plan", str(path)) == by_rate
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
    sdep = printed_manifest(ipa, "video", "--plan", str(path))
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
