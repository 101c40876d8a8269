"""`ipa ci` in a real git repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ipa.cli.main import run
from tests.fakes import reviewed
from tests.fakes.reviewed import (
    BREAKING,
    COSTLY,
    GUARDRAILS,
    HARMLESS,
    PIPELINE,
    TRACE_S,
    edit,
    git,
    make,
)

Ci = Callable[..., tuple[int, str, str]]
pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt-get install git"),
    # Their simulations are remembered.
    pytest.mark.xdist_group("reviews"),
]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    make(folder)
    monkeypatch.chdir(folder)
    for name in ("IPA_PIPELINES_DIR", "IPA_PROFILES_DIR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def ci(repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ci:
    reviewed.remember(monkeypatch)

    def command(*words: str) -> tuple[int, str, str]:
        code = run(["ci", "--base", "main", "--seeds", "1", *words])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return command


RULES = ("--policy-file", "guardrails.yaml")
SHORT = ("--trace", "traces/short.txt")


@pytest.fixture
def short(repository: Path) -> Path:
    """A trace of half a minute, for what does not look at the figures."""
    file = repository / "traces" / "short.txt"
    file.write_text("4\n" * 30)
    return file


def test_nothing_changed_is_said_and_leaves_an_empty_comment(ci: Ci, repository: Path) -> None:
    code, out, err = ci(*RULES, "--comment", "c.md", "-o", "md")
    assert (code, err) == (0, "")
    assert "no change above the threshold" in out
    assert (repository / "c.md").read_text() == ""


def test_a_harmless_change_is_simulated_and_silent(ci: Ci, repository: Path) -> None:
    edit(repository / PIPELINE, HARMLESS)
    (repository / "c.md").write_text("earlier")
    code, out, err = ci(*RULES, "--comment", "c.md")
    assert code == 0 and "no change above the threshold" in out and "guardrails passed" in out
    assert f"simulating {TRACE_S} s, seed 1 of 1" in err
    assert (repository / "c.md").read_text() == ""


def test_a_costly_change_is_told_the_same_way_every_time(ci: Ci, repository: Path) -> None:
    edit(repository / PIPELINE, COSTLY)
    code, out, _ = ci(*RULES, "-o", "md")
    assert code == 2
    assert out.startswith("<!-- ipa ci -->\n### IPA: 1 pipeline affected: +")
    assert "guardrails passed" in out and " a month" in out and "| video |" in out
    # Committed or not, and whatever time it is, the same inputs make the same bytes.
    git(repository, "commit", "--quiet", "-am", "accuracy is worth more")
    reviewed.RUNS.clear()
    assert ci(*RULES, "-o", "md")[1] == out


def test_a_broken_guardrail_is_named_with_its_line_and_what_was_measured(ci: Ci, repository: Path) -> None:
    edit(repository / PIPELINE, BREAKING)
    code, out, _ = ci(*RULES, "--comment", "c.md")
    assert code == 3
    assert "video: accuracy_drop is 0." in out and "(fails if accuracy_drop > 0.02)" in out
    assert "1 guardrail broken" in (repository / "c.md").read_text()


def test_guardrails_are_found_here_or_at_the_top(
    ci: Ci, repository: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(repository / "guardrails.yaml", ("cores_mean > 40", "cores_mean > 1"))
    code, out, err = ci(*SHORT)
    assert code == 3 and "fails if cores_mean > 1" in out and "warning" not in err
    monkeypatch.chdir(repository / "traces")
    folders = ("--pipelines-dir", "../pipelines", "--profiles-dir", "../profiles")
    assert ci("--trace", "short.txt", *folders)[0] == 3


def test_the_absence_of_guardrails_is_loud(ci: Ci, repository: Path, short: Path) -> None:
    (repository / "guardrails.yaml").unlink()
    code, out, err = ci(*SHORT, "--comment", "c.md")
    assert code == 2, "to remove them is a change that is worth reading"
    assert "⚠️ the change removes the guardrails" in out
    assert "⚠️ the change removes the guardrails" in (repository / "c.md").read_text()
    assert "warning: the change removes the guardrails: there is no guardrails.yaml here or at the top" in err
    git(repository, "commit", "--quiet", "-am", "none")
    git(repository, "branch", "--force", "main")
    edit(repository / PIPELINE, BREAKING)
    code, out, err = ci(*SHORT)
    assert code == 2 and "⚠️ no guardrails" in out and "so no figure can fail" in err


def test_an_accuracy_without_a_new_measurement_fails_the_change(
    ci: Ci, repository: Path, short: Path
) -> None:
    profile = repository / "profiles/video/crop.yaml"
    edit(profile, ("    accuracy: 0.457\n", "    accuracy: 0.99\n"))
    edit(profile, ("{cores: 1, batch: 1, latency: 88.1ms,", "{cores: 1, batch: 1, latency: 88.2ms,"))
    said = "crop/yolov5n: accuracy 0.457 → 0.99, 1 of 20 points without a new measurement, since 2024-01-01"
    code, out, _ = ci(*SHORT, "--comment", "c.md")
    assert code == 3 and f"❌ video: {said}" in out and "❌ a profile without a new measurement" in out
    assert said in (repository / "c.md").read_text()
    # The measurement that the figures are from is named: they are taken, and what they change is told.
    edit(profile, ("measured_on: 2024-01-01", "measured_on: 2026-11-20"))
    code, out, _ = ci(*SHORT)
    assert code == 2 and "measurement" not in out
    edit(profile, ("measured_on: 2026-11-20", "measured_on: 2023-11-20"))
    code, out, _ = ci(*SHORT)
    assert code == 3 and "by an older measurement, of 2023-11-20 instead of 2024-01-01" in out


def test_the_json_has_both_sides_and_the_exit_code(ci: Ci, repository: Path, short: Path) -> None:
    edit(repository / PIPELINE, COSTLY)
    code, out, _ = ci(*SHORT, "-o", "json")
    found = json.loads(out)
    assert found["exit_code"] == code
    [video] = found["pipelines"]
    assert [each["label"] for each in video["after"]["plans"]] == ["p50", "p95", "max"]
    assert video["before"]["figures"]["requests"] == video["after"]["figures"]["requests"] > 0
    assert (video["path"], video["status"]) == (PIPELINE, "changed")
    assert found["inputs"]["commit"] == git(repository, "rev-parse", "main").strip()


def test_a_rate_without_a_plan_fails_the_change(ci: Ci, repository: Path, short: Path) -> None:
    edit(repository / PIPELINE, ("latency: 1s", "latency: 50ms"))
    code, out, _ = ci(*SHORT, "-o", "md")
    assert code == 3
    assert "❌ a recorded rate has no plan" in out
    assert "no plan carries 4 rps, the p50 of the trace (infeasible)" in out and "feasible with" in out


def test_every_problem_of_every_changed_file_is_told_at_its_line(ci: Ci, repository: Path) -> None:
    edit(repository / PIPELINE, ("graph: [crop, classification]", "grap: [crop, classification]"))
    edit(repository / "profiles/video/crop.yaml", ("stage: crop", "stage: crap"))
    edit(repository / "guardrails.yaml", ("slo_ratio", "slo_rato"))
    files = ("--comment", "c.md")
    code, out, err = ci(*RULES, *files)
    assert code == 65
    for words in (
        f"{PIPELINE}:10:1: unknown key 'grap'; did you mean 'graph'?",
        "profiles/video/crop.yaml:1:1: this file belongs at profiles/video/crap.yaml",
        "guardrails.yaml:6:5: there is no measure 'slo_rato'; did you mean 'slo_ratio'?",
    ):
        assert words in err, err
    assert "simulating" not in err and "guardrails passed" not in out
    comment = (repository / "c.md").read_text()
    assert f"`{PIPELINE}:10:1`" in comment and "❌ files cannot be used" in comment
    assert str(repository) not in comment + err


def test_a_change_that_mends_a_broken_file_can_pass(ci: Ci, repository: Path, short: Path) -> None:
    good = (repository / PIPELINE).read_text()
    git(repository, "checkout", "--quiet", "main")
    edit(repository / PIPELINE, ("sla: {", "slo: {"))
    git(repository, "commit", "--quiet", "-am", "broken")
    git(repository, "checkout", "--quiet", "-B", "change")
    (repository / PIPELINE).write_text(good)
    code, out, _ = ci(*SHORT, "-o", "md")
    assert code == 2
    assert "at the base its files could not be used" in out and PIPELINE in out


def test_pipelines_that_come_and_go_are_told(ci: Ci, repository: Path, short: Path) -> None:
    for kind in ("pipelines", "profiles"):
        shutil.move(repository / kind / "video", repository / kind / "film")
    edit(repository / "pipelines/film/pipeline.yaml", ("\nname: video", "\nname: film"))
    for file in (repository / "profiles/film").iterdir():
        edit(file, ("pipeline: video", "pipeline: film"))
    code, out, _ = ci(*SHORT, "-o", "md")
    assert code == 2
    figures = out.partition("Simulated on")[0]
    rows = {line.split(" | ")[0]: line for line in figures.splitlines() if line.startswith("| ")}
    assert rows["| film"].endswith("| new |") and rows["| video"].endswith("| removed |")


def test_changed_guardrails_are_held_against_every_pipeline(ci: Ci, repository: Path, short: Path) -> None:
    edit(repository / "guardrails.yaml", ("cores_mean > 40", "cores_mean > 1"))
    code, out, err = ci(*RULES, *SHORT, "-o", "md")
    assert code == 3 and "guardrails changed; cores" in out.replace("\\_", "_")
    assert err.count("simulating") == 1, "both sides are the same, and are run once"


def test_rules_of_one_pipeline_and_names_that_are_none(ci: Ci, repository: Path, short: Path) -> None:
    own = "pipelines:\n  video: {fail_if: latency_p99_s > 0.001}\n"
    (repository / "guardrails.yaml").write_text(GUARDRAILS + own)
    code, out, _ = ci(*RULES, *SHORT)
    assert code == 3 and "fails if latency_p99_s > 0.001" in out
    (repository / "guardrails.yaml").write_text(GUARDRAILS + own.replace("video", "vidoe"))
    code, _, err = ci(*RULES, *SHORT)
    assert code == 65 and "guardrails.yaml:11:3: there is no pipeline 'vidoe'; did you mean 'video'?" in err


def test_a_trace_that_is_not_there(ci: Ci, repository: Path) -> None:
    (repository / "traces/video.txt").unlink()
    code, _, err = ci(*RULES)
    assert code == 65 and "guardrails.yaml:3:8: there is no file traces/video.txt" in err
    code, _, err = ci("--trace", "traces/other.txt")
    assert code == 1 and "no file 'traces/other.txt'" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--base", "nope"), "--base 'nope' is not a commit of this repository"),
        (("--trace", "a", "--workload", "bursty"), "cannot both be given"),
        (("--comment", "no/folder/c.md"), "there is no folder no/folder"),
        (("--policy", "our"), "did you mean 'ours'?"),
        (("--pipelines-dir", "/"), "is not below"),
    ],
)
def test_usage(ci: Ci, words: tuple[str, ...], said: str) -> None:
    code, _, err = ci(*words)
    assert code == 64 and said in err


def test_outside_of_a_work_tree(ci: Ci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = ci()
    assert code == 64 and "is not in a git work tree" in err


def test_what_came_to_the_base_meanwhile_is_not_the_change(ci: Ci, repository: Path) -> None:
    git(repository, "checkout", "--quiet", "main")
    edit(repository / PIPELINE, COSTLY)
    git(repository, "commit", "--quiet", "-am", "theirs")
    git(repository, "checkout", "--quiet", "change")
    code, out, err = ci(*RULES)
    assert code == 0 and "simulating" not in err and "no change" in out


def test_a_rule_about_money_needs_a_price_of_the_pipeline_or_of_a_core(
    ci: Ci, repository: Path, short: Path
) -> None:
    rules = repository / "guardrails.yaml"
    rules.write_text(rules.read_text().replace("usd_per_core_hour: 0.04\n", "") + "  - usd_per_hour > 0.01\n")
    file = repository / PIPELINE
    edit(file, HARMLESS)
    code, _, err = ci(*RULES, *SHORT)
    line = rules.read_text().splitlines().index("  - usd_per_hour > 0.01") + 1
    assert code == 65 and f"guardrails.yaml:{line}:1" in err
    assert "pipeline 'video' has no prices; give it some, or the guardrails usd_per_core_hour" in err
    file.write_text(file.read_text() + "prices: {cores: 0.04, memory: 0.01}\n")
    code, out, _ = ci(*RULES, *SHORT, "-o", "json")
    assert code == 3
    [found] = json.loads(out)["pipelines"]
    # Both sides have the new prices.
    for side in ("before", "after"):
        figures = found[side]["figures"]
        cost = 0.04 * figures["cores_mean"] + 0.01 * figures["beside_mean"]["memory_gib"]
        assert figures["usd_per_hour"] == pytest.approx(cost)
    assert any("usd_per_hour is" in finding["words"] for finding in found["findings"])
