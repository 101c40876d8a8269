"""Prints, for each load, the pinball loss of the mixture over that of the rung that is best in hindsight.

Beside it: the mixture's upper quantile over the peak that came, in the median, and the share of peaks within
it. The five days are of the published trace, where it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean, median

import numpy as np

from ipa.experiment.loads import data_folder
from ipa.files.traces import read_trace
from ipa.forecast.arrivals import workload_rates
from ipa.forecast.base import Floats, Series, prepare, sliding_max
from ipa.forecast.ladder import DEFAULT_RUNGS, forecast
from ipa.forecast.quality import pinball
from ipa.forecast.reactive import WindowMaximum
from ipa.model.observation import LoadHistory

HORIZON_S, QUANTILE, TICK_S = 20.0, 0.95, 10
# As the loop reads it.
WINDOW_S, FIRST_S = 600, 130
TRACE = "twitter_days_01_19.txt.gz"
DAYS, DAY_S, START_S, LENGTH_S, MEAN_RPS = (3, 7, 11, 14, 17), 86_400, 36_000, 2_400, 20.0


def loads(data: Path) -> dict[str, Floats]:
    """Requests a second of each load."""
    rng = np.random.default_rng(0)
    time_s = np.arange(1200)
    made = {
        name: workload_rates(name, seed=1) for name in ("bursty", "steady_low", "steady_high", "fluctuating")
    }
    made["step"] = np.repeat([5.0, 30.0, 90.0, 20.0], 300)
    made["ramp"] = np.linspace(2.0, 60.0, 1200)
    made["spikes"] = np.where(time_s % 97 < 3, 60.0, 10.0)
    made["sine"] = 20 + 15 * np.sin(time_s * 2 * np.pi / 200)
    made["demo"] = np.repeat([5.0, 12.0, 20.0, 8.0, 18.0, 4.0], 60)
    by_name = {name: rng.poisson(rates).astype(float) for name, rates in made.items()}
    if (data / TRACE).is_file():
        trace = np.array(read_trace(data / TRACE, finds_outages=False), dtype=float)
        for day in DAYS:
            part = trace[day * DAY_S + START_S :][:LENGTH_S]
            by_name[f"day {day}"] = part * MEAN_RPS / part.mean()
    return by_name


def losses(rates: Floats) -> tuple[dict[str, float], Floats]:
    """The mean loss of each rung and of the mixture, and the mixture's upper quantiles over the peaks."""
    series = prepare(LoadHistory(1.0, tuple(rates.tolist())))
    ends = np.arange(FIRST_S, len(rates) - int(HORIZON_S), TICK_S)
    peaks = sliding_max(series.rates_rps, int(HORIZON_S))[ends]

    def history(end: int) -> Series:
        return series.between(max(0, end - WINDOW_S), end)

    alone = {
        rung.name: [rung.peak(history(end), HORIZON_S, QUANTILE).upper_rps for end in ends.tolist()]
        for rung in (*DEFAULT_RUNGS, WindowMaximum())
    }
    # Smoothing needs the seconds before the window.
    mixed = [
        forecast(
            LoadHistory(1.0, tuple(rates[max(0, end - WINDOW_S) : end].tolist())),
            horizon_s=HORIZON_S,
            quantile=QUANTILE,
        ).upper_rps
        for end in ends.tolist()
    ]
    uppers = {**alone, "mixture": mixed}
    means = {name: float(pinball(peaks, np.array(each), QUANTILE).mean()) for name, each in uppers.items()}
    return means, np.array(mixed) / np.maximum(peaks, 1e-9)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.rungs", description=__doc__)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the folder of the published trace")
    ratios, uppers = [], []
    print("| load | best rung | mixture's loss over its | upper over peak, median | peaks within |")
    print("|---|---|--:|--:|--:|")
    for name, rates in loads(parser.parse_args().data).items():
        means, over = losses(rates)
        mixture = means.pop("mixture")
        best = min(means, key=means.__getitem__)
        ratios.append(mixture / means[best])
        uppers.append(median(over))
        print(f"| {name} | {best} | {ratios[-1]:.2f} | {uppers[-1]:.2f} | {100 * (over >= 1).mean():.0f} % |")
    print(
        f"\nloss: mean {mean(ratios):.2f}, highest {max(ratios):.2f}; upper over peak: {median(uppers):.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
