"""A newcomer's first sight: times, wrapped lines, remarks, and a simulated pipeline named as such."""

from __future__ import annotations

import io
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import numpy as np
from rich.console import Console

from ipa.cli.layout import date_time, time_of_day
from ipa.cli.output import Output
from ipa.cli.views.result_text import note_line
from ipa.cli.watching import _shower
from ipa.serving.logs import TextLines
from ipa.simulate.columns import BatchLog, FormedBatches
from ipa.simulate.realtime import Simulated
from tests.unit.serving.test_logs import record

DETAIL = " ".join(f"word{number}" for number in range(60))


def test_times_are_local_and_to_the_second() -> None:
    at = datetime(2026, 11, 24, 12, 35, 1, 999, UTC)
    local = at.astimezone()
    assert date_time(at.isoformat()) == f"{local:%Y-%m-%d %H:%M:%S}"
    assert time_of_day("2026-11-24T12:35:01Z") == f"{local:%H:%M:%S}"


def test_a_watch_on_a_terminal_wraps_instead_of_cutting_off() -> None:
    written = io.StringIO()
    console = Console(
        file=written, force_terminal=True, width=60, height=5, soft_wrap=True, color_system=None
    )
    live = {"rate_rps": 1.0, "latency_s": 0.1, "forecast": None, "tick": 1, "revision": "1", "stages": []}
    live |= {"pas": 0.5, "cost_cores": 1.0, "degraded": [], "reason": "hold", "detail": DETAIL}
    live |= {"in_time_ratio": 0.5}
    control = {"mode": "active", "mode_by": "", "mode_reason": "", "paused": False, "pins": [], "freezes": []}
    status = {
        "pipeline": "video", "sla_s": 1.0, "sla_percentile": 99.0, "healthy": True, "simulated_speed": 10.0,
        "control": control, "live": live | {"next_tick_in_s": None}, "standing": {"leading": True},
    }  # fmt: skip
    with ExitStack() as screen:
        _shower(console, screen, Output.TEXT)(status)
    assert all(word in written.getvalue() for word in (*DETAIL.split(), "simulated, ×10"))
    # The detail says the rate that was planned for, with the reason.
    shown = " ".join(written.getvalue().split())
    assert "50.0 % in time" in shown and "the forecast" not in shown


def test_a_plan_says_how_its_solver_was_chosen() -> None:
    note = "auto: exact, since there is no Gurobi licence of your own"
    assert note_line(note) == [f"  Note: {note}."]
    assert note_line("") == []


def test_the_log_of_a_simulation_has_its_clock() -> None:
    entry = record("decided")
    wall = datetime.fromtimestamp(entry.created, UTC)
    pace = Simulated(np.empty(0), 10.0, began=wall - timedelta(seconds=60), began_s=0.0)
    shown = date_time((wall + timedelta(seconds=540)).isoformat())
    assert TextLines(pace.simulated).format(entry).startswith(f"{shown} ")


def test_a_stage_tells_wait_and_service_of_its_items() -> None:
    log, times, ints = BatchLog(), np.array([0.0, 1.0, 2.0]), np.array([0, 1, 2])
    starts, ends = np.array([1.0, 2.0]), np.array([1.5, 2.5])
    batches = (np.array([2, 3]), starts, ends, np.array([0, 0]))
    log.add(FormedBatches(ints, times, times, *batches, np.array([False, False, True]), ends - starts))
    ended = log.items_in(0.0, 2.0)
    assert (ended.done_s - ended.arrived_s).tolist() == [1.5, 0.5]
    assert not len(log.items_in(2.0, 3.0).ids)
