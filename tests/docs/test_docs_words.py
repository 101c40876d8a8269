"""Sentences and figures of the docs, held against what they speak of and what they follow from."""

from __future__ import annotations

import re
import struct
from collections import Counter
from pathlib import Path

import pytest

from experiments.forecast.runner import RUNGS
from ipa.profiling.measure import LEAST_ROUNDS, ROUNDS, MeasurementEffort
from ipa.settings import Settings
from tools.monitoring.alerts import ALERTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_decision_is_in_the_list_of_decisions_under_its_title() -> None:
    listed = (ROOT / "docs/adr/README.md").read_text()
    for page in sorted((ROOT / "docs/adr").glob("0*.md")):
        number, _, title = page.read_text().splitlines()[0].removeprefix("# ").partition(". ")
        assert f"{number}. [{title}]({page.name})" in listed


def test_reasons_name_rungs_that_there_are() -> None:
    rungs = {rung.name for rung in RUNGS}
    named = [
        (page.name, rung)
        for page in PAGES
        for rung in re.findall(r"rps expected within \d+ s \(([\w-]+)\)", page.read_text())
    ]
    assert named
    assert not [each for each in named if each[1] not in rungs]


def test_one_core_is_no_plural() -> None:
    """Examples are outputs, so that a page shows each place that counts cores without `cores_of`."""
    assert not [page.name for page in PAGES if re.search(r"(?<![\d.])1 cores", page.read_text())]


def test_the_price_of_a_change_is_that_of_the_settings() -> None:
    page = (ROOT / "docs/explanation/control-loop.md").read_text()
    prices = re.findall(r"(\d+) s of the running resources' cost\s\(`IPA_CHANGE_PRICE_S`\)", page)
    assert prices == [f"{Settings().change_price_s:g}"]


def test_objects_are_named_as_they_are_called() -> None:
    """Messages, docstrings and pages that name an object of a module by its whole name."""
    texts = [path.read_text() for path in (*PAGES, *(ROOT / "ipa").rglob("*.py"))]
    named = {each for text in texts for each in re.findall(r"(?<![\w./@-])ipa(?:\.\w+){2,}", text)}
    assert len(named) > 200
    assert not [name for name in sorted(named) if not _is_there(name)]


def _is_there(name: str) -> bool:
    """True if each part is a folder, a module, or a word of its module, or if no room is meant."""
    room, *rest = name.split(".")[1:]
    place = ROOT / "ipa" / room
    while rest and place.is_dir():
        if place.joinpath(rest[0]).is_dir() or place.joinpath(f"{rest[0]}.py").is_file():
            place /= rest.pop(0)
        else:
            place /= "__init__"
    module = place.with_suffix(".py")
    return not module.is_file() or all(re.search(rf"\b{part}\b", module.read_text()) for part in rest)


def test_the_time_of_a_measured_point_follows_from_its_effort() -> None:
    page = " ".join((ROOT / "docs/how-to/bring-your-own-pipeline.md").read_text().split())
    usual = MeasurementEffort()
    most_s, most_rounds = usual.budget_s * 2**usual.doublings, ROUNDS * 2**usual.doublings
    assert f"takes {usual.budget_s:g} s, up to {most_s:g} s while its p99 scatters" in page
    assert f"done after {LEAST_ROUNDS} to {most_rounds} rounds" in page


def test_every_measured_table_has_its_command_and_day() -> None:
    """The commands are targets of make, or files that there are."""
    page = (ROOT / "docs/reference/measured.md").read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL):
        sources = re.findall(r"^`(.+?)`[^;]*; [^;]+; (\d{4}-\d\d-\d\d)\b", text, re.MULTILINE)
        assert sources, title
        for command, _ in sources:
            program, *words = command.split()
            if program == "make":
                assert words[0] in targets, command
            elif program == "python":
                place = ROOT / words[1].replace(".", "/")
                assert place.is_dir() or place.with_suffix(".py").is_file(), command
            else:
                assert program in ("ipa", "pytest"), command


def test_the_changelog_says_each_change_once() -> None:
    heads = Counter(re.findall(r"^- \*\*(.+?)\*\*", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE))
    assert not [head for head, times in heads.items() if times > 1]


def test_the_page_is_shown_as_wide_as_it_was_taken() -> None:
    """The picture of README is of the page on a desk, 1400 x 700, in the first minute of its command."""
    picture = (ROOT / "docs/images/page.png").read_bytes()
    assert struct.unpack(">II", picture[16:24]) == (1400, 700)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_there_are(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if ":" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


DOCS = Path(__file__).resolve().parents[2] / "docs"
STORE = (DOCS / "how-to" / "operate-the-store.md").read_text()
INSTALL = (DOCS / "how-to" / "install-on-a-cluster.md").read_text()
TICK_S, DAY_S = 10.0, 86_400


def rows(page: str, title: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading."""
    table = page.partition(f"## {title}\n")[2].partition("\n| ")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]


def number(text: str) -> float:
    match = re.match(r"[\d.]+", text.replace("\u00a0", "").replace(" 000", "000"))
    assert match, text
    return float(match[0])


def test_the_retention_of_decisions_is_what_was_measured_times_days_and_pipelines() -> None:
    (byte,) = re.findall(r"a decision takes (\d+) bytes", STORE)
    (day_kb,) = re.findall(r"decisions take\s+(\d+) kB a day", STORE)
    assert float(day_kb) == pytest.approx(float(byte) * DAY_S / TICK_S / 1e3, rel=0.01)
    for pipelines, *cells in rows(STORE, "How long to keep what"):
        for days, cell in zip((7, 30, 90, 365), cells, strict=True):
            assert number(cell) == pytest.approx(float(day_kb) * 1e-6 * number(pipelines) * days, rel=0.07)
    bound_mb = Settings().keep_decisions_mb
    (full,) = re.findall(r"(\d+) pipelines fill it in 30 days", STORE)
    assert float(full) == pytest.approx(bound_mb * 1e3 / 30 / float(day_kb), abs=1)
    assert "**`IPA_KEEP_DECISIONS_DAYS` (30)**" in STORE and Settings().keep_decisions_days == 30
    assert f"**`IPA_KEEP_DECISIONS_MB` ({bound_mb:.0f})**" in STORE


def test_the_capacity_is_what_was_measured_of_a_thousand_pipelines() -> None:
    load = (DOCS / "reference" / "measured.md").read_text()
    each_ms = [
        float(seconds)
        for seconds in re.findall(
            r"a tick of 1 000 pipelines with \w+ loads; CPU time \| .*?; ([\d.]+) s", load
        )
    ]
    assert len(each_ms) == 2
    for pipelines, *cells in rows(INSTALL, "How much it carries"):
        for ms, cell in zip(each_ms, cells[:2], strict=True):
            assert number(cell) == pytest.approx(number(pipelines) * ms / 1e3 / TICK_S, rel=0.09)
        kb_a_day = re.findall(r"decisions take\s+(\d+) kB a day", STORE)
        expected = min(float(kb_a_day[0]) * 30e-6 * number(pipelines), Settings().keep_decisions_mb / 1e3)
        assert number(cells[2]) == pytest.approx(expected, rel=0.05)
    assert "1 000 pipelines took 452 MB" in INSTALL
    assert "memory with 1 000 pipelines, including loops and worker processes | 452 MB" in load


def test_the_people_on_call_are_named_alerts_that_there_are() -> None:
    text = (DOCS / "how-to" / "alerts.md").read_text().partition("## On call")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(Ipa\w+)`", text))
    assert named and named <= {alert.name for alert in ALERTS}
