"""A SeldonDeployment as a pipeline: read, written down, and rendered again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ipa.files import pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import DriftError, InputError
from ipa.model.pipeline import Pipeline, Sla, Stage, StageKind
from ipa.model.resources import BESIDE_CORES, DIMENSIONS
from ipa.targets.base import ImportRequest
from ipa.targets.seldon.imported import imported
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import SeldonRun, seldon_of
from ipa.targets.seldon.target import SELDON
from tests.amounts import many
from tests.fakes.kube.patching import json_patch, patch_to
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.schema import admit, small_schema
from tests.fakes.kube.store import ApiError
from tests.unit.targets.seldon.test_kube_graph import GRAPHS, SPLIT, a_pipeline
from tests.unit.targets.seldon.test_kube_manifest import DRIFTS


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in the value."""
    paths = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        paths.extend(places(one, (*path, key)))
    return paths


def edit(sdep: Any, path: tuple[Any, ...], value: Any) -> bool:
    """True if it could be put there (or dropped); an earlier edit may have taken its place away."""
    place = sdep
    try:
        for key in path[:-1]:
            place = place[key]
        _ = place[path[-1]]
        if value == "drop":
            del place[path[-1]]
        else:
            place[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        return False
    return True


SLA = Sla(1.0)
Json = dict[str, Any]


def sample() -> Json:
    sdep = render(sample_pipeline(), sample_configs())
    sdep["metadata"]["namespace"] = "models"
    return sdep


def containers(sdep: Json) -> list[Json]:
    return [one["spec"]["containers"][0] for one in sdep["spec"]["predictors"][0]["componentSpecs"]]


@pytest.mark.parametrize(
    "name", ["audio-qa", "audio-sent", "digits", "nlp", "ocr", "resnets", "sum-qa", "text", "video"]
)
def test_what_is_imported_renders_as_it_was(name: str, root: Path) -> None:
    sdep = yaml.safe_load((root / "pipelines" / name / "seldondeployment.yaml").read_text())
    result = imported(sdep, ImportRequest(SLA))
    pipeline = pipeline_from_mapping(pipeline_to_mapping(result.pipeline))
    assert pipeline == result.pipeline
    assert SELDON.render(pipeline, result.configs) == [sdep]
    assert [note for note in result.notes if "ours" in note] == []


def test_variants_of_every_kind_are_read() -> None:
    result = imported(sample(), ImportRequest(SLA))
    detect, reader, sort = result.pipeline.stages
    assert [stage.variants[0].name for stage in result.pipeline.stages] == ["s", "s", "s"]
    assert seldon_of(detect.variants[0]).memory_gib == 1.0  # type: ignore[union-attr]
    assert detect.batch_timeout_s == 0.02
    assert (reader.name, seldon_of(reader.variants[0]).env) == ("reader", {"MODEL": "s"})  # type: ignore[union-attr]
    assert seldon_of(sort.variants[0]).implementation == "SKLEARN_SERVER"  # type: ignore[union-attr]
    assert seldon_of(sort.variants[0]).model_uri == "s3://models/sort/s"  # type: ignore[union-attr]
    target = seldon_of(result.pipeline)
    assert target is not None
    assert (target.name, target.namespace, target.predictor) == ("sample", "models", "main")
    stages = ("detect", "reader", "sort")
    assert result.configs == tuple(
        replace(config, stage=stage, variant="s")
        for config, stage in zip(sample_configs(), stages, strict=True)
    )


def test_every_resource_is_read_as_it_was_rendered() -> None:
    amounts = {each.attribute: at + 0.5 for at, each in enumerate(BESIDE_CORES)}
    run, pipeline = SeldonRun("registry.example/detect:s", **amounts), sample_pipeline()  # type: ignore[arg-type]
    detect, *others = pipeline.stages
    detect = replace(detect, variants=(replace(detect.variants[0], targets={"seldon": run}),))
    sdep = render(replace(pipeline, stages=(detect, *others)), sample_configs())
    limits = containers(sdep)[0]["resources"]["limits"]
    assert set(limits) == {each.resource for each in DIMENSIONS}
    result = imported(sdep, ImportRequest(SLA))
    assert seldon_of(result.pipeline.stages[0].variants[0]) == run
    assert result.configs[0].cores == sample_configs()[0].cores


@pytest.mark.parametrize("name", [name for name, (_, expected) in GRAPHS.items() if expected])
def test_every_graph_that_nests_is_read_back(name: str) -> None:
    pipeline = a_pipeline(*GRAPHS[name][0])
    sdep = render(pipeline, SELDON.smallest(pipeline))
    admit(sdep, small_schema(), strict=True)
    assert read(pipeline, sdep) == SELDON.smallest(pipeline)
    result = imported(sdep, ImportRequest(SLA))

    def shape(stage: Stage) -> tuple[str, StageKind, set[str]]:
        return stage.name, stage.kind, {edge.parent for edge in stage.after}

    assert sorted(map(shape, result.pipeline.stages)) == sorted(map(shape, pipeline.stages))
    known = set()
    for stage in result.pipeline.stages:
        assert {edge.parent for edge in stage.after} <= known
        known.add(stage.name)
    assert len(result.configs) == len(pipeline.served)
    # That one nests, and is none that could be planned.
    assert is_accepted(result.pipeline) == (name != "a combiner of a routed and another answer")


def is_accepted(pipeline: Pipeline) -> bool:
    """True if a file may have it."""
    try:
        return bool(pipeline_from_mapping(pipeline_to_mapping(pipeline)))
    except InputError:
        return False


def test_seldon_s_own_split_keeps_its_share() -> None:
    pipeline = a_pipeline(*SPLIT)
    result = imported(render(pipeline, SELDON.smallest(pipeline)), ImportRequest(SLA))
    assert result.pipeline.stages == tuple(
        replace(
            stage,
            variants=result.pipeline.stage(stage.name).variants,
            container=stage.name if stage.variants else "",
        )
        for stage in pipeline.stages
    )
    assert len(result.configs) == len(pipeline.served)


def test_another_name_than_that_of_who_claimed_it_is_not_ours_to_write() -> None:
    result = imported(sample(), ImportRequest(SLA, "mine"))
    assert result.configs == ()
    assert any("names pipeline 'sample'" in note for note in result.notes)


def test_what_is_not_read_is_said() -> None:
    sdep = sample()
    spec, (detect, *_) = sdep["spec"], containers(sdep)
    detect["env"] += [
        {"name": "AWS_SECRET_ACCESS_KEY", "value": "do not copy me"},
        {"name": "HOME_OF", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    detect["resources"]["limits"]["memory"] = "1500M"
    main = spec["predictors"][0]
    main["componentSpecs"][0]["spec"]["containers"].append({"name": "proxy", "image": "envoy:1"})
    main["explainer"] = {"type": "AnchorText"}
    main["traffic"] = 90
    main["svcOrchSpec"] = {"resources": {"requests": {"cpu": "250m"}}}
    canary, dark = {**main, "name": "canary", "traffic": 10}, {**main, "name": "dark", "shadow": True}
    spec["predictors"] += [canary, dark]
    spec["protocol"] = "seldon"
    spec["annotations"] = {}
    result = imported(sdep, ImportRequest(SLA))
    target = seldon_of(result.pipeline)
    assert target is not None
    assert (target.orchestrator_cores, target.separate_orchestrator) == (0.25, False)
    notes = "\n".join(result.notes)
    for words in (
        "predictor 'canary' (traffic 10 %) is not read",
        "predictor 'dark' (shadow) is not read",
        "env AWS_SECRET_ACCESS_KEY looks like a secret, and is not copied",
        "env HOME_OF comes from elsewhere (valueFrom)",
        "memory requests and limits differ",
        "memory '1500M' is rounded to 1431Mi",
        "container 'proxy' is no graph node",
        "explainer of the predictor is left as it is",
        "stage 'sort' is planned at batch size 1, since its server is a microservice",
        "each item of detect, reader is taken to become one",
    ):
        assert words in notes, words
    assert "do not copy me" not in str(pipeline_to_mapping(result.pipeline))


def test_another_predictor_can_be_chosen() -> None:
    sdep = sample()
    main = sdep["spec"]["predictors"][0]
    sdep["spec"]["predictors"].append({**main, "name": "canary", "traffic": 10})
    main["traffic"] = 90
    result = imported(sdep, ImportRequest(SLA, part="canary"))
    assert seldon_of(result.pipeline) is not None
    assert seldon_of(result.pipeline).predictor == "canary"
    with pytest.raises(InputError, match="there is no predictor 'nope'"):
        imported(sdep, ImportRequest(SLA, part="nope"))


@pytest.mark.parametrize(
    "name", ["no cores", "unequal cores", "hpaSpec", "shared component", "renamed container"]
)
def test_what_keeps_plans_from_being_written_is_said_by_who_would_write(name: str) -> None:
    sdep = sample()
    change, words = DRIFTS[name]
    change(sdep)
    # A stage has the name of its container here.
    words = words.replace("'read'", "'reader'")
    result = imported(sdep, ImportRequest(SLA))
    assert result.configs == ()
    assert any("blocks writing" in note and words in note for note in result.notes), result.notes
    pipeline_from_mapping(pipeline_to_mapping(result.pipeline))


def test_names_of_variants_are_those_that_people_use() -> None:
    sdep = sample()
    detect, reader, _ = containers(sdep)
    detect["image"] = "registry.example:5000/detect@sha256:0123"
    reader["env"] = [{"name": "MODEL_VARIANT", "value": "large v2"}, {"name": "OTHER", "value": "x"}]
    reader["image"] = "registry.example:5000/read:latest"
    names = [stage.variants[0].name for stage in imported(sdep, ImportRequest(SLA)).pipeline.stages]
    assert names == ["current", "current", "s"]


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({}, "the predictor has no graph"),
        ({"name": "a", "implementation": "AVERAGE_COMBINER"}, "Seldon's built-in AVERAGE_COMBINER"),
        ({"name": "a", "type": "DANCER"}, "has the unknown type DANCER"),
        (
            {"name": "a", "children": [{"name": "b"}, {"name": "c"}]},
            "no combiner: only the answer of the first",
        ),
        (
            {"name": "a", "type": "COMBINER", "children": [{"name": "b"}, {"name": "c"}]},
            "requests enter at b and c",
        ),
        (
            {
                "name": "a",
                "implementation": "RANDOM_ABTEST",
                "parameters": [{"name": "ratioA", "value": "half"}],
                "children": [{"name": "b"}, {"name": "c"}],
            },
            "ratioA 'half' is not a number",
        ),
    ],
)
def test_a_graph_that_is_none_of_ours_is_refused(graph: Json, words: str) -> None:
    sdep = sample()
    sdep["spec"]["predictors"][0]["graph"] = graph
    with pytest.raises(InputError) as refusal:
        imported(sdep, ImportRequest(SLA))
    assert words in str(refusal.value)


PLACES = [path for path in places(sample()) if path[0] == "spec"]
SCHEMA = {**small_schema(), "required": ["metadata"]}


# Most edits are none that the schema allows.
@settings(
    max_examples=many(50),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much],
)
@given(
    edits=st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["drop", {}, [], "", "x", 0, -1, "1500m"])),
        min_size=1,
        max_size=3,
    )
)
def test_an_object_that_the_schema_allows_is_read_and_imported_or_refused(
    edits: list[tuple[Any, Any]],
) -> None:
    sdep = sample()
    assume(all(edit(sdep, path, value) for path, value in edits))
    try:
        admit(sdep, SCHEMA, strict=True)
    except ApiError:
        assume(False)
    sdep["metadata"].update(resourceVersion="1", uid="u", generation=1)
    try:
        assert len(read(sample_pipeline(), sdep)) == len(sample_pipeline().stages)
        patched = json_patch(sdep, patch_to(sample_pipeline(), sdep, sample_configs()))
        assert read(sample_pipeline(), patched) == sample_configs()
    except DriftError as refusal:
        assert refusal.problems
    try:
        result = imported(sdep, ImportRequest(SLA))
        pipeline = pipeline_from_mapping(pipeline_to_mapping(result.pipeline))
    except InputError as refusal:
        assert str(refusal)
        return
    if result.configs:
        assert read(pipeline, sdep) == result.configs
