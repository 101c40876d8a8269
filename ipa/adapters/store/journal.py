"""The record in the database: rows are appended, and read as hot rows or from sealed segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, func, insert, select, union, update

from ipa.adapters.store.codec import DECISION
from ipa.adapters.store.database import RECORD_LOCK, reading, snapshot, writing
from ipa.adapters.store.group_commit import GroupCommit
from ipa.adapters.store.hot import ROWS, HotRow, HotRows, fold
from ipa.adapters.store.packing import Row
from ipa.adapters.store.schema import EntryRow, HeadRow, SegmentRow
from ipa.adapters.store.segments import HEADERS, SegmentReader, checkpoint_of
from ipa.adapters.store.state import RecordTable
from ipa.control.audit.checkpoints import SignedCheckpoint
from ipa.control.audit.record import MARK, NOTHING, Entry, EntryKind, Head, Recorded, of_decision
from ipa.control.canonical import digest
from ipa.control.loop.compute_lock import COMPUTE_LOCK
from ipa.model.decision import Action, Decision
from ipa.model.errors import ConfigurationError, ConflictError, NotFoundError, UnavailableError

# Rows of one read: enough to be quick, few enough for memory.
BATCH = 500


@dataclass(frozen=True, slots=True)
class _Item:
    """An entry to record, with the decision and its text if it is of a decision."""

    entry: Entry
    decision: Decision | None = None
    text: str | None = None


class Journal:
    """The record of all pipelines: entries, with the decisions among them. Thread-safe."""

    def __init__(self, engine: Engine, records: RecordTable) -> None:
        self._engine, self.records = engine, records
        self._hot, self._sealed = HotRows(), SegmentReader()
        self._decided = GroupCommit(self._record_all, lambda: COMPUTE_LOCK.is_wanted)
        # The number of failed writes to the record.
        self.failures = 0

    def record(self, decision: Decision) -> None:
        """Record the decision durably, with its entry.

        Recording the same decision again does nothing (a retry after an unknown outcome). ConflictError:
        another decision has its id. UnavailableError: it is not on disk.
        """
        with self._counted():
            self._decided.add((decision, DECISION.text(decision)))

    def note(self, entry: Entry) -> None:
        """Append the entry to the record durably; UnavailableError: it is not on disk."""
        with self._recording() as connection:
            known = self._append_entry(connection, entry)
        self._hot.remember(known)

    def _record_all(self, decided: Sequence[tuple[Decision, str]]) -> None:
        """Record the decisions, each with its text, in one transaction."""
        with writing(self._engine, RECORD_LOCK) as connection:
            found = self._newest(connection, [decision.decision_id for decision, _ in decided])
            kept = {name: text for name, (_, text) in found.items()}
            new: dict[str, _Item] = {}
            for decision, body in decided:
                name = decision.decision_id
                if name not in kept:
                    kept[name] = body
                    new[name] = _Item(of_decision(decision, digest(body)), decision, body)
                elif kept[name] != body:
                    raise ConflictError(f"another decision is already recorded as {name!r}")
            if not new:
                return
            known = self._append(connection, list(new.values()))
        self._hot.remember(known)

    @contextmanager
    def _recording(self) -> Iterator[Connection]:
        """A transaction that writes the record; failures are counted."""
        with self._counted(), writing(self._engine, RECORD_LOCK) as connection:
            yield connection

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except (UnavailableError, ConfigurationError):
            self.failures += 1
            raise

    def _append_entry(self, connection: Connection, entry: Entry) -> dict[str, HotRow]:
        return self._append(connection, [_Item(entry)])

    def _append(self, connection: Connection, items: Sequence[_Item]) -> dict[str, HotRow]:
        """Append the items to their pipelines' chains, in order. Return the newest row by pipeline.

        The transaction must hold the record's lock, so that `seq` has the order of the commits: a reader that
        has read up to one has missed none before it. The caller caches the result after the commit.
        """
        seq = max(seq or 0 for seq in connection.execute(_NEWEST).one())
        entries = [replace(item.entry, record=self.records.of(item.entry.pipeline)) for item in items]
        names = sorted({entry.key for entry in entries})
        ends = {row.pipeline: row for row in connection.execute(_ENDS, {"names": names})}
        moved: dict[str, Head] = {}
        known: dict[str, HotRow] = {}
        rows: list[dict[str, object]] = []
        for entry, item in zip(entries, items, strict=True):
            name, decision = entry.key, item.decision
            end = ends.get(name)
            head = moved.get(name)
            if head is None:
                kept = Head(end.number, end.digest) if end else _last(connection, name)
                head = kept or Head(0, NOTHING)
            seq, number = seq + 1, head.number + 1
            row = Row(entry.text(seq, number, head.digest), item.text)
            packed, newest = fold(row, number, known.get(name) or self._before(end))
            known[name] = newest
            moved[name] = Head(number, newest.digest)
            rows.append(
                {
                    "seq": seq,
                    "pipeline": name,
                    "number": number,
                    "kind": entry.kind.value,
                    "decision_id": entry.decision_id,
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
        """The row before the next one if it is cached and not sealed."""
        known = self._hot.newest(end.pipeline) if end is not None else None
        is_it = known is not None and (known.number, known.digest) == (end.number, end.row_digest)
        return known if is_it else None

    def entries(self, after: int, limit: int, pipeline: str | None = None) -> Sequence[Recorded]:
        """Return the `limit` entries after `after`, oldest first, of the pipeline or of all.

        Damaged hot rows are logged and omitted.
        """
        query = ROWS.where(EntryRow.seq > after)
        headers = select(*HEADERS).where(SegmentRow.last_seq > after, SegmentRow.kept > 0)
        if pipeline is not None:
            record = self.records.of(pipeline)
            query = query.where(EntryRow.pipeline == record)
            headers = headers.where(SegmentRow.pipeline == record)
        with snapshot(self._engine) as connection:
            newest = connection.execute(query.order_by(EntryRow.seq).limit(limit)).all()
            end = newest[-1].seq if len(newest) == limit else None
            found: list[Recorded] = []
            for header in connection.execute(headers.order_by(SegmentRow.first_seq)):
                if end is not None and header.first_seq > end:
                    break
                mine = self._sealed.entries(connection, header)
                found = sorted((*found, *(each for each in mine if each.seq > after)), key=_seq)[:limit]
                if len(found) == limit:
                    end = found[-1].seq if end is None else min(end, found[-1].seq)
            hot = [
                Recorded(each.seq, row.entry, each.digest)
                for each, row in self._hot.readable(connection, newest)
                if end is None or each.seq <= end
            ]
        return sorted((*found, *hot), key=_seq)[:limit]

    def newest_seq(self) -> int:
        """Return the `seq` of the newest entry of all pipelines; 0 without entries."""
        with reading(self._engine) as connection:
            return max(seq or 0 for seq in connection.execute(_NEWEST).one())

    def checkpoints(self, after: int, pipeline: str | None = None) -> Iterator[SignedCheckpoint]:
        """Yield the checkpoints of entries after `after` that retention removed, oldest first."""
        query = select(*HEADERS).where(
            SegmentRow.last_seq > after, SegmentRow.kept <= SegmentRow.last - SegmentRow.first
        )
        if pipeline is not None:
            query = query.where(SegmentRow.pipeline == self.records.of(pipeline))
        with snapshot(self._engine) as connection:
            for row in _paged_rows(connection, query.order_by(SegmentRow.first_seq)):
                yield SignedCheckpoint(checkpoint_of(row), row.key_id, row.signature)

    def recorded(self) -> Sequence[str]:
        """Return the names of all records, sorted."""
        with reading(self._engine) as connection:
            return sorted(connection.scalars(_RECORDED))

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        """Return decisions, newest first; with `before_tick` those of earlier ticks."""
        found: list[Decision] = []
        record = self.records.of(pipeline)
        with snapshot(self._engine) as connection:
            texts = self._texts(connection, record, before_tick, applied_only=applied_only)
            for decision in map(DECISION.value, texts):
                is_applied = decision.action is Action.APPLY or not applied_only
                if is_applied and (before_tick is None or decision.tick < before_tick):
                    found.append(decision)
                if len(found) == limit:
                    break
        return found

    def _texts(
        self, connection: Connection, record: str, before_tick: int | None, *, applied_only: bool
    ) -> Iterator[str]:
        """The texts of decisions, newest first; others too, from a segment whose rows are not canonical."""
        yield from self._hot_texts(connection, record, before_tick, applied_only=applied_only)
        headers = select(*HEADERS).where(SegmentRow.pipeline == record, SegmentRow.kept > 0)
        if before_tick is not None:
            headers = headers.where(SegmentRow.first_tick < before_tick)
        if applied_only:
            headers = headers.where(SegmentRow.changes > 0)
        for header in _paged_rows(connection, headers.order_by(SegmentRow.first.desc())):
            yield from self._sealed.decisions(connection, header, before_tick, applied_only=applied_only)

    def _hot_texts(
        self, connection: Connection, record: str, before_tick: int | None, *, applied_only: bool
    ) -> Iterator[str]:
        """The texts of decisions in hot rows, newest first, read by group."""
        newest = ROWS.where(EntryRow.pipeline == record).order_by(EntryRow.number.desc()).limit(1)
        last = connection.execute(newest).first()
        while last is not None:
            group = ROWS.where(EntryRow.pipeline == record, EntryRow.number.between(last.frame, last.number))
            found = connection.execute(group.order_by(EntryRow.number)).all()
            wanted = any(_is_wanted(each, before_tick, applied_only=applied_only) for each in found)
            for each, row in reversed(self._hot.readable(connection, found) if wanted else []):
                if row.decision is not None and _is_wanted(each, before_tick, applied_only=applied_only):
                    yield row.decision
            last = connection.execute(newest.where(EntryRow.number < last.frame)).first()

    def decision(self, decision_id: str) -> Decision:
        """Return the decision.

        NotFoundError: there is none, retention removed it, or an earlier pipeline of its name made it.
        """
        with snapshot(self._engine) as connection:
            found = self._newest(connection, [decision_id]).get(decision_id)
            record, text = found or self._sealed_text(connection, decision_id)
        decision = None if text is None else DECISION.value(text)
        if decision is None or self.records.of(decision.pipeline) != record:
            raise NotFoundError(
                f"there is no decision {decision_id!r}", hint="`ipa history PIPELINE` lists them."
            )
        return decision

    def _newest(self, connection: Connection, decision_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Record and text of the given decisions that are in hot rows, by their ids."""
        found = connection.execute(_DECISIONS, {"names": decision_ids}).all()
        try:
            rows = self._hot.rows(connection, found)
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

    def _sealed_text(self, connection: Connection, decision_id: str) -> tuple[str, str | None]:
        """Record and text of a sealed decision; its id is pipeline, tick and more, joined by hyphens."""
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
            for header in connection.execute(query.order_by(SegmentRow.last_seq.desc())).all():
                text = self._sealed.decision(connection, header, decision_id)
                if text is not None:
                    return str(header.pipeline), text
        return "", None


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
_RECORDED = union(*(select(row.pipeline) for row in (EntryRow, HeadRow, SegmentRow)))
_NEWEST = select(
    select(func.max(EntryRow.seq)).scalar_subquery(), select(func.max(SegmentRow.last_seq)).scalar_subquery()
)
_DECISIONS = ROWS.where(
    EntryRow.decision_id.in_(bindparam("names", expanding=True)), EntryRow.kind == EntryKind.DECISION.value
).order_by(EntryRow.pipeline, EntryRow.number)
# The heads, and the digests of their rows; None of a row that is sealed.
_ENDS = (
    select(HeadRow.pipeline, HeadRow.number, HeadRow.digest, EntryRow.digest.label("row_digest"))
    .outerjoin(EntryRow, (EntryRow.pipeline == HeadRow.pipeline) & (EntryRow.number == HeadRow.number))
    .where(HeadRow.pipeline.in_(bindparam("names", expanding=True)))
)
_MOVE = (
    update(HeadRow.__table__)  # type: ignore[arg-type]
    .where(HeadRow.pipeline == bindparam("its"))
    .values(number=bindparam("to"), digest=bindparam("mark"))
)


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
