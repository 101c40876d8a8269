"""The meaning of good files, how they are written, and how folders of them are read."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from ipa.files import (
    dump_profile,
    load_pipeline,
    load_pipelines,
    load_profile,
    load_profiles,
    pipeline_from_mapping,
    pipeline_to_mapping,
)
from ipa.files.document import parse
from ipa.files.forms import KINDS, schema_text
from ipa.model.errors import InputError, NotFoundError
from ipa.model.forms import DURATION, MEMORY, RATE
from ipa.model.pipeline import AccuracyRule, Edge, Pipeline
from ipa.targets.local.section import local_of
from ipa.targets.seldon.section import seldon_of
from tools.reference import schemas

FILES = Path(__file__).parents[2] / "fixtures" / "good"
FULL, PROFILE = ((FILES / f"full-{kind}.yaml").read_text("utf-8") for kind in ("pipeline", "profile"))


def write(folder: Path, text: str = FULL, name: str = "pipeline.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def full(tmp_path: Path) -> Pipeline:
    return load_pipeline(write(tmp_path))


def test_every_key_of_a_pipeline_is_read(full: Pipeline) -> None:
    assert (full.name, full.description, full.drop_after_s) == ("shop", "finds: goods", 90)
    assert (full.sla.latency_s, full.sla.percentile) == (0.9, 95)
    assert [stage.name for stage in full.stages] == ["classify", "detect"], "in the order of the graph"
    bounds = full.bounds
    assert (bounds.cores, bounds.min_replicas, bounds.max_replicas) == (2.5, 1, 8)
    assert (bounds.batch_sizes, bounds.accuracy_floor) == ((1, 2, 4), 0.2)
    objective = full.objective()
    assert (objective.name, objective.alpha, objective.beta, objective.delta) == ("cheap", 10, 0.5, 1e-6)
    assert (objective.accuracy_rule, objective.rank_floor) == (AccuracyRule.RANK_PRODUCT, 0.05)
    assert (objective.latency_margin_ratio, objective.throughput_margin_ratio) == (1, -0.3)
    assert (objective.threshold_rps, objective.sla_s) == (4, 4.598)
    assert (objective.max_batch_size, objective.max_replicas) == (8, 100)
    assert seldon_of(full) is not None
    assert (seldon_of(full).name, seldon_of(full).namespace, seldon_of(full).predictor) == (
        "shop",
        "prod",
        "main",
    )
    detect = full.stage("detect")
    assert (detect.container, detect.after, detect.batch_timeout_s) == ("det", (Edge("classify", 0.5),), 0)


def test_what_is_absent_has_its_default(full: Pipeline) -> None:
    classify = full.stage("classify")
    assert (classify.container, classify.after, classify.batch_timeout_s) == ("classify", (), 0.1)
    assert (seldon_of(classify.variants[0]), local_of(classify.variants[0])) == (None, None)


def test_yaml_does_not_surprise(full: Pipeline) -> None:
    variant = full.stage("detect").variant("no")
    assert seldon_of(variant) is not None
    assert local_of(variant) is not None
    assert dict(seldon_of(variant).env) == {"A": "0.50", "B": "no"}, "as written"
    assert dict(local_of(variant).parameters) == {"size": "320", "fast": "true"}
    assert dict(local_of(variant).env) == {"C": "1e3"}
    assert seldon_of(variant).memory_gib == 0.5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("1e3", 1000.0),
        ("0o7", "0o7"),
        ("012", "012"),
        ("1:30", "1:30"),
        ("2026-11-24", "2026-11-24"),
        (".5", 0.5),
        ("-1.", -1.0),
        (".inf", ".inf"),
        ("1e400", "1e400"),
        (".nan", ".nan"),
        ("1_000", "1_000"),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("true", True),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_yaml_1_2_in_decimal(text: str, value: Any) -> None:
    read = parse(f"a: {text}", "x").data["a"]
    assert read == value
    assert type(read) is type(value)


def test_a_pipeline_survives_writing(full: Pipeline) -> None:
    assert pipeline_from_mapping(pipeline_to_mapping(full)) == full
    assert pipeline_from_mapping(json.loads(json.dumps(pipeline_to_mapping(full)))) == full


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_mapping_has_no_infinite_numbers(full: Pipeline, value: float) -> None:
    data = pipeline_to_mapping(full)
    data["objectives"]["cheap"]["alpha"] = value
    with pytest.raises(InputError, match="expected a number"):
        pipeline_from_mapping(data)


def test_whole_numbers_may_be_written_as_floats(full: Pipeline) -> None:
    data = pipeline_to_mapping(full)
    data["bounds"] |= {"min_replicas": 1.0, "max_replicas": 8.0, "batch_sizes": [1.0, 2.0, 4.0]}
    data["objectives"]["cheap"]["max_batch_size"] = 8.0
    read = pipeline_from_mapping(data)
    assert read == full
    assert type(read.bounds.max_replicas) is int


def test_a_profile_survives_writing(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, PROFILE))
    assert profile.measured_on == date(2026, 11, 24)
    assert (profile.variants[0].variant, profile.variants[0].readiness_s) == ("1e3", 3)
    assert profile.variants[0].points[1].latency_s == 0.2271
    assert load_profile(write(tmp_path, dump_profile(profile))) == profile
    assert dump_profile(profile) == PROFILE


@pytest.mark.parametrize(
    ("convert", "given", "converted"),
    [
        (DURATION.parse, "500ms", 0.5),
        (DURATION.parse, "2 s", 2),
        (DURATION.parse, "1.5min", 90),
        (DURATION.parse, "1e-3s", 0.001),
        (DURATION.write, 0.0, "0s"),
        (DURATION.write, 0.25, "250ms"),
        (RATE.parse, "20rps", 20),
        (MEMORY.parse, "512MiB", 0.5),
    ],
)
def test_quantities(convert: Any, given: object, converted: object) -> None:
    assert convert(given) == converted


@pytest.mark.parametrize(
    "text", ["500", "-5ms", "ms", "5MS", "5h", "5ms\n", "٥ms", "1e999s", "0x5s", "5rps", ""]
)
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number with one of the units ms, s, min"):
        DURATION.parse(text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schemas_are_valid(kind: str) -> None:
    schema = json.loads(schema_text(kind))
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schemas_are_those_of_the_code(kind: str) -> None:
    assert schema_text(kind) == schemas()[kind], "run `make reference`"


def test_a_folder_of_pipelines(tmp_path: Path) -> None:
    write(tmp_path / "shop")
    (tmp_path / "notes").mkdir()
    assert list(load_pipelines(tmp_path)) == ["shop"]


def test_problems_of_all_files_in_a_folder_come_together(tmp_path: Path) -> None:
    write(tmp_path / "shop", FULL.replace("900ms", "900"))
    write(tmp_path / "other")
    with pytest.raises(InputError) as caught:
        load_pipelines(tmp_path)
    messages = [str(problem) for problem in caught.value.problems]
    assert len(messages) == 2
    assert "pipeline 'shop' lies in folder 'other'" in messages[0]
    assert "shop/pipeline.yaml:5:16: latency is 900, which has no unit" in messages[1]


def test_a_folder_of_profiles(tmp_path: Path) -> None:
    write(tmp_path / "shop", PROFILE, "detect.yaml")
    assert list(load_profiles(tmp_path, "shop")) == ["detect"]
    write(tmp_path / "shop", PROFILE, "classify.yaml")
    with pytest.raises(InputError, match=r"classify.yaml: this is the profile of shop/detect.yaml"):
        load_profiles(tmp_path, "shop")


def test_folders_that_are_absent(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="pipelines_dir"):
        load_pipelines(tmp_path / "absent")
    with pytest.raises(NotFoundError, match="no profiles of 'shop'"):
        load_profiles(tmp_path, "shop")


@pytest.mark.parametrize("name", ["..", "../shop", "a/b", "", "shop\n", "/etc"])
def test_a_name_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="not the name of a pipeline"):
        load_profiles(tmp_path / "inner", name)


def keys_of(schema: Any) -> set[str]:
    """All keys that the schema allows, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(keys_of, schema))
    if not isinstance(schema, dict):
        return set()
    own = set(schema.get("properties", {}))
    return own.union(*map(keys_of, schema.values()))


def test_the_examples_of_the_reference_are_good(root: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "reference" / "files.md").read_text("utf-8")
    pipeline, profile = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert load_pipeline(write(tmp_path, pipeline)).name == "shop"
    assert load_profile(write(tmp_path, profile)).stage == "detect"
    for kind, example in (("pipeline", pipeline), ("profile", profile)):
        missing = {key for key in keys_of(json.loads(schema_text(kind))) if f"{key}:" not in example}
        assert missing == set(), "keys without an example"
