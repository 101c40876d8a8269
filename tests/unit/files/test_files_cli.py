"""`ipa validate` and `ipa schema`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipa.cli.main import run
from tests.fakes.commands import Ipa

PIPELINE = """\
apiVersion: ipa/v1
kind: Pipeline
name: shop
sla: {latency: 1s}
graph: [detect]
objectives: {default: {}}
stages:
  - name: detect
    variants: [{name: small}, {name: large}]
"""
PROFILE = """\
apiVersion: ipa/v1
kind: Profile
pipeline: shop
stage: detect
hardware: a machine
measured_on: 2026-11-24
method: by hand
load: 20rps
variants:
  - variant: small
    accuracy: 0.5
    points:
      - {cores: 1, batch: 1, latency: 50ms, latency_mean: 60ms, throughput: 20rps}
      - {cores: 1, batch: 2, latency: 10ms, throughput: 19.5rps}
      - {cores: 1, batch: 4, latency: 40ms, throughput: 12rps}
  - variant: large
    accuracy: 0.9
    points: [{cores: 1, batch: 1, latency: 50ms}]
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders with one pipeline and its profile; the working folder."""
    for name, text in (("pipelines/shop/pipeline.yaml", PIPELINE), ("profiles/shop/detect.yaml", PROFILE)):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("IPA_PIPELINES_DIR", "IPA_PROFILES_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_good_files_get_a_line_each_and_their_warnings(house: Path, ipa: Ipa) -> None:
    out, err = ipa("validate")
    assert out.splitlines() == [
        "OK pipelines/shop/pipeline.yaml: 1 stage, 2 variants, SLA 1 s at p99, objectives default",
        "WARNING profiles/shop/detect.yaml: 2 variants, 4 points, "
        "2 fits, 1 of them flat, R² -1.47 of the other, error up to 88%, 350% left out",
    ]
    where = "warning: profiles/shop/detect.yaml:"
    assert err.splitlines() == [
        f"{where} it is not credible: poor latency fits: 1 of 2, mean R² -1.47, error up to 88%",
        "  → measure it on a quiet machine: ipa profile shop -s detect --write; `ipa fit shop` shows where",
        f"{where} latency falls as the batch grows: the larger batch may never have filled (1 of 2 variants)",
        f"{where} poor fit of latency (1 of 2 variants)",
        f"{where} mean latency above the p99: too few batches were measured (1 of 2 variants)",
        f"{where} throughput is censored at the offered load of 20 rps (1 of 2 variants)",
    ]


def test_a_planned_only_pipeline_says_why(house: Path, ipa: Ipa) -> None:
    path = house / "pipelines/shop/pipeline.yaml"
    edit(path, "sla:", "runnable: false\nsla:")
    assert "4:11: runnable is false; add not_runnable_because" in ipa("validate", "pipelines", code=65).err
    edit(path, "runnable: false", "runnable: false\nnot_runnable_because: its weights are missing")
    err = ipa("validate", "pipelines").err
    assert f"note: {path.relative_to(house)}: planned only: its weights are missing" in err
    edit(path, "runnable: false\n", "")
    assert "4:1: not_runnable_because has no meaning without" in ipa("validate", "pipelines", code=65).err


def test_the_remedy_of_a_planned_only_pipeline_can_be_carried_out(house: Path, ipa: Ipa) -> None:
    words = "runnable: false\nnot_runnable_because: its weights are missing\nsla:"
    edit(house / "pipelines/shop/pipeline.yaml", "sla:", words)
    for paths in ([], ["profiles"]):
        err = ipa("validate", *paths).err
        assert (
            "  → its pipeline is only planned, so it cannot be measured here; where its models run, with a "
            "bench.py of their requests: ipa profile shop -s detect --at URL --write; "
            "`ipa fit shop` shows where\n"
        ) in err
    out = ipa("fit", "shop").out
    assert out.count("ipa profile shop") == out.count("ipa profile shop --at URL --write") > 0
    err = ipa("profile", "shop", "--write", code=64).err
    assert err.splitlines() == [
        "error: shop is only planned, so it cannot be measured here: its weights are missing",
        "  Measure it where its models run: `ipa profile shop --at URL --write`",
    ]


def test_a_variant_without_a_profile_is_a_problem_at_its_line(house: Path, ipa: Ipa) -> None:
    edit(house / "profiles/shop/detect.yaml", "variant: large", "variant: huge")
    err = ipa("validate", "pipelines/shop/pipeline.yaml", code=65).err
    assert (
        "pipelines/shop/pipeline.yaml:9:38: variant 'large' is not in the profile profiles/shop/detect.yaml"
        in err
    )


def test_a_stage_without_a_profile_is_a_problem(house: Path, ipa: Ipa) -> None:
    (house / "profiles/shop/detect.yaml").unlink()
    err = ipa("validate", code=65).err
    expected = (
        "pipelines/shop/pipeline.yaml:8:11: stage 'detect' has no profile; expected profiles/shop/detect.yaml"
    )
    assert expected in err


def test_a_broken_profile_shows_once(house: Path, ipa: Ipa) -> None:
    edit(house / "profiles/shop/detect.yaml", "accuracy: 0.9", "accuracy: 9")
    for arguments in ([], ["pipelines"], ["."]):
        err = ipa("validate", *arguments, code=65).err
        assert err.count("profiles/shop/detect.yaml:17:15: accuracy is 9") == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [("pipelines/shop/pipeline.yaml", "name: shop"), ("profiles/shop/detect.yaml", "stage: detect")],
)
def test_a_file_in_the_wrong_place_is_a_problem(house: Path, path: str, line: str, ipa: Ipa) -> None:
    edit(house / path, line, line.partition(":")[0] + ": other")
    assert f"{path}:1:1: this file belongs at" in ipa("validate", code=65).err


def test_other_yaml_in_a_folder_is_left_alone(house: Path, ipa: Ipa) -> None:
    (house / "pipelines/shop/seldondeployment.yaml").write_text("apiVersion: v1\nkind: List\n", "utf-8")
    assert len(ipa("validate", ".").out.splitlines()) == 2


def test_nothing_to_check_is_an_error(house: Path, ipa: Ipa) -> None:
    (house / "empty").mkdir()
    ipa("validate", "empty", code=65)
    assert "absent.yaml does not exist" in ipa("validate", "absent.yaml", code=65).err


@pytest.mark.parametrize("kind", ["pipeline", "profile"])
def test_the_schema_is_printed(kind: str, ipa: Ipa) -> None:
    assert json.loads(ipa("schema", kind).out)["title"] == kind.capitalize()


def test_an_unknown_kind_of_schema_is_a_usage_error() -> None:
    assert run(["schema", "policy"]) == 64
