"""The tables of the store. Bodies are canonical JSON text, so that their digests hold on every database."""

from __future__ import annotations

from sqlalchemy import BigInteger, Double, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Names of pipelines, stages and people; as long as a Kubernetes name (253).
NAME = String(253)
DIGEST = String(64)
# SQLite makes a column the rowid only if its type is INTEGER.
LONG = BigInteger().with_variant(Integer, "sqlite")


class StoreTable(DeclarativeBase):
    """The base class of the tables; all have the prefix ipa_, since a PostgreSQL database may be shared."""


class DecisionRow(StoreTable):
    """A decision of an older version, until it is sealed; newer ones are in the row of their entry."""

    __tablename__ = "ipa_decisions"
    __table_args__ = (
        Index("ix_ipa_decisions_pipeline_seq", "pipeline", "seq"),
        Index("ix_ipa_decisions_pipeline_action_seq", "pipeline", "action", "seq"),
    )

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    decision_id: Mapped[str] = mapped_column(NAME, unique=True)
    pipeline: Mapped[str] = mapped_column(NAME)
    tick: Mapped[int]
    at: Mapped[str] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(64))
    body: Mapped[str] = mapped_column(Text)


class EntryRow(StoreTable):
    """A hot row: one of the newest entries of the record (`ipa.control.audit.record`), with its decision.

    Triggers refuse to change a row, and to remove one that no segment holds. `packed` are the texts of entry
    and decision, compressed by `ipa.adapters.store.hot`. An older version wrote the entry's text to `body`.
    """

    __tablename__ = "ipa_entries"
    __table_args__ = (
        UniqueConstraint("pipeline", "number", name="uq_ipa_entries_number"),
        Index("ix_ipa_entries_decision", "decision_id"),
    )

    # Assigned under a lock: the numbers of a database sequence may commit in another order.
    seq: Mapped[int] = mapped_column(LONG, primary_key=True, autoincrement=False)
    pipeline: Mapped[str] = mapped_column(NAME)
    number: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))
    decision_id: Mapped[str] = mapped_column(NAME)
    body: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(DIGEST)
    tick: Mapped[int | None] = mapped_column(BigInteger)
    action: Mapped[str | None] = mapped_column(String(16))
    frame: Mapped[int | None] = mapped_column(BigInteger)
    packed: Mapped[bytes | None] = mapped_column(LargeBinary)


class SegmentRow(StoreTable):
    """A sealed run of a pipeline's entries: the kept rows in one block, and a checkpoint.

    The checkpoint (`ipa.control.audit.checkpoints`) is signed. Triggers refuse to change a segment, except to
    remove rows or to merge it with the next, and to remove one that another does not cover.
    """

    __tablename__ = "ipa_segments"
    __table_args__ = (
        Index("ix_ipa_segments_last", "pipeline", "last"),
        Index("ix_ipa_segments_last_seq", "last_seq"),
        # Finds the next segment to thin, and the total size, without reading blocks.
        Index("ix_ipa_segments_age", "held", "last_s", "size_bytes"),
    )

    pipeline: Mapped[str] = mapped_column(NAME, primary_key=True)
    first: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last: Mapped[int] = mapped_column(BigInteger)
    first_seq: Mapped[int] = mapped_column(BigInteger)
    last_seq: Mapped[int] = mapped_column(BigInteger)
    first_s: Mapped[float] = mapped_column(Double)
    last_s: Mapped[float] = mapped_column(Double)
    # The ticks of the kept decisions; 0 if there are none.
    first_tick: Mapped[int] = mapped_column(BigInteger)
    last_tick: Mapped[int] = mapped_column(BigInteger)
    # The decisions at sealing; the kept holds, changes and entries of all kinds.
    decisions: Mapped[int] = mapped_column(BigInteger)
    held: Mapped[int] = mapped_column(BigInteger)
    changes: Mapped[int] = mapped_column(BigInteger)
    kept: Mapped[int] = mapped_column(BigInteger)
    # The digests of the entry before the first, of the last entry, of the kept entries, and of the block.
    previous: Mapped[str] = mapped_column(DIGEST)
    head: Mapped[str] = mapped_column(DIGEST)
    entries: Mapped[str] = mapped_column(DIGEST)
    content: Mapped[str] = mapped_column(DIGEST)
    key_id: Mapped[str] = mapped_column(String(16))
    signature: Mapped[str] = mapped_column(String(88))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    block: Mapped[bytes] = mapped_column(LargeBinary)


