"""Whatever is done to a good file, it is either good or an InputError that says where."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.files import dump_profile, load_pipeline, load_profile
from ipa.files.document import parse
from ipa.model.errors import InputError
from ipa.model.forms import DURATION, MEMORY, RATE
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from tests.amounts import many

# No time limit on a busy machine, and the same examples on every one.
STEADY = settings(deadline=None, derandomize=True, max_examples=many(50))

FILES = Path(__file__).parents[1] / "fixtures" / "good"
# `graph` has the long form of a graph, and what goes with it.
READERS = {"pipeline": load_pipeline, "graph": load_pipeline, "profile": load_profile}
GOOD = {
    kind: (parse((FILES / f"{kind}.yaml").read_text(), kind).data, read) for kind, read in READERS.items()
}
REPLACEMENTS: list[Any] = [None, [], {}, -1, 0, 10**20, True, "", "../x", "5ms", "5rps", [[]], {"a": {}}, 0.5]

# Files are written by the thousand here.
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield (*at, key)
        yield from places(child, (*at, key))


# Keys that the writer chose, and where else in the file a change of a part may show.
USER_KEYS: set[tuple[str | int, ...]] = {("objectives", "cheap"), ("objectives", "default")}
USER_KEYS |= {("graph", name) for name in GOOD["graph"][0]["graph"]}
NAMING = ("after", "shares", "fan_out")
ECHOES = {
    "stages": ("/graph", "/stages"),
    "graph": ("/graph", "/stages"),
    "objectives": ("/default_objective",),
    "default_objective": ("/objectives",),
    "bounds": ("/bounds/max_replicas", "/bounds/transition_cores", "/objectives", "/stages"),
}
ALL_PLACES = [(kind, place) for kind, (data, _) in GOOD.items() for place in places(data)]

SCHEMA_KEYS = [
    (kind, place)
    for kind, place in ALL_PLACES
    if isinstance(place[-1], str) and place not in USER_KEYS and not {*place[:-1]}.intersection(NAMING)
]


def parent_of(data: Any, place: Place) -> Any:
    for key in place[:-1]:
        data = data[key]
    return data


def problems_of(kind: str, data: Any, folder: Path) -> tuple[Any, ...]:
    path = folder / f"{kind}.yaml"
    text = yaml.dump(data, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    try:
        GOOD[kind][1](path)
    except InputError as error:
        assert error.problems, "an InputError of a file always lists what is wrong"
        return error.problems
    return ()


@pytest.mark.parametrize("kind", GOOD)
def test_the_files_that_are_altered_below_are_good(kind: str, tmp_path: Path) -> None:
    assert problems_of(kind, GOOD[kind][0], tmp_path) == ()


@STEADY
@given(st.text(max_size=200))
def test_any_text_is_good_or_an_input_error(text: str) -> None:
    try:
        document = parse(text, "x")
    except InputError as error:
        assert error.problems
    else:
        assert document.data is not None or document.texts or text.strip()


@STEADY
@given(st.binary(max_size=200))
def test_any_bytes_are_an_input_error(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_bytes(raw)
        with pytest.raises(InputError):
            load_pipeline(path)


AMOUNTS = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)


@STEADY
@given(AMOUNTS)
def test_quantities_read_back_to_the_last_bit(value: float) -> None:
    assert DURATION.parse(DURATION.write(value)) == value
    assert RATE.parse(RATE.write(value)) == value
    assert MEMORY.parse(MEMORY.write(value)) == value


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20)
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?", fullmatch=True)
POINTS = st.builds(
    ProfilePoint,
    cores=st.floats(min_value=0.01, max_value=64),
    batch_size=st.integers(1, 4096),
    latency_s=AMOUNTS,
    latency_mean_s=st.none() | AMOUNTS,
    throughput_rps=st.none() | AMOUNTS,
)
VARIANTS = st.builds(
    VariantProfile,
    variant=NAMES,
    accuracy=st.floats(min_value=1e-6, max_value=1),
    points=st.lists(POINTS, min_size=1, max_size=4, unique_by=lambda p: (p.cores, p.batch_size)).map(tuple),
    readiness_s=st.none() | AMOUNTS,
    memory_gib=st.none() | AMOUNTS,
)
PROFILES = st.builds(
    StageProfile,
    pipeline=st.just("shop"),
    stage=st.sampled_from(["detect", "no", "1", "1e3", "0o7"]),
    variants=st.lists(VARIANTS, min_size=1, max_size=3, unique_by=lambda v: v.variant).map(tuple),
    hardware=WORDS,
    measured_on=st.dates(date(1000, 1, 1)),
    method=WORDS,
    source=st.just("") | WORDS,
    load_rps=st.none() | AMOUNTS,
)


@STEADY
@given(PROFILES)
def test_a_profile_reads_back_to_the_last_bit(profile: StageProfile) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detect.yaml"
        path.write_text(dump_profile(profile), encoding="utf-8")
        assert load_profile(path) == profile
