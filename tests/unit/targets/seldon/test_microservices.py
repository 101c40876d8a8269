"""Stages whose server is a microservice: read, written, planned at batch size 1, and asked for no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.control.engine.guards import bound_faults
from ipa.files import dump_pipeline, load_pipeline, pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import DriftError, InputError
from ipa.model.pipeline import Pipeline, Sla, StageKind, Variant
from ipa.model.plan import StageConfig
from ipa.targets.base import ImportRequest
from ipa.targets.kubernetes.containers import BATCH_SIZE
from ipa.targets.seldon.imported import imported
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import (
    SeldonRun,
    SeldonTarget,
    ServerKind,
    Shape,
    WireProtocol,
    seldon_of,
    with_seldon,
)
from ipa.targets.seldon.target import SELDON
from ipa.targets.seldon.variants import NO_BATCHES, WITH_MLSERVER, at_cluster
from tests.fakes.kube.patching import patch_to
from tests.fakes.kube.samples import sample_configs, sample_pipeline

SLA = Sla(1.0)
NAMES = ("scored", "routed")


def deployed(root: Path, name: str) -> dict[str, Any]:
    text = (root / "tests" / "fixtures" / "microservices" / f"{name}.yaml").read_text()
    sdep: dict[str, Any] = yaml.safe_load(text)
    return sdep


def container(sdep: dict[str, Any], name: str) -> dict[str, Any]:
    specs = [one["spec"]["containers"][0] for one in sdep["spec"]["predictors"][0]["componentSpecs"]]
    return next(one for one in specs if one["name"] == name)


def wrapped(pipeline: Pipeline) -> Pipeline:
    """The pipeline in Seldon's own protocol, in which every server is a microservice."""
    return with_seldon(pipeline, protocol=WireProtocol.SELDON)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_imported_is_as_the_golden_file_and_reads_back_as_it_renders(name: str, root: Path) -> None:
    golden = root / "tests" / "fixtures" / "microservices" / f"{name}.pipeline.yaml"
    result = imported(deployed(root, name), ImportRequest(SLA))
    assert dump_pipeline(result.pipeline) == golden.read_text()
    assert load_pipeline(golden) == result.pipeline
    (rendered,) = SELDON.render(result.pipeline, result.configs)
    assert read(result.pipeline, rendered) == result.configs == read(result.pipeline, deployed(root, name))
    assert (
        rendered["spec"]["predictors"][0]["graph"] == deployed(root, name)["spec"]["predictors"][0]["graph"]
    )


def test_a_protocol_that_is_not_given_is_seldon_s(root: Path) -> None:
    result = imported(deployed(root, "scored"), ImportRequest(SLA))
    target = seldon_of(result.pipeline)
    assert target is not None and target.protocol is WireProtocol.SELDON
    assert {stage.name: stage.kind for stage in result.pipeline.stages} == {
        "scale": StageKind.TRANSFORMER,
        "trees": StageKind.MODEL,
        "rules": StageKind.MODEL,
        "vote": StageKind.COMBINER,
    }
    notes = "\n".join(result.notes)
    assert "it names no protocol, so the operator takes its default, seldon" in notes
    assert "stage 'vote' is planned at batch size 1, since its server is a microservice" in notes
    assert "batches will wait" not in notes
    assert "stage 'rules' is planned" in notes and f"its env {BATCH_SIZE} has no effect" in notes
    # Whatever that env says, each request is answered by itself.
    assert [config.batch_size for config in result.configs] == [1, 1, 1, 1]
    assert {variant.name for stage in result.pipeline.stages for variant in stage.variants} == {
        *("Scale", "Trees", "3", "1")
    }


def test_of_v2_routers_and_wrapped_classes_are_microservices(root: Path) -> None:
    result = imported(deployed(root, "routed"), ImportRequest(SLA))
    servers = {
        stage.name: run.server for stage in result.pipeline.served if (run := seldon_of(stage.variants[0]))
    }
    assert servers == {
        "choose": ServerKind.MICROSERVICE,
        "quick": None,
        "exact": ServerKind.MICROSERVICE,
    }
    unbatched = {stage.name: bool(stage.unbatched) for stage in at_cluster(result.pipeline).stages}
    assert unbatched == {"choose": True, "quick": False, "exact": True}
    assert {config.stage: config.batch_size for config in result.configs}["quick"] == 4


def test_rendered_containers_of_microservices_have_no_env_of_batches(root: Path) -> None:
    result = imported(deployed(root, "routed"), ImportRequest(SLA))
    (sdep,) = SELDON.render(result.pipeline, result.configs)
    batched = {
        name
        for name in ("choose", "quick", "exact")
        if any(entry["name"] == BATCH_SIZE for entry in container(sdep, name)["env"])
    }
    assert batched == {"quick"}
    assert (
        render(wrapped(sample_pipeline()), SELDON.smallest(sample_pipeline()))["spec"]["protocol"] == "seldon"
    )


