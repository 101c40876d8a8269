"""Statistics of the store: size by kind, growth, and projected size under its retention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, Engine, func, select, text

from ipa.adapters.store.database import snapshot
from ipa.adapters.store.hot import ROWS, HotRows
from ipa.adapters.store.keeper import hot_bytes
from ipa.adapters.store.packing import pack
from ipa.adapters.store.schema import EntryRow, HeadRow, SegmentRow, StateRow
from ipa.adapters.store.segments import ROW_BYTES, read_segments, rows_in, stays, time_s
from ipa.adapters.store.segments import ROWS as SEGMENT_ROWS
from ipa.adapters.store.signing import Keyring
from ipa.control.audit.record import EntryKind, Recorded
from ipa.control.store_admin import (
    DAY_S,
    MONTH_DAYS,
    YEAR_DAYS,
    KindStats,
    Retention,
    RowKind,
    StoreStats,
)
from ipa.model.decision import Action

# The shortest time to compute a rate over.
LEAST_S = 60.0
# Most pipelines that the rate is computed from.
MOST_READ = 200
# Approximate bytes of a value of the state beside its text.
OVERHEAD_BYTES = 100


def stats_of(engine: Engine, retention: Retention, keyring: Keyring) -> StoreStats:
    """Return the statistics of the store."""
    sums = (SegmentRow.kept, SegmentRow.size_bytes, SegmentRow.decisions, SegmentRow.held, SegmentRow.changes)
    sealed = select(func.count(), *(func.coalesce(func.sum(each), 0) for each in sums))
    bodies = func.coalesce(func.sum(func.length(StateRow.body)), 0)
    is_decision = EntryRow.kind == "decision"
    actions = select(EntryRow.action, func.count()).where(is_decision).group_by(EntryRow.action)
    with snapshot(engine) as connection:
        segments, kept, sealed_bytes, recorded, held, changes = map(int, connection.execute(sealed).one())
        values, body_bytes = connection.execute(select(func.count(), bodies).select_from(StateRow)).one()
        hot = dict(connection.execute(actions).all())
        file_bytes, free_bytes, log_bytes = _file_bytes(connection)
        pipelines, per_day = _rate(connection)
        full, lasting = _cost(connection)
        stats = StoreStats(
            kinds={
                RowKind.HOT: KindStats(*hot_bytes(connection)),
                RowKind.SEALED: KindStats(kept, sealed_bytes),
                RowKind.OTHER: KindStats(values, int(body_bytes) + values * OVERHEAD_BYTES),
            },
            file_bytes=file_bytes,
            free_bytes=free_bytes,
            log_bytes=log_bytes,
            decisions=held + changes + sum(hot.values()),
            changes=changes + hot.get(Action.APPLY.value, 0),
            removed=recorded - held - changes,
            segments=segments,
            pipelines=pipelines,
            bytes_per_decision=full,
            lasting_bytes_per_decision=lasting,
            decisions_per_day=per_day,
            key_id=keyring.key_id,
            retention=retention,
        )
    return replace(
        stats,
        bytes_per_day=per_day * full if full is not None and per_day else None,
        projected_month_bytes=stats.projected_bytes(MONTH_DAYS),
        projected_year_bytes=stats.projected_bytes(YEAR_DAYS),
    )


def _cost(connection: Connection) -> tuple[float | None, float | None]:
    """Bytes per recorded decision, while every one is kept and once holds are removed.

    They are those of the newest whole segment, else of one of hot rows; None without any.
    """
    newest = read_segments(
        connection, SegmentRow.held > 0, order=SegmentRow.last_seq.desc(), most=1, blocks=True
    )
    whole = next(newest, None)
    rows = rows_in(whole) if whole is not None else _hot_rows(connection)
    decided = sum(row.decision is not None for row in rows)
    if not decided:
        return None, None
    lasting = [row for row in rows if stays(row.values)]
    lasting_bytes = len(pack(lasting)) + ROW_BYTES if lasting else 0
    return (len(pack(rows)) + ROW_BYTES) / decided, lasting_bytes / decided


def _hot_rows(connection: Connection) -> list[Recorded]:
    """The newest hot rows of the pipeline that recorded last."""
    last = connection.execute(select(EntryRow.pipeline).order_by(EntryRow.seq.desc()).limit(1)).scalar()
    query = ROWS.where(EntryRow.pipeline == last).order_by(EntryRow.number.desc()).limit(SEGMENT_ROWS)
    return [row for _, row in HotRows().read(connection, connection.execute(query).all()[::-1])]


def _rate(connection: Connection) -> tuple[int, float]:
    """The number of pipelines, and their decisions per day from hot rows."""
    pipelines = connection.scalar(select(func.count()).select_from(HeadRow)) or 0
    ends = func.count(), func.min(EntryRow.number), func.max(EntryRow.number)
    is_decision = EntryRow.kind == EntryKind.DECISION.value
    spans = select(EntryRow.pipeline, *ends).where(is_decision).group_by(EntryRow.pipeline)
    found = connection.execute(spans.limit(MOST_READ)).all()
    per_day = 0.0
    for name, count, *numbers in found:
        query = ROWS.where(EntryRow.pipeline == name, EntryRow.number.in_(numbers)).order_by(EntryRow.number)
        rows = HotRows().read(connection, connection.execute(query).all())
        times = [time_s(row.values["at"]) for _, row in rows]
        if times[-1] - times[0] >= LEAST_S:
            per_day += (count - 1) / (times[-1] - times[0]) * DAY_S
    return pipelines, per_day * max(1.0, pipelines / MOST_READ)


def _file_bytes(connection: Connection) -> tuple[int, int, int]:
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
