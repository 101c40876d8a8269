"""`ipa forecast`: scores of the forecasters on a recorded load."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ipa.cli.output import OUTPUT, Output, progress, show
from ipa.files.traces import EXAMPLE_TRACE
from ipa.forecast.registry import FORECASTERS, FORESIGHT, LADDER
from ipa.model.errors import UsageError

if TYPE_CHECKING:
    from ipa.forecast.base import Forecaster

# Seconds of past load that a forecaster sees.
WINDOW_S = 120.0
# Names of forecasters that are no rung, so that there is nothing to score.
NO_RUNGS = (LADDER, FORESIGHT)


def backtest(
    trace: str = typer.Argument(
        EXAMPLE_TRACE,
        help="trace file, with options as FILE?scale=2&from=1h; without one, the packaged trace",
    ),
    *,
    horizon_s: float = typer.Option(
        20.0, "--horizon", min=1, help="seconds ahead whose peak rate is forecast"
    ),
    quantile: float = typer.Option(0.95, min=0.5, max=0.999, help="upper quantile to forecast"),
    forecasts: int = typer.Option(2000, min=1, help="number of forecasts, spread over the test"),
    train_ratio: float = typer.Option(
        0.7, "--train", min=0, max=0.95, help="first share of the trace, to learn from"
    ),
    also: list[str] = typer.Option(
        [], help="another forecaster to score: a plug-in's name, or module:attribute"
    ),
    output: Output = OUTPUT,
) -> None:
    """Score every forecaster on a trace: error of the point, coverage and loss of the upper quantile.

    The experiment `forecast` learns from some days of a trace and is scored on others.
    """
    import time

    from ipa.cli.layout import ViewColumn, table_of
    from ipa.files.traces import read_trace
    from ipa.forecast.ladder import BACKTEST_RUNGS
    from ipa.forecast.quality import Backtest
    from ipa.forecast.traces import as_load

    rungs = (*BACKTEST_RUNGS, *_compared(also))
    load = as_load(read_trace(trace))
    replay = Backtest(WINDOW_S, horizon_s, quantile, forecasts, train_ratio, smooth_s=1.0)
    with progress("forecasting"):
        scores = replay.run(load, rungs, time.perf_counter)
    short = [rung.name for rung in rungs if rung.name not in scores]
    if short:
        typer.echo(f"left out, since the trace is too short to learn from: {', '.join(short)}", err=True)
    table = table_of(
        scores.items(),
        ViewColumn("forecaster", lambda row: row[0]),
        ViewColumn("SMAPE", lambda row: row[1].smape_ratio, "{:.1%}"),
        ViewColumn("error rps", lambda row: row[1].mae_rps, "{:.2f}"),
        ViewColumn("coverage", lambda row: row[1].coverage_ratio, "{:.1%}"),
        ViewColumn("pinball rps", lambda row: row[1].pinball_rps, "{:.3f}"),
        ViewColumn("upper ÷ peak", lambda row: row[1].upper_ratio, "{:.2f}"),
        ViewColumn("fit s", lambda row: row[1].fit_s, "{:.1f}"),
        ViewColumn("ms", lambda row: row[1].predict_ms, "{:.2f}"),
    )
    count = next(iter(scores.values())).count
    values = {name: asdict(each) for name, each in scores.items()}
    show(output, values, f"{count} forecasts, upper quantile {quantile:g}", table)


def _compared(names: list[str]) -> list[Forecaster]:
    """The named forecasters. UsageError if one is unknown or cannot learn here; PluginError."""
    from ipa.forecast.ladder import make_forecaster

    for name in names:
        if name in NO_RUNGS or not (":" in name or name in FORECASTERS):
            known = [each for each in FORECASTERS if each not in NO_RUNGS]
            raise UsageError(
                f"--also {name!r}: there is no such forecaster", hint=f"There are: {', '.join(known)}"
            )
    return [make_forecaster(FORECASTERS.admit(name)) for name in dict.fromkeys(names)]