def test_a_larger_batch_is_refused_with_the_reason_and_the_remedy() -> None:
    pipeline = wrapped(sample_pipeline())
    with pytest.raises(InputError) as refusal:
        render(pipeline, sample_configs())
    assert [problem.message for problem in refusal.value.problems] == [
        f"stage 'sort': batch size 4 has no effect: {NO_BATCHES}; use batch size 1; or {WITH_MLSERVER}"
    ]
    shaped = at_cluster(pipeline)
    assert "batch size 4 has no effect" in "\n".join(bound_faults(shaped, sample_configs()))


def test_a_pin_of_a_larger_batch_is_refused_in_the_file() -> None:
    mapping = pipeline_to_mapping(wrapped(sample_pipeline()))
    mapping["stages"][2]["pin"] = {"batch_size": 4}
    with pytest.raises(InputError) as refusal:
        pipeline_from_mapping(mapping)
    assert "stage 'sort': batch size 4 has no effect" in str(refusal.value)


def test_mlserver_in_seldon_s_own_protocol_is_refused() -> None:
    mapping = pipeline_to_mapping(wrapped(sample_pipeline()))
    mapping["stages"][0]["variants"][1]["seldon"]["server"] = "mlserver"
    with pytest.raises(InputError) as refusal:
        pipeline_from_mapping(mapping)
    (problem,) = refusal.value.problems
    assert problem.pointer == "/stages/0/variants/1/seldon/server"
    assert "MLServer does not speak protocol seldon" in problem.message


def test_shape_split_refuses_microservices() -> None:
    split = with_seldon(sample_pipeline(), shape=Shape.SPLIT, image="ipa:1")
    assert not SELDON.unhonoured(split)
    (fault,) = SELDON.unhonoured(wrapped(split))
    assert fault.key == "seldon.protocol" and "use shape single" in fault.remedy
    first, *others = split.stages
    own = Variant("d-s", {"seldon": SeldonRun("registry.example/detect:s", server=ServerKind.MICROSERVICE)})
    stages = (replace(first, variants=(own, *first.variants[1:])), *others)
    (fault,) = SELDON.unhonoured(replace(split, stages=stages))
    assert fault.key == "seldon.server of detect"


def test_another_protocol_than_the_file_s_is_drift() -> None:
    pipeline = sample_pipeline()
    configs = SELDON.smallest(pipeline)
    sdep = render(pipeline, configs)
    for same in ("v2", "kfserving"):
        sdep["spec"]["protocol"] = same
        assert read(pipeline, sdep) == configs
    # TensorFlow's has no word in the file, and is left alone.
    sdep["spec"]["protocol"] = "tensorflow"
    assert read(pipeline, sdep) == configs
    for other in ("seldon", ""):
        sdep["spec"]["protocol"] = other
        with pytest.raises(DriftError) as drift:
            read(pipeline, sdep)
        assert "its protocol is seldon, not v2" in str(drift.value)


def test_configs_written_to_a_microservice_leave_its_env_alone(root: Path) -> None:

    result = imported(deployed(root, "scored"), ImportRequest(SLA))
    live = deployed(root, "scored")
    live["metadata"] |= {"uid": "u", "generation": 3}
    wanted = [replace(config, replicas=config.replicas + 1) for config in result.configs]
    patch = patch_to(result.pipeline, live, wanted)
    changed = {operation["path"].rpartition("/")[2] for operation in patch if operation["op"] != "test"}
    assert changed == {"replicas"}
    assert seldon_of(result.pipeline) == SeldonTarget("scored", "models", protocol=WireProtocol.SELDON)
    with pytest.raises(InputError, match="no effect"):
        patch_to(result.pipeline, live, [replace(wanted[0], batch_size=2), *wanted[1:]])


def test_a_mixed_stage_has_batch_size_1() -> None:
    pipeline = sample_pipeline()
    first, *others = pipeline.stages
    one = Variant("d-s", {"seldon": SeldonRun("registry.example/detect:s", server=ServerKind.MICROSERVICE)})
    mixed = replace(pipeline, stages=(replace(first, variants=(one, first.variants[1])), *others))
    assert at_cluster(mixed).stages[0].unbatched
    configs = (StageConfig("detect", "d-l", 2, 1.0, 1), *sample_configs()[1:])
    with pytest.raises(InputError, match="no effect"):
        render(mixed, configs)
