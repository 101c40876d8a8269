"""Whatever the API server can hold, reading it gives configurations or says what is wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipa.model.errors import DriftError
from ipa.targets.seldon.manifest import read, render
from tests.amounts import many
from tests.fakes.kube.edits import edit, places
from tests.fakes.kube.patching import json_patch, patch_to
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.schema import admit, small_schema
from tests.fakes.kube.store import ApiError

PIPELINE = sample_pipeline()
SCHEMA = {**small_schema(), "required": ["metadata"]}


PLACES = [path for path in places(render(PIPELINE, sample_configs())) if path[0] == "spec"]


@settings(max_examples=many(50), deadline=None, derandomize=True)
@given(
    edits=st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["drop", {}, [], "", "x", 0, -1, "1500m"])),
        min_size=1,
        max_size=3,
    )
)
def test_an_object_that_the_schema_allows_is_read_or_refused(edits: list[tuple[Any, Any]]) -> None:
    sdep = render(PIPELINE, sample_configs())
    assume(all(edit(sdep, path, value) for path, value in edits))
    try:
        admit(sdep, SCHEMA, strict=True)
    except ApiError:
        assume(False)
    sdep["metadata"].update(resourceVersion="1", uid="u", generation=1)
    try:
        configs = read(PIPELINE, sdep)
    except DriftError as refusal:
        assert refusal.problems
        return
    wanted = sample_configs()
    patched = json_patch(sdep, patch_to(PIPELINE, sdep, wanted))
    assert read(PIPELINE, patched) == wanted
    assert len(configs) == len(PIPELINE.stages)
