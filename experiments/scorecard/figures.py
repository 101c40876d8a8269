"""What is predicted, what was measured, and by how much they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a configuration under a load; None: not predicted, or not measured.

    Latencies are those of answered requests, the tail's at the row's percentile. `busy_ratio` is the share of
    the time in which a replica of the busiest stage serves, `change_s` the time until a change is ready.
    """

    mean_s: float | None = None
    p50_s: float | None = None
    tail_s: float | None = None
    simulated_tail_s: float | None = None
    capacity_rps: float | None = None
    busy_ratio: float | None = None
    accuracy: float | None = None
    change_s: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration: predicted by the profiles, by them with what the loop then believes, and measured.

    `percentile` is that of its tail, `requests` those answered of which latencies were measured, `lost` those
    that were dropped or failed.
    """

    pipeline: str
    place: str
    rate_rps: float
    configs: str
    percentile: float
    requests: int
    lost: int
    profiled: Figures
    believed: Figures
    measured: Figures

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of prediction: its name, the field of `Figures`, what is asked of its mean absolute error.

    Errors are shares of what was measured, but differences where `is_ratio` is false. `measured` is the field
    that it is compared with.
    """

    name: str
    predicted: str
    measured: str
    asked: float | None = None
    is_ratio: bool = True


KINDS = (
    Kind("mean latency", "mean_s", "mean_s", 0.10),
    Kind("median latency, simulated", "p50_s", "p50_s"),
    Kind("tail latency", "tail_s", "tail_s", 0.15),
    Kind("tail latency, simulated", "simulated_tail_s", "tail_s"),
    Kind("capacity", "capacity_rps", "capacity_rps", 0.05),
    Kind("busy share, simulated", "busy_ratio", "busy_ratio", is_ratio=False),
    Kind("accuracy", "accuracy", "accuracy", 0.03, is_ratio=False),
    Kind("time of a change", "change_s", "change_s"),
)


@dataclass(frozen=True, slots=True)
class Score:
    """The errors of one kind of prediction: how many, their mean size, mean, lowest and highest."""

    count: int
    error: float
    bias: float
    lowest: float
    highest: float


def errors(rows: Iterable[Row], kind: Kind, belief: str) -> list[float]:
    """The excess of each prediction that was made and measured; `belief` is `profiled` or `believed`."""
    made = []
    for row in rows:
        predicted = getattr(getattr(row, belief), kind.predicted)
        measured = getattr(row.measured, kind.measured)
        if predicted is not None and measured is not None and (measured > 0 or not kind.is_ratio):
            made.append(predicted / measured - 1 if kind.is_ratio else predicted - measured)
    return made


def score(found: Sequence[float]) -> Score | None:
    """The score of those errors; None without any."""
    if not found:
        return None
    values = np.asarray(found)
    return Score(
        len(values),
        float(np.mean(np.abs(values))),
        float(np.mean(values)),
        float(np.min(values)),
        float(np.max(values)),
    )


def scores(rows: Sequence[Row], belief: str) -> dict[str, dict[str, Score]]:
    """The scores by place and kind, of all that were both predicted and measured."""
    made: dict[str, dict[str, Score]] = {}
    for place in dict.fromkeys(row.place for row in rows):
        own = [row for row in rows if row.place == place]
        for kind in KINDS:
            if (found := score(errors(own, kind, belief))) is not None:
                made.setdefault(place, {})[kind.name] = found
    return made


def worse(
    last: Mapping[str, Mapping[str, Score]], now: Mapping[str, Mapping[str, Score]], slack: float
) -> list[str]:
    """What is predicted worse than before, by more than `slack` of the error, in words; empty if nothing is.

    A place or a kind that is no longer scored counts as worse.
    """
    found = []
    for place, kinds in last.items():
        for kind, before in kinds.items():
            after = now.get(place, {}).get(kind)
            if after is None:
                found.append(f"{place}: {kind} is not scored any more")
            elif after.error > before.error * (1 + slack):
                found.append(f"{place}: {kind} is off by {after.error:.3f}, was {before.error:.3f}")
    return found
