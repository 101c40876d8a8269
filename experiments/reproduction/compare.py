"""The replays of each run beside its log: how far they are off, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from experiments.reproduction.forecasts import Learned, Rates, at_mean, foresight, last_maximum
from experiments.reproduction.replay import Ask, Replay, planner, started, walk
from experiments.reproduction.runs import SYSTEMS, Log, LoggedRun, Published
from experiments.reproduction.settings import settings_of
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile

WITHIN = 0.10
FORECASTS = (
    "foresight",
    "last maximum",
    "line",
    "line, rounded up",
    "foresight at the log's mean",
    "line at the log's mean",
)
# The choice between plans with the same objective: the cheap or the accurate one. Which of them the
# authors' solver took depends on its gap.
TIES = ("cheap", "accurate")
EITHER = "either"
Way = tuple[str, str]
PLAIN: Way = ("foresight", "cheap")
HEADLINE: Way = ("line at the log's mean", "cheap")

Files = Mapping[str, tuple[Pipeline, Mapping[str, StageProfile]]]


@dataclass(frozen=True, slots=True)
class Compared:
    """One run: its log, what it started with, and its replays by (forecast, ties)."""

    run: LoggedRun
    starting_cores: float
    replays: Mapping[Way, Replay]

    def off(self, way: Way) -> tuple[float, float]:
        """The distance of cores and PAS from the log, relative to it."""
        replay = self.replays[way]
        return replay.cores / self.run.log.cores - 1, replay.pas / self.run.log.pas - 1

    def within(self, way: Way) -> bool:
        """True if both are within 10 %; with EITHER, if they are with one of the choices."""
        if way[1] == EITHER:
            return any(self.within((way[0], ties)) for ties in TIES)
        return all(abs(each) <= WITHIN for each in self.off(way))

    def reason(self, way: Way) -> str:
        """The reason why it is off, from what else was tried; empty where it is within."""
        if self.within(way):
            return ""
        log = self.run.log
        forecast, _ = way
        if log.infeasible > 0.9 * log.decisions and log.cores != self.starting_cores:
            return (
                f"no plan at {log.infeasible} of {log.decisions} decisions, so the initial configuration "
                f"stays: {log.cores:g} cores in the log, {self.starting_cores:g} by the settings"
            )
        if self.within((forecast, EITHER)):
            return "at some rates two plans have the same objective; within 10 % with the accurate one"
        scaled = f"{forecast.partition(',')[0]} at the log's mean"
        if scaled in FORECASTS and self.within((scaled, EITHER)):
            mine = self.replays[way].rate_rps
            return f"planned for {log.rate_rps:.1f} rps on average, here {mine:.1f}; within at that average"
        better = [other for other in FORECASTS if self.within((other, EITHER))]
        if better:
            return f"the spread of the rates: within 10 % with the forecast “{better[-1]}”"
        return "unexplained"


def forecasts(
    pattern: Sequence[float], margin_ratio: float, log_rps: float, line: Learned
) -> dict[str, Rates]:
    """The rates to plan for, by each forecast, the run's margin on them."""
    learned = line(pattern)
    plain = {
        "foresight": foresight(pattern),
        "last maximum": last_maximum(pattern),
        "line": learned,
        "line, rounded up": tuple(float(ceil(rate)) for rate in learned),
    }
    rates = {name: tuple(rate * (1 + margin_ratio) for rate in each) for name, each in plain.items()}
    for name in ("foresight", "line"):
        rates[f"{name} at the log's mean"] = at_mean(rates[name], log_rps)
    return rates


def compare(
    run: LoggedRun, published: Published, files: Files, line: Learned, planners: dict[str, dict[str, Ask]]
) -> Compared:
    """All replays of a run; `planners` keeps what runs of equal settings share."""
    pipeline, profiles = files[run.pipeline]
    setup = settings_of(run.settings, pipeline, profiles)
    starting = started(setup, profiles)
    key = repr((run.pipeline, setup.objective, [stage.pin for stage in setup.pipeline.stages]))
    if key not in planners:
        cheap = planner(setup, profiles)
        # With its variants pinned FA2 has no choice between accuracies.
        pinned = run.settings["baseline_mode"] == "scale"
        accurate = cheap if pinned else planner(setup, profiles, accurate=True)
        planners[key] = dict(zip(TIES, (cheap, accurate), strict=True))
    asks = planners[key]
    pattern = published.patterns[run.workload]
    rates = forecasts(pattern, setup.margin_ratio, run.log.rate_rps, line)
    return Compared(
        run,
        starting[0],
        {(name, ties): walk(ask, starting, rates[name]) for name in FORECASTS for ties, ask in asks.items()},
    )


def counts(comparisons: Sequence[Compared], way: Way) -> tuple[int, int, int, int]:
    """Runs within 10 %, runs, cells where all four systems are, cells."""
    main = [each for each in comparisons if each.run.system in SYSTEMS]
    cells = {each.run.cell for each in main}
    bad = {each.run.cell for each in main if not each.within(way)}
    return sum(each.within(way) for each in main), len(main), len(cells - bad), len(cells)


def rows(comparisons: Sequence[Compared]) -> Iterator[dict[str, Any]]:
    """Every run as plain JSON values."""
    for each in comparisons:
        run = each.run
        yield {
            "series": run.series,
            "pipeline": run.pipeline,
            "workload": run.workload,
            "system": run.system,
            "log": asdict(run.log),
            "starting_cores": each.starting_cores,
            "notes": list(run.notes),
            "reason": each.reason(HEADLINE),
            "replays": [
                {
                    "forecast": way[0],
                    "ties": way[1],
                    **asdict(replay),
                    "cores_off_ratio": each.off(way)[0],
                    "pas_off_ratio": each.off(way)[1],
                    "within": each.within(way),
                }
                for way, replay in each.replays.items()
            ],
        }


def from_rows(rows: Sequence[Mapping[str, Any]]) -> list[Compared]:
    """The results in `rows`, as plain values, without the runs' settings."""
    comparisons = []
    for row in rows:
        names = (row["series"], row["pipeline"], row["workload"], row["system"])
        run = LoggedRun(*names, {}, Log(**row["log"]), tuple(row["notes"]))
        replays = {
            (each["forecast"], each["ties"]): Replay(
                **{name: each[name] for name in Replay.__dataclass_fields__}
            )
            for each in row["replays"]
        }
        comparisons.append(Compared(run, row["starting_cores"], replays))
    return comparisons
