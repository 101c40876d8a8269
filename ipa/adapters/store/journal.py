"""The record in the database: rows are appended, and read as hot rows or from sealed segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from ipa.adapters.store.hot import ROWS, HotRow, HotRows, fold
from ipa.adapters.store.packing import Row
from ipa.adapters.store.schema import DecisionRow, EntryRow, HeadRow, SegmentRow
from ipa.adapters.store.segments import HEADERS, SegmentReader, signed_checkpoint_of
from ipa.control.audit.checkpoints import SignedCheckpoint
from ipa.control.audit.record import MARK, NOTHING, Entry, EntryKind, Head, Recorded
from ipa.model.decision import Action, Decision
from ipa.model.errors import UnavailableError

# Rows of one read: enough to be quick, few enough for memory.
BATCH = 500


@dataclass(frozen=True, slots=True)
class Item:
    """An entry to record, with the decision and its text if it is of a decision."""

    entry: Entry
    decision: Decision | None = None
    text: str | None = None


class Journal:
    """The record. Thread-safe; each method works within the given transaction."""

    def __init__(self) -> None:
        self.hot = HotRows()
        self.sealed = SegmentReader()

    def append(self, connection: Connection, items: Sequence[Item]) -> dict[str, HotRow]:
        """Append the items to their pipelines' chains, in order. Return the newest row by pipeline.

        The transaction must hold the record's lock, so that `seq` has the order of the commits: a reader that
        has read up to one has missed none before it. Give the result to `hot.remember` after the commit.
        """
        seq = newest_seq(connection)
        names = sorted({item.entry.key for item in items})
        ends = {row.pipeline: row for row in connection.execute(_ENDS, {"names": names})}
        moved: dict[str, Head] = {}
        known: dict[str, HotRow] = {}
        rows: list[dict[str, object]] = []
        for item in items:
            name = item.entry.key
            end = ends.get(name)
            head = moved.get(name)
            if head is None:
                kept = Head(end.number, end.digest) if end else _last(connection, name)
                head = kept or Head(0, NOTHING)
            seq, number = seq + 1, head.number + 1
            row = Row(item.entry.text(seq, number, head.digest), item.text)
            packed, newest = fold(row, number, known.get(name) or self._before(end))
            known[name] = newest
            moved[name] = Head(number, newest.digest)
            decision = item.decision
            rows.append(
                {
                    "seq": seq,
                    "pipeline": name,
                    "number": number,
                    "kind": item.entry.kind.value,
                    "decision_id": item.entry.decision_id,
                    "body": "",
                    "digest": newest.digest,
                    "tick": decision.tick if decision else None,
                    "action": decision.action.value if decision else None,
                    "frame": newest.frame,
                    "packed": packed,
                }
            )
        connection.execute(_INSERT, rows)
        old = [
            {"its": name, "to": it.number, "mark": it.digest} for name, it in moved.items() if name in ends
        ]
        if old:
            connection.execute(_MOVE, old)
        new = [{"pipeline": name, **asdict(it)} for name, it in moved.items() if name not in ends]
        if new:
            connection.execute(insert(HeadRow), new)
        return known

    def _before(self, end: Any) -> HotRow | None:
        """The row before the next one if it is cached and its group is not sealed."""
        known = self.hot.newest(end.pipeline) if end is not None else None
        if known is None or (known.number, known.digest) != (end.number, end.row_digest):
            return None
        return known if known.frame > (end.sealed or 0) else None

    def texts(self, connection: Connection, decision_ids: Sequence[str]) -> dict[str, str]:
        """Return the texts of the given decisions that are in hot rows, by their ids."""
        return {name: text for name, (_, text) in self._newest(connection, decision_ids).items()}

    def _newest(self, connection: Connection, decision_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Record and text of the given decisions that are in hot rows, by their ids."""
        found = connection.execute(_DECISIONS, {"names": decision_ids}).all()
        try:
            rows = self.hot.rows(connection, found)
        except ValueError as error:
            names = ", ".join(sorted({each.pipeline for each in found}))
            raise UnavailableError(
                f"the store holds a row of {names} that cannot be read: {error}",
                hint="`ipa history PIPELINE --verify` names it; restore the store from a backup.",
            ) from error
        return {
            each.decision_id: (each.pipeline, row.decision or "")
            for each, row in zip(found, rows, strict=True)
        }

    def entries(
        self, connection: Connection, after: int, limit: int, pipeline: str | None = None
    ) -> list[Recorded]:
        """Return the `limit` entries after `after`, oldest first; damaged ones are logged and omitted."""
        query = ROWS.where(EntryRow.seq > after)
        headers = select(*HEADERS).where(SegmentRow.last_seq > after, SegmentRow.kept > 0)
        if pipeline is not None:
            query = query.where(EntryRow.pipeline == pipeline)
            headers = headers.where(SegmentRow.pipeline == pipeline)
        newest = connection.execute(query.order_by(EntryRow.seq).limit(limit)).all()
        end = newest[-1].seq if len(newest) == limit else None
        found: list[Recorded] = []
        for header in connection.execute(headers.order_by(SegmentRow.first_seq)):
            if end is not None and header.first_seq > end:
                break
            mine = self.sealed.entries(connection, header)
            found = sorted((*found, *(each for each in mine if each.seq > after)), key=_seq)[:limit]
            if len(found) == limit:
                end = found[-1].seq if end is None else min(end, found[-1].seq)
        hot = [
            Recorded(each.seq, row.entry, each.digest)
            for each, row in self.hot.readable(connection, newest)
            if end is None or each.seq <= end
        ]
        return sorted((*found, *hot), key=_seq)[:limit]

    def checkpoints(
        self, connection: Connection, after: int, pipeline: str | None
    ) -> Iterator[SignedCheckpoint]:
        """Yield the checkpoints after `after` of segments from which retention removed rows."""
        query = select(*HEADERS).where(
            SegmentRow.last_seq > after, SegmentRow.kept <= SegmentRow.last - SegmentRow.first
        )
        if pipeline is not None:
            query = query.where(SegmentRow.pipeline == pipeline)
        for row in _paged_rows(connection, query.order_by(SegmentRow.first_seq)):
            yield signed_checkpoint_of(row)

    def decisions(
        self, connection: Connection, pipeline: str, before_tick: int | None, *, applied_only: bool
    ) -> Iterator[str]:
        """Yield the texts of decisions, newest first; with `before_tick` those of earlier ticks.

        It may yield others too, from a segment whose rows are not canonical.
        """
        yield from self._hot_decisions(connection, pipeline, before_tick, applied_only=applied_only)
        query = select(DecisionRow.body).where(DecisionRow.pipeline == pipeline)
        headers = select(*HEADERS).where(SegmentRow.pipeline == pipeline, SegmentRow.kept > 0)
        if before_tick is not None:
            query = query.where(DecisionRow.tick < before_tick)
            headers = headers.where(SegmentRow.first_tick < before_tick)
        if applied_only:
            query = query.where(DecisionRow.action == Action.APPLY.value)
            headers = headers.where(SegmentRow.changes > 0)
        for row in _paged_rows(connection, query.order_by(DecisionRow.seq.desc())):
            yield row.body
        for header in _paged_rows(connection, headers.order_by(SegmentRow.first.desc())):
            yield from self.sealed.decisions(connection, header, before_tick, applied_only=applied_only)

    def _hot_decisions(
        self, connection: Connection, pipeline: str, before_tick: int | None, *, applied_only: bool
    ) -> Iterator[str]:
        """The texts of decisions in hot rows, newest first, read by group."""
        newest = ROWS.where(EntryRow.pipeline == pipeline).order_by(EntryRow.number.desc()).limit(1)
        last = connection.execute(newest).first()
        while last is not None and last.frame is not None:
            group = ROWS.where(
                EntryRow.pipeline == pipeline, EntryRow.number.between(last.frame, last.number)
            )
            found = connection.execute(group.order_by(EntryRow.number)).all()
            wanted = any(_is_wanted(each, before_tick, applied_only=applied_only) for each in found)
            for each, row in reversed(self.hot.readable(connection, found) if wanted else []):
                if row.decision is not None and _is_wanted(each, before_tick, applied_only=applied_only):
                    yield row.decision
            last = connection.execute(newest.where(EntryRow.number < last.frame)).first()

    def decision(self, connection: Connection, decision_id: str) -> tuple[str, str] | None:
        """Return record and text of the decision; None if there is none, or it was removed."""
        found = self._newest(connection, [decision_id])
        if decision_id in found:
            return found[decision_id]
        for header in self._segments_of(connection, decision_id):
            text = self.sealed.decision(connection, header, decision_id)
            if text is not None:
                return header.pipeline, text
        return None

    def _segments_of(self, connection: Connection, decision_id: str) -> Iterator[Any]:
        """The segments that may hold the decision. An id is pipeline, tick and more, joined by hyphens."""
        parts = decision_id.split("-")
        for at in range(1, len(parts)):
            if not parts[at].isascii() or not parts[at].isdigit():
                continue
            # The id of a decision on a write's outcome has the tick before it.
            tick, name = int(parts[at][:15]), "-".join(parts[:at])
            query = select(*HEADERS).where(
                _is_record_of(name),
                SegmentRow.first_tick <= tick + 1,
                SegmentRow.last_tick >= tick,
                SegmentRow.kept > 0,
            )
            yield from connection.execute(query.order_by(SegmentRow.last_seq.desc())).all()


