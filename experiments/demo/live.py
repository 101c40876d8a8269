"""The live table of a run: redrawn in place on a terminal, a line every five seconds elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

LINE_EVERY_S = 5.0


class LiveTable:
    """Shows the status of a run while it goes on."""

    def __init__(self, console: Console, name: str, duration_s: float) -> None:
        self._console = console
        self._name = name
        self._duration_s = duration_s
        self._next_line_s = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> LiveTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, at_s: float, status: Mapping[str, Any]) -> None:
        """Show the status at that second of the run."""
        if self._live:
            self._live.update(self._table(at_s, status), refresh=True)
        elif at_s >= self._next_line_s:
            self._next_line_s += LINE_EVERY_S
            self._console.print(line(at_s, status), highlight=False, soft_wrap=True)

    def _table(self, at_s: float, status: Mapping[str, Any]) -> Table:
        forecast = status["forecast"] or {}
        title = (
            f"{self._name}  {at_s:.0f}/{self._duration_s:.0f} s   load {number(status['rate_rps'])} rps, "
            f"forecast {number(forecast.get('upper_rps'))}   p99 {number(status['latency_s'], 3)} s   "
            f"{number(status['cost_cores'])} cores   PAS {number(status['pas'], 3)}   {status['reason']}"
        )
        table = Table(title=title, title_justify="left")
        for column in ("stage", "variant", "batch", "cores", "replicas", "load rps", "ρ", "latency s"):
            table.add_column(column, justify="left" if column in ("stage", "variant") else "right")
        for stage in status["stages"]:
            config = stage["config"] or {}
            table.add_row(
                stage["stage"],
                str(config.get("variant", "?")),
                str(config.get("batch_size", "?")),
                str(config.get("cores", "?")),
                f"{stage['ready_replicas']}/{config.get('replicas', '?')}",
                number(stage["arrival_rate_rps"]),
                number(stage["utilisation_ratio"]),
                number(stage["latency_s"], 3),
            )
        return table


def line(at_s: float, status: Mapping[str, Any]) -> str:
    """The status as one line."""
    forecast = status["forecast"] or {}
    configs = "  ".join(
        f"{c['stage']}={c['variant']} b{c['batch_size']} {c['replicas']}x{c['cores']:g}"
        for c in (stage["config"] for stage in status["stages"])
        if c
    )
    return (
        f"{at_s:5.0f} s  load {number(status['rate_rps'])}  forecast {number(forecast.get('upper_rps'))}  "
        f"p99 {number(status['latency_s'], 3)} s  cores {number(status['cost_cores'])}  {configs}  "
        f"{status['reason']}"
    )


def number(value: float | None, digits: int = 2) -> str:
    """The number with so many digits after the point, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
