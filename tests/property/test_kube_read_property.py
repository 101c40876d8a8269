"""Whatever the API server can hold, reading it gives configurations or says what is wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipa.adapters.kube.manifest import read, render
from ipa.adapters.kube.patch import build_patch
from ipa.model.errors import DriftError
from tests.fakes.kube.patching import json_patch
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.schema import admit, small_schema
from tests.fakes.kube.store import ApiError

PIPELINE = sample_pipeline()
SCHEMA = {**small_schema(), "required": ["metadata"]}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in the value."""
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        found.extend(places(one, (*path, key)))
    return found


def edit(sdep: Any, path: tuple[Any, ...], value: Any) -> bool:
    """Whether it could be put there (or dropped); an earlier edit may have taken its place away."""
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


PLACES = [path for path in places(render(PIPELINE, sample_configs())) if path[0] == "spec"]


@settings(max_examples=150, deadline=None, derandomize=True)
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
    sdep["metadata"]["resourceVersion"] = "1"
    try:
        configs = read(PIPELINE, sdep)
    except DriftError as refusal:
        assert refusal.problems
        return
    wanted = sample_configs()
    patched = json_patch(sdep, build_patch(PIPELINE, sdep, wanted))
    assert read(PIPELINE, patched) == wanted
    assert len(configs) == len(PIPELINE.stages)
