"""State of the API in the database: stored plans, idempotent answers, and pipelines created over the API."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select, true, update

from ipa.adapters.store.codec import KEPT_PLAN, damaged
from ipa.adapters.store.database import lock_of, reading, upsert, writing
from ipa.adapters.store.schema import AnswerRow, PipelineRow, PlanRow
from ipa.control.canonical import digest
from ipa.control.idempotency import IdempotencyClaim, StoredAnswer
from ipa.control.saved_plans import StoredPlan
from ipa.model.errors import IpaError, NotFoundError

log = logging.getLogger("ipa.store")
MOST_PLANS = 20_000
# At the bound, each pipeline keeps up to this fraction (1 / PARTS) of the plans, however many others make.
PARTS = 4
# The bound may be exceeded by this many, so that not every write deletes.
SPARE_PLANS = 500
# Plans that wait in memory while the store cannot be written, some 10 MB; then the oldest are dropped.
MOST_WAITING = 2_000
# How long a plan waits for others, to be written with them.
FLUSH_S = 0.2
# Retries come within minutes, at worst after a weekend.
ANSWERS_S = 7 * 86400.0
# No request takes longer: a write to a cluster has a shorter deadline.
LONGEST_S = 300.0


class PlanRows:
    """The newest `most` plans and some older ones, on disk shortly after they were made.

    They are written in groups: each transaction waits for the disk, what-ifs come by the hundred, and the
    loops' decisions must not wait for them. A crash loses the last ones, which a client can request again.
    """

    def __init__(self, engine: Engine, most: int = MOST_PLANS) -> None:
        self._engine, self._most = engine, most
        self._lock = threading.Lock()
        # A flush that takes longer than FLUSH_S must not overlap the next: both would write the same plans.
        self._flushing = threading.Lock()
        # Each with its text, which is encoded when the plan comes: many at once would block other threads.
        self._waiting: dict[str, tuple[StoredPlan, str]] = {}
        self._timer: threading.Timer | None = None
        # Written since the last deletion; after a start assumed to be at the limit.
        self._written = SPARE_PLANS

    def keep(self, plan: StoredPlan) -> None:
        """Store the plan; the oldest waiting one is dropped if too many wait."""
        text = KEPT_PLAN.text(plan)
        with self._lock:
            self._waiting[plan.plan_id] = plan, text
            if len(self._waiting) > min(self._most, MOST_WAITING):
                self._waiting.pop(next(iter(self._waiting)))
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_S, self._flush_late)
                self._timer.daemon = True
                self._timer.start()

    def plan(self, plan_id: str) -> StoredPlan:
        """Return the plan; NotFoundError if it is not stored, or no longer."""
        with self._lock:
            waiting = self._waiting.get(plan_id)
        if waiting is not None:
            return waiting[0]
        with reading(self._engine) as connection:
            body = connection.scalar(select(PlanRow.body).where(PlanRow.plan_id == plan_id))
        if body is None:
            raise NotFoundError(
                f"there is no plan {plan_id!r}",
                hint=f"The newest {self._most} are kept; POST /v1/pipelines/PIPELINE/plans makes one.",
            )
        return KEPT_PLAN.value(body)

    def flush(self) -> None:
        """Write the waiting plans. UnavailableError: they could not be written, and still wait."""
        with self._flushing:
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
            self._timer = None
        if not waiting:
            return
        rows = [{"plan_id": plan.plan_id, "pipeline": plan.key, "body": text} for plan, text in waiting]
        written = self._written + len(rows)
        with writing(self._engine, lock_of("plans", "")) as connection:
            connection.execute(insert(PlanRow), rows)
            if written >= SPARE_PLANS:
                self._let_go(connection)
                written = 0
        self._written = written
        with self._lock:
            for plan, _ in waiting:
                self._waiting.pop(plan.plan_id, None)

    def _let_go(self, connection: Connection) -> None:
        """Delete plans above the bound: of pipelines with more than their part, then the oldest."""
        rows = connection.execute(
            select(PlanRow.pipeline, func.count()).group_by(PlanRow.pipeline).order_by(func.count().desc())
        ).all()
        excess = sum(count for _, count in rows) - self._most
        for record, count in rows:
            many = min(excess, count - self._most // PARTS)
            if many <= 0:
                break
            _delete_oldest(connection, many, PlanRow.pipeline == record)
            excess -= many
        if excess > 0:
            _delete_oldest(connection, excess, true())

    def end(self, record: str) -> None:
        """Delete the plans of the record."""
        with self._lock:
            self._waiting = {name: it for name, it in self._waiting.items() if it[0].key != record}
        with writing(self._engine, lock_of("plans", "")) as connection:
            connection.execute(delete(PlanRow).where(PlanRow.pipeline == record))

    def close(self) -> None:
        """Write the waiting plans if possible."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        self._flush_late()

    def _flush_late(self) -> None:
        try:
            self.flush()
        except IpaError as error:
            # The store's health reports the outage and its end.
            log.debug("plans are not on disk yet: %s", error.message)