class SeriesRow(StoreTable):
    """An hour of a pipeline's rolled-up series (`ipa.adapters.store.series`)."""

    __tablename__ = "ipa_series"

    pipeline: Mapped[str] = mapped_column(NAME, primary_key=True)
    start_s: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, index=True)
    body: Mapped[str] = mapped_column(Text)


class HeadRow(StoreTable):
    """The newest entry of each pipeline, stored apart, so that a truncated end is detected."""

    __tablename__ = "ipa_heads"

    pipeline: Mapped[str] = mapped_column(NAME, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(DIGEST)


class CursorRow(StoreTable):
    """The position in the record up to which a follower has read."""

    __tablename__ = "ipa_cursors"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)


class ControlRow(StoreTable):
    """The current control of a pipeline."""

    __tablename__ = "ipa_controls"

    pipeline: Mapped[str] = mapped_column(NAME, primary_key=True)
    body: Mapped[str] = mapped_column(Text)


class ProfileRow(StoreTable):
    """A revision of a stage's profile; the highest revision is current."""

    __tablename__ = "ipa_profiles"
    __table_args__ = (UniqueConstraint("pipeline", "stage", "revision", name="uq_ipa_profiles_revision"),)

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    pipeline: Mapped[str] = mapped_column(NAME)
    stage: Mapped[str] = mapped_column(NAME)
    revision: Mapped[int]
    digest: Mapped[str] = mapped_column(DIGEST)
    body: Mapped[str] = mapped_column(Text)


class KeyRow(StoreTable):
    """An API key. Only the digest of its secret is stored."""

    __tablename__ = "ipa_keys"

    key_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST)
    name: Mapped[str] = mapped_column(NAME)
    role: Mapped[str] = mapped_column(String(16))
    namespace: Mapped[str] = mapped_column(NAME)
    created_at: Mapped[str] = mapped_column(String(40))
    expires_at: Mapped[str | None] = mapped_column(String(40))
    revoked_at: Mapped[str | None] = mapped_column(String(40))


class PlanRow(StoreTable):
    """A plan of a what-if request; only the newest are kept."""

    __tablename__ = "ipa_plans"
    __table_args__ = (Index("ix_ipa_plans_pipeline", "pipeline"),)

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    plan_id: Mapped[str] = mapped_column(String(64), unique=True)
    pipeline: Mapped[str] = mapped_column(NAME)
    body: Mapped[str] = mapped_column(Text)


class AnswerRow(StoreTable):
    """The answer to the request of an idempotency key; without a status it is under way."""

    __tablename__ = "ipa_answers"

    key: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    mark: Mapped[str] = mapped_column(DIGEST)
    holder: Mapped[str] = mapped_column(DIGEST)
    at_s: Mapped[float] = mapped_column(index=True)
    status: Mapped[int | None]
    body: Mapped[str | None] = mapped_column(Text)
    # The record of the request's pipeline; removing the pipeline deletes the answer.
    record: Mapped[str] = mapped_column(NAME, server_default="")


class PipelineRow(StoreTable):
    """A pipeline created over the API, as the mapping of a pipeline file."""

    __tablename__ = "ipa_pipelines"

    pipeline: Mapped[str] = mapped_column(NAME, primary_key=True)
    at: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(Text)


class RecordRow(StoreTable):
    """A pipeline that has, or had, a name: `record` is its name in every other table.

    The current one has no `ended_at`.
    """

    __tablename__ = "ipa_records"

    record: Mapped[str] = mapped_column(NAME, primary_key=True)
    pipeline: Mapped[str] = mapped_column(NAME, index=True)
    namespace: Mapped[str] = mapped_column(NAME)
    at: Mapped[str] = mapped_column(String(40))
    ended_at: Mapped[str | None] = mapped_column(String(40))
