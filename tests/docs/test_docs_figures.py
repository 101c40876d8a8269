"""Figures of the how-tos that follow from measured ones: tables of capacity and of retention."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipa.settings import Settings
from tools.monitoring.alerts import ALERTS

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
