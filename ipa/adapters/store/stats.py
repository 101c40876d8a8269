"""Statistics of the store: size by kind, growth, and projected size under its retention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, case, func, select, text

from ipa.adapters.store.database import snapshot
from ipa.adapters.store.hot import ROWS as HOT_ROWS
from ipa.adapters.store.hot import HotRows
from ipa.adapters.store.keeper import HOT, HOT_ROW_BYTES
from ipa.adapters.store.packing import Row, pack
from ipa.adapters.store.schema import DecisionRow, EntryRow, HeadRow, SegmentRow, SeriesRow, StoreTable
from ipa.adapters.store.segments import ROW_BYTES, ROWS, last_sealed, segment_of, stays, time_s, with_blocks
from ipa.adapters.store.signing import Keyring
from ipa.control.audit.record import Recorded
from ipa.control.store_admin import DAY_S, KindStats, Retention, RowKind, StoreStats
from ipa.model.decision import Action

MONTH_DAYS, YEAR_DAYS, DAY_HOURS = 30, 365, 24
# The shortest time to compute a rate over.
LEAST_S = 60.0
# Segments that are thinned on trial, to estimate the kept part.
TRIED = 4
# Pipelines that the rate is computed from.
MOST_READ = 200
# Approximate bytes of a row of other tables beside its texts; of an hour of the series before the first.
OVERHEAD_BYTES, HOUR_BYTES = 100, 300
RECORD = (DecisionRow, EntryRow, SegmentRow, SeriesRow)


@dataclass(frozen=True, slots=True)
class _Cost:
    """Bytes per recorded decision: while every decision is kept, and after holds are removed.

    `changed_ratio` of the decisions are changes. None without rows to estimate from.
    """

    full_bytes: float | None
    stay_bytes: float | None
    changed_ratio: float


def stats_of(engine: Engine, retention: Retention, keyring: Keyring, *, is_bounded: bool) -> StoreStats:
    """Return the statistics of the store."""
    with snapshot(engine) as connection:
        kinds = {
            RowKind.HOT: _hot(connection),
            RowKind.SEALED: _counted(connection, SegmentRow.kept, SegmentRow.size_bytes),
            RowKind.LEGACY: _legacy(connection),
            RowKind.SERIES: _texts(connection, SeriesRow, SeriesRow.body),
            RowKind.OTHER: _others(connection),
        }
        file_bytes, free_bytes, log_bytes = _file(connection)
        pipelines, per_day = _rate(connection)
        cost = _cost(connection)
        full, stay = cost.full_bytes, cost.stay_bytes
        count = connection.execute(
            select(
                func.count(),
                func.coalesce(func.sum(SegmentRow.decisions), 0),
                func.coalesce(func.sum(SegmentRow.held), 0),
                func.coalesce(func.sum(SegmentRow.changes), 0),
                func.min(case((SegmentRow.held > 0, SegmentRow.first_s))),
                func.min(case((SegmentRow.changes > 0, SegmentRow.first_s))),
            ).select_from(SegmentRow)
        ).one()
        segment_count, recorded, held, changes, first_hold_s, first_change_s = count
        hot = dict(
            connection.execute(
                select(EntryRow.action, func.count())
                .where(EntryRow.action.is_not(None))
                .group_by(EntryRow.action)
            ).all()
        )
        legacy = kinds[RowKind.LEGACY].rows
        stats = StoreStats(
            kinds=kinds,
            file_bytes=file_bytes,
            free_bytes=free_bytes,
            log_bytes=log_bytes,
            decisions=int(held + changes) + sum(hot.values()) + legacy,
            changes=int(changes) + hot.get(Action.APPLY.value, 0),
            removed=int(recorded - held - changes),
            segments=segment_count,
            pipelines=pipelines,
            bytes_per_decision=full,
            bytes_per_change=stay / cost.changed_ratio if stay is not None and cost.changed_ratio else None,
            decisions_per_day=per_day,
            bytes_per_day=per_day * full if full is not None and per_day else None,
            lasting_bytes_per_decision=stay,
            projected_month_bytes=None,
            projected_year_bytes=None,
            oldest_decision_at=_at(first_hold_s) or _oldest_row(connection),
            oldest_change_at=_at(first_change_s),
            key_id=keyring.key_id,
            is_bounded=is_bounded,
            retention=retention,
        )
    return replace(
        stats,
        projected_month_bytes=project(stats, MONTH_DAYS),
        projected_year_bytes=project(stats, YEAR_DAYS),
    )


def project(stats: StoreStats, days: int, pipelines: int | None = None) -> float | None:
    """Return the bytes of the record after `days` days at this rate, under the store's retention.

    `pipelines` is the number of such pipelines; by default those in the store. None without a rate.
    """
    if stats.bytes_per_decision is None or not stats.decisions_per_day or not stats.pipelines:
        return None
    pipelines, retention = pipelines or stats.pipelines, stats.retention
    per_day = stats.decisions_per_day * pipelines / stats.pipelines
    hot = stats.kinds[RowKind.HOT]
    full_days = min(days, retention.decisions_s / DAY_S)
    full = full_days * per_day * stats.bytes_per_decision
    full += pipelines * (HOT + ROWS) * (hot.bytes / hot.rows if hot.rows else 0.0)
    if retention.decisions_bytes is not None and full > retention.decisions_bytes:
        full_days *= retention.decisions_bytes / full
        full = float(retention.decisions_bytes)
    lasting_days = days if retention.changes_s is None else min(days, retention.changes_s / DAY_S)
    lasting = max(lasting_days - full_days, 0.0) * per_day * (stats.lasting_bytes_per_decision or 0.0)
    series = stats.kinds[RowKind.SERIES]
    hour_bytes = series.bytes / series.rows if series.rows else HOUR_BYTES
    hours = DAY_HOURS * min(days, retention.series_s / DAY_S)
    return full + lasting + pipelines * hours * hour_bytes


def _cost(connection: Connection) -> _Cost:
    """The cost from whole and thinned segments; without any, from packing some rows on trial."""
    whole, thinned = (
        connection.execute(
            select(
                func.sum(SegmentRow.size_bytes), func.sum(SegmentRow.decisions), func.sum(SegmentRow.changes)
            ).where(condition)
        ).one()
        for condition in (SegmentRow.held > 0, SegmentRow.held == 0)
    )
    rows, blocks = _tried(connection)
    tried = sum(row.decision is not None for row in rows)
    full: float | None = float(whole[0] / whole[1]) if whole[1] else None
    if full is None and tried:
        full = (len(pack(rows)) + ROW_BYTES) / tried
    if thinned[1]:
        return _Cost(full, float(thinned[0] / thinned[1]), float(thinned[2] / thinned[1]))
    if not tried:
        return _Cost(full, None, 0.0)
    stay = [row for row in rows if stays(row)]
    stay_bytes = (len(pack(stay)) if stay else 0) + ROW_BYTES * max(len(stay) / ROWS, blocks / len(rows))
    return _Cost(full, stay_bytes / tried, sum(row.decision is not None for row in stay) / tried)


def _tried(connection: Connection) -> tuple[list[Row], int]:
    """Some rows of one pipeline, and the number of their segments: the newest ones, or hot rows."""
    newest = with_blocks().where(SegmentRow.held > 0).order_by(SegmentRow.last_seq.desc())
    found = connection.execute(newest.limit(1)).all()
    if found:
        mine = newest.where(SegmentRow.pipeline == found[0].pipeline).limit(TRIED)
        blocks = [segment_of(row) for row in connection.execute(mine)]
        return [row for each in reversed(blocks) for row in each.rows()], len(blocks)
    last = connection.execute(HOT_ROWS.order_by(EntryRow.seq.desc()).limit(1)).first()
    if last is None:
        return [], 0
    query = HOT_ROWS.where(EntryRow.pipeline == last.pipeline).order_by(EntryRow.number.desc()).limit(ROWS)
    return HotRows().rows(connection, connection.execute(query).all()[::-1]), 1


def _rate(connection: Connection) -> tuple[int, float]:
    """The number of pipelines, and their decisions per day from hot rows."""
    names = connection.scalars(select(HeadRow.pipeline)).all()
    per_day, read = 0.0, 0
    for name in names[:MOST_READ]:
        ends = [_end(connection, name, newest=each) for each in (False, True)]
        decisions = connection.scalar(
            select(func.count()).where(EntryRow.pipeline == name, EntryRow.kind == "decision")
        )
        span_s = ends[1] - ends[0]
        read += 1
        if not decisions:
            newest = last_sealed(connection, name)
            span_s, decisions = (newest.last_s - newest.first_s, newest.decisions) if newest else (0.0, 0)
        if span_s >= LEAST_S and decisions:
            per_day += (decisions - 1) / span_s * DAY_S
    return len(names), per_day * len(names) / read if read else 0.0


def _end(connection: Connection, pipeline: str, *, newest: bool) -> float:
    """The time of the oldest or the newest decision in hot rows; 0 if there is none."""
    order = EntryRow.number.desc() if newest else EntryRow.number
    query = (
        HOT_ROWS.where(EntryRow.pipeline == pipeline, EntryRow.kind == "decision").order_by(order).limit(1)
    )
    rows = HotRows().rows(connection, connection.execute(query).all())
    return time_s(Recorded(0, rows[0].entry, "").values["at"]) if rows else 0.0


def _oldest_row(connection: Connection) -> str | None:
    query = HOT_ROWS.where(EntryRow.kind == "decision").order_by(EntryRow.seq).limit(1)
    rows = HotRows().rows(connection, connection.execute(query).all())
    return str(Recorded(0, rows[0].entry, "").values["at"]) if rows else None


def _at(time_s: float | None) -> str | None:
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC).isoformat()


def _hot(connection: Connection) -> KindStats:
    packed = EntryRow.packed.is_not(None)
    rows, size = connection.execute(
        select(func.count(), func.coalesce(func.sum(func.length(EntryRow.packed)), 0)).where(packed)
    ).one()
    return KindStats(rows, int(size) + rows * HOT_ROW_BYTES)


def _legacy(connection: Connection) -> KindStats:
    """Legacy rows, with their size estimated from a sample: there may be gigabytes."""
    rows = connection.scalar(select(func.count()).select_from(DecisionRow)) or 0
    some = connection.scalars(select(func.length(DecisionRow.body)).limit(MOST_READ)).all()
    return KindStats(rows, round(rows * sum(some) / len(some)) if some else 0)


def _counted(connection: Connection, rows: Any, size: Any) -> KindStats:
    found = connection.execute(
        select(func.coalesce(func.sum(rows), 0), func.coalesce(func.sum(size), 0))
    ).one()
    return KindStats(int(found[0]), int(found[1]))


def _texts(connection: Connection, table: Any, *columns: Any) -> KindStats:
    """The rows of a table, with the bytes of the given columns."""
    size = sum(
        (func.coalesce(func.sum(func.length(column)), 0) for column in columns), start=func.coalesce(0, 0)
    )
    rows, total = connection.execute(select(func.count(), size).select_from(table)).one()
    return KindStats(rows, int(total) + rows * OVERHEAD_BYTES)


def _others(connection: Connection) -> KindStats:
    found = [
        _texts(connection, table, *(column for column in table.c if column.name == "body"))
        for table in StoreTable.metadata.sorted_tables
        if table.name not in {each.__tablename__ for each in RECORD}
    ]
    return KindStats(sum(each.rows for each in found), sum(each.bytes for each in found))


def _file(connection: Connection) -> tuple[int, int, int]:
    """The bytes of the database, of its free pages, and of the write-ahead log."""
    if connection.dialect.name == "postgresql":
        size = connection.scalar(text("SELECT pg_database_size(current_database())"))
        return int(size or 0), 0, 0
    pages, free, page_bytes = (
        int(connection.scalar(text(f"PRAGMA {name}")) or 0)
        for name in ("page_count", "freelist_count", "page_size")
    )
    log = Path(f"{connection.engine.url.database or ''}-wal")
    return pages * page_bytes, free * page_bytes, log.stat().st_size if log.is_file() else 0
