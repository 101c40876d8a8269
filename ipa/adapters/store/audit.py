"""The record in the database: entries put at its end within the transaction of what they are about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from ipa.adapters.store.schema import DecisionRow, EntryRow, HeadRow
from ipa.control.audit import NOTHING, Chain, Entry, Head, Kind, Recorded, Verified, record_in
from ipa.control.canonical import digest

# Rows of one read, each with a decision of some tens of kilobytes: enough to be quick, few enough to be held.
BATCH = 50


def append(connection: Connection, entry: Entry) -> None:
    """Put the entry at the end of its pipeline's chain; as `append_all`."""
    append_all(connection, [entry])


def append_all(connection: Connection, entries: Sequence[Entry]) -> None:
    """Put the entries at the ends of their pipelines' chains, one after the other.

    Within a transaction that writes the record alone, so that the order of `seq` is that of the commits:
    whoever has read up to one has missed none before it.
    """
    seq = newest_seq(connection)
    before = _heads(connection, {entry.key for entry in entries})
    heads: dict[str, Head] = {}
    rows: list[dict[str, object]] = []
    for entry in entries:
        head = heads.get(entry.key) or before.get(entry.key)
        if head is None:
            head = _last(connection, entry.key) or Head(0, NOTHING)
        seq, number = seq + 1, head.number + 1
        text = entry.text(seq, number, head.digest)
        heads[entry.key] = Head(number, digest(text))
        rows.append(
            {
                "seq": seq,
                "pipeline": entry.key,
                "number": number,
                "kind": entry.kind.value,
                "decision_id": entry.decision_id,
                "body": text,
                "digest": heads[entry.key].digest,
            }
        )
    connection.execute(_INSERT, rows)
    moved = [
        {"its": name, "to": it.number, "mark": it.digest} for name, it in heads.items() if name in before
    ]
    if moved:
        connection.execute(_MOVE, moved)
    new = [{"pipeline": name, **asdict(it)} for name, it in heads.items() if name not in before]
    if new:
        connection.execute(insert(HeadRow), new)


# Made once: making a statement takes longer than a row.
_INSERT = insert(EntryRow)
_NEWEST = select(func.max(EntryRow.seq))
_MOVE = (
    update(HeadRow.__table__)  # type: ignore[arg-type]
    .where(HeadRow.pipeline == bindparam("its"))
    .values(number=bindparam("to"), digest=bindparam("mark"))
)
_HEADS = select(HeadRow.pipeline, HeadRow.number, HeadRow.digest).where(
    HeadRow.pipeline.in_(bindparam("names", expanding=True))
)


def _heads(connection: Connection, names: Collection[str]) -> dict[str, Head]:
    """The heads that are kept of those pipelines."""
    rows = connection.execute(_HEADS, {"names": sorted(names)})
    return {name: Head(number, mark) for name, number, mark in rows}


def newest_seq(connection: Connection) -> int:
    """The number of the newest entry of all; 0 where there is none."""
    return connection.scalar(_NEWEST) or 0


def _last(connection: Connection, pipeline: str) -> Head | None:
    """The last entry of the pipeline's chain; None where it has none."""
    newest = (
        select(EntryRow.number, EntryRow.digest)
        .where(EntryRow.pipeline == pipeline)
        .order_by(EntryRow.number.desc())
        .limit(1)
    )
    row = connection.execute(newest).first()
    return Head(row[0], row[1]) if row else None


def entries(connection: Connection, after: int, limit: int, pipeline: str | None = None) -> list[Recorded]:
    """The `limit` entries after that `seq`, oldest first."""
    query = select(EntryRow.seq, EntryRow.body, EntryRow.digest).where(EntryRow.seq > after)
    if pipeline is not None:
        query = query.where(EntryRow.pipeline == pipeline)
    rows = connection.execute(query.order_by(EntryRow.seq).limit(limit))
    return [Recorded(*row) for row in rows]


def verify(connection: Connection, pipeline: str, anchor: Head | None) -> Verified:
    """What the record of the pipeline holds; RecordError names the first that is not as it was written."""
    chain, seq = Chain(pipeline, anchor), 0
    with connection.execute(_query(pipeline), execution_options={"yield_per": BATCH}) as rows:
        for row in rows:
            seq = _check(chain, row, seq)
    found = chain.ended(_heads(connection, [pipeline]).get(pipeline))
    _check_unrecorded(connection, chain)
    return found


def _query(pipeline: str) -> Select[*tuple[Any, ...]]:
    """Every entry of the pipeline with its decision."""
    return (
        select(
            EntryRow.number,
            EntryRow.seq,
            EntryRow.kind,
            EntryRow.decision_id,
            EntryRow.body,
            EntryRow.digest,
            DecisionRow.pipeline,
            DecisionRow.tick,
            DecisionRow.at,
            DecisionRow.action,
            DecisionRow.reason,
            DecisionRow.body.label("decision"),
        )
        .outerjoin(DecisionRow, DecisionRow.decision_id == EntryRow.decision_id)
        .where(EntryRow.pipeline == pipeline)
        .order_by(EntryRow.number)
    )


def _check(chain: Chain, row: Any, before: int) -> int:
    """The `seq` of the next entry, which is as it was written, and so is its decision."""
    values = chain.add(row.body, row.digest)
    number = chain.head.number
    found = (row.number, row.seq, row.kind, row.decision_id)
    if found != tuple(values[name] for name in ("number", "seq", "kind", "decision_id")):
        raise chain.fault(f"entry {number} was changed: its columns are not what its text says")
    if row.seq <= before:
        raise chain.fault(f"entry {number} was moved before another")
    if values["kind"] != Kind.DECISION:
        return int(row.seq)
    name = f"decision {values['decision_id']!r} of entry {number}"
    if row.decision is None:
        raise chain.fault(f"{name} was removed")
    facts = values["facts"]
    said = (record_in(values), facts["tick"], values["at"], facts["action"], values["what"])
    if digest(row.decision) != values["content"] or said != tuple(row[6:11]):
        raise chain.fault(f"{name} was changed")
    return int(row.seq)


def _check_unrecorded(connection: Connection, chain: Chain) -> None:
    query = (
        select(DecisionRow.decision_id)
        .outerjoin(
            EntryRow,
            (EntryRow.decision_id == DecisionRow.decision_id) & (EntryRow.kind == Kind.DECISION.value),
        )
        .where(DecisionRow.pipeline == chain.pipeline, EntryRow.seq.is_(None))
        .order_by(DecisionRow.seq)
        .limit(1)
    )
    found = connection.scalar(query)
    if found is not None:
        raise chain.fault(f"decision {found!r} was put in: no entry tells of it")
