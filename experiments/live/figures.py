"""The figures of a cell, and the goals."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from experiments.demo.summary import Decision, changes, quantile_s
from experiments.live.programme import Programme

OURS, CHEAPEST = "ours", "static-cheapest"
QUIET, BUSY = "quiet", "busy"
# Ours has these wherever the quickest variants alone have CARRIED_RATIO in time.
CARRIED_RATIO = 0.95
WITHIN_GOAL = {QUIET: 0.95, BUSY: 0.90}
SETTLED_GOAL = {QUIET: 0.99, BUSY: 0.97}
GOODPUT_GOAL = 0.90
# Beyond this a cell says more of its sender than of what was sent to.
MOST_LAG_S = 0.05
MISSING = "hold.metrics_missing"
BLIND = (MISSING, "hold.metrics_stale", "hold.metrics_invalid")


@dataclass(frozen=True, slots=True)
class Figures:
    """One cell: shares of the requests sent during the steps, and what became of all, the overload included.

    `goodput_ratio` is of the requests answered in time a second, of those sent SETTLED_S after the overload's
    start or later, to the capacity; `goodput_whole_ratio` that of the whole overload. None: nothing was sent,
    or answered. Of a hundred requests one was sent later than `sender_lag_s` after it was due.
    """

    pipeline: str
    world: str
    policy: str
    capacity_rps: float
    sent: int
    within_ratio: float | None
    settled_ratio: float | None
    settled_sent: int
    accuracy: float | None
    goodput_ratio: float | None
    goodput_whole_ratio: float | None
    cores_mean: float
    ticks: int
    blind_ticks: int
    variant_switches: int
    replica_or_core_changes: int
    batch_changes: int
    late: int
    dropped: int
    failed: Mapping[str, int]
    load_average: float
    sender_lag_s: float

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CellRecord:
    """A cell's requests, the scores of the answered, the decisions, cores paid, and load of the machine."""

    requests: Sequence[Mapping[str, Any]]
    scores: Sequence[float]
    decisions: Sequence[Decision]
    core_seconds: float
    load_average: float


def figures_of(
    pipeline: str, world: str, policy: str, programme: Programme, sla_s: float, record: CellRecord
) -> Figures:
    """The figures of a cell."""
    overload = programme.phases[-1]
    in_time = [it["outcome"] == "answered" and it["latency_s"] <= sla_s for it in record.requests]
    times_s = [it["at_s"] for it in record.requests]

    def share(chosen: Iterable[bool]) -> float | None:
        return _mean([float(right) for right, is_chosen in zip(in_time, chosen, strict=True) if is_chosen])

    def goodput(settled: bool) -> float | None:
        begins, ends = overload.start_s, overload.end_s
        if settled:
            begins = next((at for at in range(begins, ends) if overload.settled(at)), ends)
        right = sum(ok for ok, at_s in zip(in_time, times_s, strict=True) if begins <= at_s < ends)
        return right / (ends - begins) / programme.capacity_rps if ends > begins else None

    is_settled = [any(it.settled(at_s) for it in programme.phases[1:-1]) for at_s in times_s]
    answered = [it for it in record.requests if it["outcome"] == "answered"]
    failed = Counter(_kind(it) for it in record.requests if it["outcome"] == "failed")
    # Until the first requests are seen there is no load to know.
    seeing = list(itertools.dropwhile(lambda it: it["reason"] == MISSING, record.decisions))
    return Figures(
        pipeline=pipeline,
        world=world,
        policy=policy,
        capacity_rps=programme.capacity_rps,
        sent=len(record.requests),
        within_ratio=share(at_s < overload.start_s for at_s in times_s),
        settled_ratio=share(is_settled),
        settled_sent=sum(is_settled),
        accuracy=_mean(record.scores),
        goodput_ratio=goodput(settled=True),
        goodput_whole_ratio=goodput(settled=False),
        cores_mean=record.core_seconds / programme.duration_s,
        ticks=len(record.decisions),
        blind_ticks=sum(decision["reason"] in BLIND for decision in seeing),
        late=sum(it["latency_s"] > sla_s for it in answered),
        dropped=sum(it["outcome"] == "dropped" for it in record.requests),
        failed=dict(failed),
        load_average=record.load_average,
        sender_lag_s=quantile_s([it["lag_s"] for it in record.requests], 0.99) or 0.0,
        **changes(record.decisions),
    )


def missed(cells: Sequence[Figures]) -> Iterator[str]:
    """The figures that cannot be believed, and the goals that ours misses, each as a sentence."""
    for cell in cells:
        if cell.sender_lag_s > MOST_LAG_S:
            words = f"the sender itself was {cell.sender_lag_s:.3f} s late with one request of a hundred"
            yield f"{cell.pipeline}, {cell.world}, {cell.policy}: {words}"
    for ours in cells:
        if ours.policy != OURS:
            continue
        others = [
            it for it in cells if (it.pipeline, it.world) == (ours.pipeline, ours.world) and it is not ours
        ]
        yield from (f"{ours.pipeline}, {ours.world}: {words}" for words in _missed(ours, others))


def _missed(ours: Figures, others: Sequence[Figures]) -> Iterator[str]:
    cheapest = next((it for it in others if it.policy == CHEAPEST), None)
    # Without the comparison the load is taken to be carried, since its peak is below the capacity.
    if cheapest is None or _at_least(cheapest.within_ratio, CARRIED_RATIO):
        yield from _below("within the SLA", ours.within_ratio, WITHIN_GOAL[ours.world])
        yield from _below("within the SLA when settled", ours.settled_ratio, SETTLED_GOAL[ours.world])
    for other in others:
        if _at_least(other.within_ratio, ours.within_ratio) and not _at_least(ours.accuracy, other.accuracy):
            yield (
                f"accuracy {_text(ours.accuracy)}, {other.policy} has {_text(other.accuracy)} "
                f"and no fewer in time ({_text(other.within_ratio)})"
            )
    yield from _below("goodput of the capacity", ours.goodput_ratio, GOODPUT_GOAL)
    if ours.blind_ticks:
        yield f"{ours.blind_ticks} of {ours.ticks} ticks blind"


def _below(words: str, value: float | None, goal: float) -> Iterator[str]:
    if not _at_least(value, goal):
        yield f"{words} {_text(value)}, goal {goal:.0%}"


def _at_least(value: float | None, least: float | None) -> bool:
    """True if the value is not below the least; a missing one is below all but another missing one."""
    return least is None or (value is not None and value >= least)


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _kind(request: Mapping[str, Any]) -> str:
    """The error's class, or the status, of a request that failed."""
    return str(request["detail"] if request["status"] == 0 else request["status"])
