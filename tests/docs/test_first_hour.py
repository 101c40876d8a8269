"""The first hours of users: the commands of their pages, one after another as they are printed.

The newcomer's and the pipeline owner's are done here, over a simulated and a real pipeline of this machine.
test_docs_snippets, test_docs_review and test_install_page do those of the other pages: here are only those of
a person on call, and that each section is there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.docs.test_docs_snippets import TOGETHER, check_make
from tools.first_hour import (
    HOURS,
    Chapter,
    FailedError,
    Report,
    follow,
    on_this_machine,
    prepared,
    run,
    steps_of,
)

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.xdist_group("first-hour")]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
(NEWCOMER,) = HOURS["newcomer"]


def done(chapters: Sequence[Chapter], folder: Path) -> Report:
    """The report; every section that has commands was done."""
    report = run(chapters, folder, PATH)
    assert len(report.took) == sum(len(chapter.steps()) for chapter in chapters)
    assert all(title in str(report) for title in report.took)
    return report


@pytest.mark.live
def test_every_step_of_the_newcomers_hour_works_as_printed(tmp_path: Path) -> None:
    report = run([NEWCOMER], tmp_path, PATH)
    assert ["1. Install", *report.took] == [step.title for step in NEWCOMER.steps()]
    assert len(report.took) == 6 and report.skipped == {}


@pytest.mark.local
def test_a_pipeline_owner_sends_requests_and_changes_what_runs_as_printed(tmp_path: Path) -> None:
    chapters = [each for each in HOURS["owner"] if each.page.removesuffix(".md") in TOGETHER]
    assert len(chapters) == 2
    assert done(chapters, tmp_path).skipped == {}


@pytest.mark.local
def test_an_adopter_is_advised_lets_it_act_and_leaves_as_printed(tmp_path: Path) -> None:
    assert done(HOURS["adopter"], tmp_path).skipped == {}


@pytest.mark.live
def test_a_person_on_call_takes_over_as_printed(tmp_path: Path) -> None:
    done([each for each in HOURS["platform"] if each.page == "how-to/alerts.md"], tmp_path)


@pytest.mark.parametrize("chapter", [it for hour in HOURS.values() for it in hour], ids=lambda it: it.page)
def test_every_section_is_there_with_commands_of_its_own(chapter: Chapter) -> None:
    steps = chapter.steps()
    commands = [action.command for step in steps for action in step.actions if action.command]
    assert steps and commands
    # What is left out is still printed there.
    assert all(any(command.startswith(begin) for command in commands) for begin in chapter.skipped)
    printed = (ROOT / "docs" / "tutorial" / "first-steps.md").read_text()
    assert all(command in printed for command in chapter.given)


def test_what_is_not_typed_is_said_with_the_reason(tmp_path: Path) -> None:
    alone = "## Try\n\n```bash\ndocker x\n```\n\n## Again\n\n```bash\ntrue\nskopeo y\n```\n"
    first, second = steps_of(alone)
    why, report = Chapter("", skipped={"docker ": "needs docker", "skopeo ": ""}), Report()
    with on_this_machine(tmp_path, PATH) as person:
        took = [
            follow(person, it, lambda text: why.why_not(text, PATH), report.skipped) for it in (first, second)
        ]
    assert took == [False, True]
    assert "not typed, needs docker: docker x" in str(report) and "skopeo" not in str(report)
    assert (
        Chapter("").why_not("promtool check rules x", "/nowhere")
        == "needs promtool, of Debian's package prometheus"
    )
    missing = run([Chapter("how-to/monitor.md", needs=("no-such",))], tmp_path, PATH)
    assert missing.took == {} and "needs no-such" in str(missing)


def test_what_does_not_go_as_printed_is_said(tmp_path: Path) -> None:
    def typed(kind: str, block: str) -> None:
        (step,) = steps_of(f"## Try\n\n```{kind}\n{block}\n```\n")
        with on_this_machine(tmp_path, PATH) as person:
            follow(person, step, lambda _: None, {})

    for block, words in (("$ false", "exit code 1"), ("$ echo a\nb", "printed")):
        with pytest.raises(FailedError, match=words):
            typed("console", block)
    typed("bash", "# a comment\nexport A=b\ntest $A = \\\nb\nexit 2   # exit code 2")
    typed("yaml", "# a.yaml in the folder\nb: 1")
    assert (tmp_path / "a.yaml").read_text() == "b: 1\n"
    place = prepared(tmp_path / "there")
    assert (place / "pipelines" / "digits" / "bench.py").exists()


def test_the_readme_names_what_the_first_hours_use() -> None:
    text = (ROOT / "README.md").read_text()
    check_make("make first-hour")
    for words in (
        *("ipa demo", "ipa init", "ipa import", "ipa doctor", "make first-hour"),
        *("ipa url", "ipa infer", "ipa compare", "ipa experiment", "ipa config show", "ipa ci"),
    ):
        assert words in text, words
