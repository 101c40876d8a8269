"""Progress of long commands: the work left, and until when, on a terminal and without one."""

from __future__ import annotations

from datetime import UTC, datetime
from queue import Queue

import pytest

from ipa.cli import output
from ipa.cli.output import progress, work_left

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("done", "took_s", "words"),
    [
        (0, 0.0, "0 of 108"),
        (12, 30.0, "12 of 108, about 4 min left, until {:%H:%M:%S}"),
        (96, 240.0, "96 of 108, about 30 s left, until {:%H:%M:%S}"),
    ],
)
def test_the_time_left_goes_by_the_pace_so_far(done: int, took_s: float, words: str) -> None:
    ends_s = {12: 240, 96: 30}.get(done, 0)
    until = datetime.fromtimestamp(NOW.timestamp() + ends_s, UTC).astimezone()
    assert work_left(done, 108, took_s, NOW) == words.format(until)


def test_without_a_terminal_a_line_comes_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: Queue[str] = Queue()

    def echo(line: str, *, err: bool) -> None:
        lines.put(line.partition(", about ")[0])

    monkeypatch.setattr(output, "LINE_S", 0.001)
    monkeypatch.setattr(output.typer, "echo", echo)
    with progress("measuring shop, points", 6) as step:
        # Before the first part has ended.
        assert lines.get(timeout=10) == "measuring shop, points; 0 of 6"
        step("part 1", 2)
        wanted = "measuring shop, points: part 1; 2 of 6"
        assert any(lines.get(timeout=10) == wanted for _ in range(1000))


def test_on_a_terminal_the_bar_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with progress("measuring", 4) as step:
        step("half", 2)
    shown = capsys.readouterr().err
    assert "measuring: half" in shown and "2 of 4, about 0 s left, until " in shown


def test_a_short_command_prints_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("checking", 2) as step:
        step("one")
        step("two")
    assert capsys.readouterr().err == ""
