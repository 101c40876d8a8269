"""`replicas: external` of a stage: read, written, and refused where it contradicts or has no effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.bootstrap.targets import check_honoured, target_named
from ipa.files.pipelines import pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import InputError
from ipa.model.pipeline import Pipeline, ReplicaOwner
from ipa.simulate.run import SimSetup, simulate
from tests.fakes.kube.samples import sample_pipeline
from tests.fakes.world import PIPELINE, PROFILES


def external(pipeline: Pipeline) -> Pipeline:
    stages = (replace(pipeline.stages[0], replicas=ReplicaOwner.EXTERNAL), *pipeline.stages[1:])
    return replace(pipeline, stages=stages)


def test_it_is_read_and_written() -> None:
    mapping = pipeline_to_mapping(external(sample_pipeline()))
    assert [stage.get("replicas") for stage in mapping["stages"]] == ["external", None, None]
    found = pipeline_from_mapping(mapping)
    assert found.external == ("detect",) and found.stages[0].is_external
    mapping["stages"][0]["replicas"] = "planned"
    assert pipeline_from_mapping(mapping).external == ()


def test_another_word_is_refused_with_those_there_are() -> None:
    mapping = pipeline_to_mapping(external(sample_pipeline()))
    mapping["stages"][0]["replicas"] = "extern"
    with pytest.raises(InputError, match="external"):
        pipeline_from_mapping(mapping)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pin": {"replicas": 2}}, "no pin can fix their number; remove one of the two"),
    ],
)
def test_what_contradicts_it_is_refused(change: dict[str, Any], said: str) -> None:
    mapping = pipeline_to_mapping(external(sample_pipeline()))
    (mapping["stages"][0] if "pin" in change else mapping).update(change)
    with pytest.raises(InputError) as caught:
        pipeline_from_mapping(mapping)
    assert said in str(caught.value)


def test_sets_contradict_it() -> None:
    mapping = pipeline_to_mapping(external(sample_pipeline()))
    mapping["stages"], mapping["graph"], mapping["sets"] = mapping["stages"][:1], ["detect"], True
    mapping["stages"][0].pop("fan_out", None)
    with pytest.raises(InputError, match="replicas are external, and sets runs several configurations"):
        pipeline_from_mapping(mapping)


@pytest.mark.parametrize("name", ["local", "simulated"])
def test_a_target_without_autoscalers_refuses_it_with_the_remedy(name: str) -> None:
    with pytest.raises(InputError) as caught:
        check_honoured(target_named(name), [external(PIPELINE)])
    said = f"replicas: target {name} has no other controller that could decide those of detect; leave it out"
    assert said in str(caught.value)
    check_honoured(target_named(name), [PIPELINE])


def test_a_cluster_honours_it_in_both_shapes() -> None:
    from ipa.targets.seldon.section import Shape, with_seldon

    for shape in Shape:
        made = with_seldon(external(sample_pipeline()), shape=shape)
        assert [each.key for each in target_named("kubernetes").unhonoured(made)] == []


def test_a_simulation_has_no_autoscaler() -> None:
    with pytest.raises(InputError) as caught:
        simulate(SimSetup(external(PIPELINE), PROFILES, (5.0,) * 20))
    assert "the replicas of detect are external, and no autoscaler is simulated" in str(caught.value)
    assert "without `replicas: external`" in caught.value.hint
