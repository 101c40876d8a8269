"""The rolled-up series: a pipeline's figures by the hour, kept long after its decisions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from ipa.adapters.store.packing import Row
from ipa.adapters.store.schema import SeriesRow
from ipa.adapters.store.segments import time_s
from ipa.control.audit.record import EntryKind, Recorded
from ipa.control.canonical import canonical_json
from ipa.model.decision import Action

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Figure:
    """The mean and the maximum of a quantity over the `count` ticks that observed it."""

    count: int = 0
    total: float = 0.0
    highest: float = 0.0

    @property
    def mean(self) -> float | None:
        """The mean; None without observations."""
        return self.total / self.count if self.count else None

    def __add__(self, other: Figure) -> Figure:
        return Figure(
            self.count + other.count,
            self.total + other.total,
            max(self.highest, other.highest) if self.count and other.count else self.highest or other.highest,
        )


@dataclass(frozen=True, slots=True)
class Hour:
    """The figures of a pipeline's hour from `start_s`, in seconds since 1970 UTC.

    `changes` of the `ticks` changed the configuration; `reasons` counts each reason. In `within_sla` of the
    `judged` ticks the observed latency was within the SLA; ticks without a latency or a plan are not judged.
    """

    start_s: int
    ticks: int = 0
    changes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    rate_rps: Figure = Figure()
    latency_s: Figure = Figure()
    cores: Figure = Figure()
    pas: Figure = Figure()
    judged: int = 0
    within_sla: int = 0

    def __add__(self, other: Hour) -> Hour:
        names = {*self.reasons, *other.reasons}
        return Hour(
            self.start_s,
            self.ticks + other.ticks,
            self.changes + other.changes,
            {name: self.reasons.get(name, 0) + other.reasons.get(name, 0) for name in sorted(names)},
            self.rate_rps + other.rate_rps,
            self.latency_s + other.latency_s,
            self.cores + other.cores,
            self.pas + other.pas,
            self.judged + other.judged,
            self.within_sla + other.within_sla,
        )

    @property
    def text(self) -> str:
        """The figures as canonical JSON, without zeros."""
        values = {name: each for name, each in asdict(self).items() if name != "start_s"}
        for name, each in values.items():
            if isinstance(each, dict) and "total" in each:
                values[name] = (
                    [each["count"], float(f"{each['total']:.6g}"), each["highest"]] if each["count"] else 0
                )
        return canonical_json({name: each for name, each in values.items() if each})


def hour_from(start_s: int, text: str) -> Hour:
    """Decode the text of an hour."""
    values: dict[str, Any] = json.loads(text)
    figures = {name: Figure(*each) for name, each in values.items() if isinstance(each, list)}
    return replace(Hour(start_s), **(values | figures))


def hours_of(rows: Iterable[Row]) -> list[Hour]:
    """Return the hours of the decisions among the rows."""
    found: dict[int, Hour] = {}
    for row in rows:
        values = Recorded(0, row.entry, "").values
        if values["kind"] != EntryKind.DECISION or row.decision is None:
            continue
        start_s = int(time_s(values["at"])) // HOUR_S * HOUR_S
        hour = _hour(start_s, values, row.decision)
        found[start_s] = found[start_s] + hour if start_s in found else hour
    return list(found.values())


def _hour(start_s: int, values: dict[str, Any], decision: str) -> Hour:
    """The figures of one tick."""
    facts = values["facts"]
    latency_s = facts.get("observed_latency_s")
    plan = json.loads(decision).get("plan") or {}
    is_judged = latency_s is not None and plan.get("sla_s") is not None
    return Hour(
        start_s,
        ticks=1,
        changes=int(facts.get("action") == Action.APPLY),
        reasons={values["what"]: 1},
        rate_rps=_figure(facts.get("observed_rate_rps")),
        latency_s=_figure(latency_s),
        cores=_figure(facts.get("cores")),
        pas=_figure(facts.get("pas")),
        judged=int(is_judged),
        within_sla=int(is_judged and latency_s <= plan["sla_s"]),
    )


def _figure(value: float | None) -> Figure:
    return Figure() if value is None else Figure(1, value, value)


def add(connection: Connection, pipeline: str, hours: Sequence[Hour]) -> None:
    """Add the figures to the stored ones."""
    for hour in hours:
        is_it = (SeriesRow.pipeline == pipeline) & (SeriesRow.start_s == hour.start_s)
        kept = connection.scalar(select(SeriesRow.body).where(is_it))
        if kept is None:
            connection.execute(
                insert(SeriesRow).values(pipeline=pipeline, start_s=hour.start_s, body=hour.text)
            )
        else:
            body = (hour_from(hour.start_s, kept) + hour).text
            connection.execute(update(SeriesRow).where(is_it).values(body=body))


def read(connection: Connection, pipeline: str, since_s: float, until_s: float) -> list[Hour]:
    """Return the hours that begin in [`since_s`, `until_s`), oldest first."""
    query = select(SeriesRow.start_s, SeriesRow.body).where(
        SeriesRow.pipeline == pipeline, SeriesRow.start_s >= since_s, SeriesRow.start_s < until_s
    )
    return [hour_from(*row) for row in connection.execute(query.order_by(SeriesRow.start_s))]


def has_older(connection: Connection, before_s: float) -> bool:
    """True if an hour that began before `before_s` is stored."""
    return (
        connection.scalar(select(SeriesRow.start_s).where(SeriesRow.start_s < before_s).limit(1)) is not None
    )


def prune(connection: Connection, before_s: float) -> int:
    """Delete the hours that began before `before_s`; return their number."""
    return connection.execute(delete(SeriesRow).where(SeriesRow.start_s < before_s)).rowcount
