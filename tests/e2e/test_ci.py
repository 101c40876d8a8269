"""`ipa ci` in a real git repository."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.fakes import reviewed
from tests.fakes.commands import Ipa
from tests.fakes.reviewed import BREAKING, COSTLY, PIPELINE, TRACE_S, edit, git

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt-get install git"),
    # Their simulations are remembered.
    pytest.mark.xdist_group("reviews"),
]


repository = pytest.fixture(reviewed.entered)


@pytest.fixture
def ci(repository: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa) -> Ipa:
    reviewed.remember(monkeypatch)
    return partial(ipa, "ci", "--base", "main", "--seeds", "1")


LOAD = ("--trace", "traces/video.txt")
SHORT = ("--trace", "traces/short.txt")


@pytest.fixture
def short(repository: Path) -> Path:
    """A trace of half a minute, for what does not look at the figures."""
    file = repository / "traces" / "short.txt"
    file.write_text("4\n" * 30)
    return file


def test_nothing_changed_is_said(ci: Ipa, repository: Path) -> None:
    assert ci(*LOAD) == ("No pipeline has changed.\n", "")


def test_a_costly_change_is_told_the_same_way_every_time(ci: Ipa, repository: Path) -> None:
    edit(repository / PIPELINE, COSTLY)
    out, err = ci(*LOAD, "-o", "md")
    assert f"simulating {TRACE_S} s" in err
    assert "| video | changed |" in " ".join(out.split()) and " → " in out
    # Committed or not, and whatever time it is, the same inputs make the same bytes.
    git(repository, "commit", "--quiet", "-am", "accuracy is worth more")
    reviewed.RUNS.clear()
    assert ci(*LOAD, "-o", "md").out == out


def test_a_broken_rule_is_named_with_what_was_measured(ci: Ipa, repository: Path) -> None:
    edit(repository / PIPELINE, BREAKING)
    rules = ("--fail-if", "pas_mean_increase<-0.02", "--fail-if", "cores_mean > 40")
    out = ci(*LOAD, *rules, code=3).out
    assert "❌ pas_mean_increase is -0." in out and "(fails if pas_mean_increase < -0.02)" in out
    assert "fails if cores_mean" not in out


def test_an_accuracy_without_a_new_measurement_fails_the_change(
    ci: Ipa, repository: Path, short: Path
) -> None:
    profile = repository / "profiles/video/crop.yaml"
    edit(profile, ("    accuracy: 0.457\n", "    accuracy: 0.99\n"))
    edit(profile, ("{cores: 1, batch: 1, latency: 88.1ms,", "{cores: 1, batch: 1, latency: 88.2ms,"))
    finding = (
        "crop/yolov5n: accuracy 0.457 → 0.99, 1 of 20 points without a new measurement, since 2024-01-01"
    )
    assert f"video: ❌ {finding}" in ci(*SHORT, code=3).out
    # The measurement that the figures are from is named: they are taken.
    edit(profile, ("measured_on: 2024-01-01", "measured_on: 2026-11-20"))
    assert "measurement" not in ci(*SHORT).out
    edit(profile, ("measured_on: 2026-11-20", "measured_on: 2023-11-20"))
    assert "by an older measurement, of 2023-11-20 instead of 2024-01-01" in ci(*SHORT, code=3).out


def test_the_json_has_both_sides_and_the_exit_code(ci: Ipa, repository: Path, short: Path) -> None:
    edit(repository / PIPELINE, COSTLY)
    review = json.loads(ci(*SHORT, "-o", "json").out)
    assert review["exit_code"] == 0
    [video] = review["pipelines"]
    assert video["before"]["requests"] == video["after"]["requests"] > 0
    assert (video["path"], video["status"]) == (PIPELINE, "changed")
    assert review["commit"] == git(repository, "rev-parse", "main").strip()


def test_a_load_that_nothing_carries_fails_the_change(ci: Ipa, repository: Path, short: Path) -> None:
    edit(repository / PIPELINE, ("latency: 1s", "latency: 50ms"))
    assert "❌ no plan carries the 4 rps" in ci(*SHORT, code=3).out


def test_every_problem_of_every_changed_file_is_told_at_its_line(ci: Ipa, repository: Path) -> None:
    edit(repository / PIPELINE, ("graph: [crop, classification]", "grap: [crop, classification]"))
    edit(repository / "profiles/video/crop.yaml", ("stage: crop", "stage: crap"))
    out, err = ci(*LOAD, code=65)
    for words in (
        f"{PIPELINE}:10:1: unknown key 'grap'; did you mean 'graph'?",
        "profiles/video/crop.yaml:1:1: this file belongs at profiles/video/crap.yaml",
    ):
        assert words in err, err
    assert "simulating" not in err and out == "" and str(repository) not in err


def test_a_change_that_mends_a_broken_file_can_pass(ci: Ipa, repository: Path, short: Path) -> None:
    good = (repository / PIPELINE).read_text()
    git(repository, "checkout", "--quiet", "main")
    edit(repository / PIPELINE, ("sla: {", "slo: {"))
    git(repository, "commit", "--quiet", "-am", "broken")
    git(repository, "checkout", "--quiet", "-B", "change")
    (repository / PIPELINE).write_text(good)
    out = ci(*SHORT).out
    assert "at the base its files could not be used" in out and PIPELINE in out


def test_pipelines_that_come_and_go_are_told(ci: Ipa, repository: Path, short: Path) -> None:
    for kind in ("pipelines", "profiles"):
        shutil.move(repository / kind / "video", repository / kind / "film")
    edit(repository / "pipelines/film/pipeline.yaml", ("\nname: video", "\nname: film"))
    for file in (repository / "profiles/film").iterdir():
        edit(file, ("pipeline: video", "pipeline: film"))
    rows = " ".join(ci(*SHORT, "-o", "md").out.split())
    assert "| film | added |" in rows and "| video | removed |" in rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--base", "nope"), "--base 'nope' is not a commit of this repository"),
        (("--trace", "a", "--workload", "bursty"), "cannot both be given"),
        (("--pipelines-dir", "/"), "is not below"),
        (("--fail-if", "cores > much"), "--fail-if 'cores > much' is not a rule"),
    ],
)
def test_usage(ci: Ipa, words: tuple[str, ...], message: str) -> None:
    assert message in ci(*words, code=64).err


def test_names_and_traces_that_there_are_not(ci: Ipa, repository: Path, short: Path) -> None:
    edit(repository / PIPELINE, COSTLY)
    assert "no file 'traces/other.txt'" in ci("--trace", "traces/other.txt", code=1).err
    err = ci(*SHORT, "--fail-if", "core_mean > 4", code=64).err
    assert "there is no figure 'core_mean'; did you mean 'cores_mean'?" in err
    assert "there is no policy 'our'" in ci(*SHORT, "--policy", "our", code=64).err


def test_outside_of_a_work_tree(ci: Ipa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is not in a git work tree" in ci(code=64).err


def test_what_came_to_the_base_meanwhile_is_not_the_change(ci: Ipa, repository: Path) -> None:
    git(repository, "checkout", "--quiet", "main")
    edit(repository / PIPELINE, COSTLY)
    git(repository, "commit", "--quiet", "-am", "theirs")
    git(repository, "checkout", "--quiet", "change")
    out, err = ci(*LOAD)
    assert "simulating" not in err and "No pipeline has changed" in out