def _is_record_of(name: str) -> Any:
    """The condition that a segment is of a record of the pipeline, or PIPELINE@POLICY, of that name."""
    pipeline, at, policy = name.partition("@")
    own = SegmentRow.pipeline.startswith(pipeline + MARK, autoescape=True)
    own &= SegmentRow.pipeline.endswith(at + policy, autoescape=True)
    return (SegmentRow.pipeline == name) | own


def _is_wanted(row: Any, before_tick: int | None, *, applied_only: bool) -> bool:
    if row.kind != EntryKind.DECISION or (applied_only and row.action != Action.APPLY):
        return False
    return before_tick is None or row.tick is None or row.tick < before_tick


def _seq(entry: Recorded) -> int:
    return entry.seq


def _paged_rows(connection: Connection, query: Any) -> Iterator[Any]:
    """The rows of the query, read as they are consumed."""
    with connection.execute(query, execution_options={"yield_per": BATCH}) as rows:
        yield from rows


# Built once: building a statement takes longer than reading a row.
_INSERT = insert(EntryRow)
_NEWEST = select(
    select(func.max(EntryRow.seq)).scalar_subquery(), select(func.max(SegmentRow.last_seq)).scalar_subquery()
)
_DECISIONS = ROWS.where(
    EntryRow.decision_id.in_(bindparam("names", expanding=True)), EntryRow.kind == EntryKind.DECISION.value
).order_by(EntryRow.pipeline, EntryRow.number)
# The heads, the digests of their rows, and the last sealed numbers of their pipelines.
_ENDS = (
    select(
        HeadRow.pipeline,
        HeadRow.number,
        HeadRow.digest,
        EntryRow.digest.label("row_digest"),
        select(func.max(SegmentRow.last))
        .where(SegmentRow.pipeline == HeadRow.pipeline)
        .correlate(HeadRow)
        .scalar_subquery()
        .label("sealed"),
    )
    .outerjoin(EntryRow, (EntryRow.pipeline == HeadRow.pipeline) & (EntryRow.number == HeadRow.number))
    .where(HeadRow.pipeline.in_(bindparam("names", expanding=True)))
)
_MOVE = (
    update(HeadRow.__table__)  # type: ignore[arg-type]
    .where(HeadRow.pipeline == bindparam("its"))
    .values(number=bindparam("to"), digest=bindparam("mark"))
)


def head_of(connection: Connection, pipeline: str) -> Head | None:
    """Return the head of the pipeline; None if it has none."""
    row = connection.execute(
        select(HeadRow.number, HeadRow.digest).where(HeadRow.pipeline == pipeline)
    ).first()
    return Head(*row) if row else None


def newest_seq(connection: Connection) -> int:
    """Return the number of the newest entry of all; 0 if there is none."""
    return max(seq or 0 for seq in connection.execute(_NEWEST).one())


def _last(connection: Connection, pipeline: str) -> Head | None:
    """The last entry of the pipeline's chain; None if it has none."""
    newest = (
        select(EntryRow.number, EntryRow.digest)
        .where(EntryRow.pipeline == pipeline)
        .order_by(EntryRow.number.desc())
        .limit(1)
    )
    row = connection.execute(newest).first()
    if row is None:
        sealed = select(SegmentRow.last, SegmentRow.head).where(SegmentRow.pipeline == pipeline)
        row = connection.execute(sealed.order_by(SegmentRow.last.desc()).limit(1)).first()
    return Head(row[0], row[1]) if row else None
