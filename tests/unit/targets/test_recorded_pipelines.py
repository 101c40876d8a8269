"""Pipelines in records are as they were when targets were fields of them: decisions still replay."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

from ipa.control.canonical import canonical_json, digest_of
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant
from ipa.model.serving import Unbatched, batch_fault
from ipa.targets.local.section import LocalRun
from ipa.targets.seldon.section import SeldonRun, SeldonTarget, with_seldon

BARE = Pipeline("p", (Stage("s", (Variant("v"),)),), Sla(1.0), {"default": Objective()})
PLACED = replace(
    BARE,
    stages=(Stage("s", (Variant("v", {"local": LocalRun("x.Y"), "seldon": SeldonRun(image="i:1")}),)),),
    targets={"seldon": SeldonTarget("p", "models")},
)


def test_a_section_is_recorded_beside_the_other_fields() -> None:
    recorded = json.loads(canonical_json(PLACED))
    assert "targets" not in recorded and "targets" not in recorded["stages"][0]["variants"][0]
    assert recorded["seldon"] == {
        "image": None,
        "name": "p",
        "namespace": "models",
        "orchestrator_cores": 0.5,
        "predictor": "default",
        "queue_cores": 0.5,
        "separate_orchestrator": True,
        "shape": "single",
    }
    variant = recorded["stages"][0]["variants"][0]
    assert variant["local"] == {"command": [], "env": {}, "implementation": "x.Y", "parameters": {}}
    assert variant["seldon"]["image"] == "i:1"


def test_a_pipeline_without_sections_has_them_as_none() -> None:
    recorded = json.loads(canonical_json(BARE))
    assert recorded["seldon"] is None
    assert recorded["stages"][0]["variants"] == [{"local": None, "name": "v", "seldon": None}]
    # As version 0.1 recorded it.
    assert digest_of(BARE) == "894545de1e65a7ef7af66d3002fe9aa7324875456cbfc07fac667db6db070878"


def test_what_a_file_lets_a_target_ignore_changes_no_record() -> None:
    assert digest_of(with_seldon(PLACED, ignores=("drop_after",))) == digest_of(PLACED)
    assert digest_of(with_seldon(PLACED, name="q")) != digest_of(PLACED)


def test_why_a_stage_must_not_batch_is_text_that_knows_its_remedy() -> None:
    why = Unbatched("its fan_out is 2", "in one SeldonDeployment", "`seldon: {shape: split}`")
    recorded = json.loads(canonical_json(replace(BARE.stages[0], unbatched=why)))
    assert recorded["unbatched"] == "its fan_out is 2"
    for each in (why, pickle.loads(pickle.dumps(why))):
        assert batch_fault("s", 4, each).startswith(
            "stage 's': batch size 4 in one SeldonDeployment gives requests the rows of others: its fan_out "
            "is 2; use batch size 1; or `seldon: {shape: split}`; or, if"
        )
    assert batch_fault("s", 4, "plain").startswith("stage 's': batch size 4 gives requests")