def _delete_oldest(connection: Connection, many: int, of: ColumnElement[bool]) -> None:
    last = connection.scalar(select(PlanRow.seq).where(of).order_by(PlanRow.seq).offset(many - 1).limit(1))
    connection.execute(delete(PlanRow).where(of, PlanRow.seq <= last))


class AnswerRows:
    """Answers by idempotency key, kept for a week."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(
        self, key: str, request_digest: str, holder: str, now_s: float, record: str = ""
    ) -> IdempotencyClaim:
        """Claim the key if it is free or its holder is gone, and return its state."""
        key, holder = digest(key), digest(holder)
        with writing(self._engine, lock_of("answers", key)) as connection:
            connection.execute(delete(AnswerRow).where(AnswerRow.at_s < now_s - ANSWERS_S))
            row = connection.execute(
                select(AnswerRow.mark, AnswerRow.at_s, AnswerRow.holder, AnswerRow.status, AnswerRow.body)
                .where(AnswerRow.key == key)
            ).first()  # fmt: skip
            if row is None:
                values = {
                    "key": key,
                    "mark": request_digest,
                    "holder": holder,
                    "at_s": now_s,
                    "record": record,
                }
                connection.execute(insert(AnswerRow).values(**values))
                return IdempotencyClaim(request_digest, now_s, mine=True)
            first, at_s, kept_by, status, body = row
            if status is not None:
                return IdempotencyClaim(first, at_s, answer=StoredAnswer(status, body or ""))
            is_left = kept_by != holder or now_s - at_s > LONGEST_S
            if not is_left or first != request_digest:
                return IdempotencyClaim(first, at_s)
            connection.execute(
                update(AnswerRow).where(AnswerRow.key == key).values(holder=holder, at_s=now_s)
            )
            return IdempotencyClaim(first, at_s, mine=True, is_resumed=True)

    def settle(self, key: str, answer: StoredAnswer) -> None:
        """Store the answer durably."""
        self._write(key, update(AnswerRow).values(status=answer.status, body=answer.body))

    def release(self, key: str) -> None:
        """Release a key under which nothing happened."""
        self._write(key, delete(AnswerRow))

    def end(self, record: str) -> None:
        """Delete the answers to requests about the pipeline of the record."""
        with writing(self._engine, lock_of("answers", record)) as connection:
            connection.execute(delete(AnswerRow).where(AnswerRow.record == record))

    def _write(self, key: str, statement: Any) -> None:
        with writing(self._engine, lock_of("answers", digest(key))) as connection:
            connection.execute(statement.where(AnswerRow.key == digest(key)))


# Ends the key of what was pushed over a pipeline's file; no pipeline has such a name.
PUSHED = "@pushed"


class PipelineRows:
    """The pipelines created over the API, each as the mapping of a pipeline file.

    Beside them is what was pushed over the pipelines of files.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> dict[str, Any]:
        """Return every pipeline by its name."""
        return {name: body for name, body in self._rows().items() if not name.endswith(PUSHED)}

    def pushed(self) -> dict[str, Any]:
        """Return what was pushed over files, by the name of the pipeline."""
        found = self._rows().items()
        return {name.removesuffix(PUSHED): body for name, body in found if name.endswith(PUSHED)}

    def keep_pushed(self, name: str, body: Mapping[str, Any], at: str) -> None:
        """Store what was pushed over the file of the pipeline, in place of what was before."""
        self.keep(name + PUSHED, body, at)

    def forget_pushed(self, name: str) -> None:
        """Delete what was pushed over the file of the pipeline."""
        self.remove(name + PUSHED)

    def _rows(self) -> dict[str, Any]:
        with reading(self._engine) as connection:
            rows = connection.execute(select(PipelineRow.pipeline, PipelineRow.body)).all()
        try:
            return {name: json.loads(body) for name, body in sorted(rows)}
        except (ValueError, TypeError) as error:
            raise damaged("pipeline", error) from error

    def keep(self, name: str, mapping: Mapping[str, Any], at: str) -> None:
        """Store the pipeline durably, in place of one of that name."""
        values = {"at": at, "body": json.dumps(mapping, ensure_ascii=False)}
        with writing(self._engine, lock_of("pipelines", name)) as connection:
            upsert(connection, PipelineRow, {"pipeline": name}, values)

    def remove(self, name: str) -> None:
        """Delete the pipeline if there is one."""
        with writing(self._engine, lock_of("pipelines", name)) as connection:
            connection.execute(delete(PipelineRow).where(PipelineRow.pipeline == name))
