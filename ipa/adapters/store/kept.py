"""The ports PlanStore and AnswerStore over the database, and the pipelines that were given over the API."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select, true, update

from ipa.adapters.store.codec import KEPT_PLAN, damaged
from ipa.adapters.store.database import lock_of, reading, writing
from ipa.adapters.store.schema import AnswerRow, PipelineRow, PlanRow
from ipa.control.canonical import digest
from ipa.control.idempotency import IdempotencyClaim, StoredAnswer
from ipa.control.saved_plans import StoredPlan
from ipa.model.errors import IpaError, NotFoundError

log = logging.getLogger("ipa.store")
MOST_PLANS = 20_000
# Where there are too many, a pipeline keeps at least one of so many parts of them, whoever plans another.
PARTS = 4
PLAN_BYTES = 4_000
# Of these more there may be before the oldest are let go, which need not be with every write.
SPARE_PLANS = 500
# Plans wait in memory for a store that cannot be written, some 10 MB of them; then the oldest are dropped.
MOST_WAITING = 2_000
# Plans wait so long for each other, so that they are written together.
FLUSH_S = 0.2
# A retry comes within minutes, at worst after a weekend.
ANSWERS_S = 7 * 86400.0
# No request takes longer: a write to a cluster ends by its own deadline long before.
LONGEST_S = 300.0


class PlanRows:
    """The newest `most` plans and some older ones, on disk a moment after they were made.

    Written together, since each transaction waits for the disk and what-ifs come by the hundred: decisions of
    the loops must not wait behind them. What a crash loses of them is made again by asking again.
    """

    def __init__(self, engine: Engine, most: int = MOST_PLANS) -> None:
        self._engine, self._most = engine, most
        self._lock = threading.Lock()
        # With its text, which is made as the plan comes: that of many at once would hold everybody up.
        self._waiting: dict[str, tuple[StoredPlan, str]] = {}
        self._timer: threading.Timer | None = None
        # Written since the oldest were let go; unknown after a start.
        self._written = SPARE_PLANS

    def keep(self, plan: StoredPlan) -> None:
        """Keep it, and let go of those that are too many."""
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
        """That plan; NotFoundError where there is none any more."""
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
        """Write what waits; UnavailableError where that fails, and it waits on."""
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
        """Let go of plans that are too many: of pipelines with more than their part, then the oldest."""
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
        """Forget the plans of that record."""
        with self._lock:
            self._waiting = {name: it for name, it in self._waiting.items() if it[0].key != record}
        with writing(self._engine, lock_of("plans", "")) as connection:
            connection.execute(delete(PlanRow).where(PlanRow.pipeline == record))

    def close(self) -> None:
        """Write what waits, as far as that goes."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        self._flush_late()

    def _flush_late(self) -> None:
        try:
            self.flush()
        except IpaError as error:
            # The store's health says so, and when it ends.
            log.debug("plans that were asked for are not kept on disk yet: %s", error.message)


def _delete_oldest(connection: Connection, many: int, of: ColumnElement[bool]) -> None:
    last = connection.scalar(select(PlanRow.seq).where(of).order_by(PlanRow.seq).offset(many - 1).limit(1))
    connection.execute(delete(PlanRow).where(of, PlanRow.seq <= last))


class AnswerRows:
    """Answers by key, for a week."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(
        self, key: str, request_digest: str, holder: str, now_s: float, record: str = ""
    ) -> IdempotencyClaim:
        """Claim the key if nobody holds it or its holder is gone, and return its state."""
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
        """Keep the answer; on disk when this returns."""
        self._write(key, update(AnswerRow).values(status=answer.status, body=answer.body))

    def release(self, key: str) -> None:
        """Give up a key under which nothing happened."""
        self._write(key, delete(AnswerRow))

    def end(self, record: str) -> None:
        """Forget the answers to requests about the pipeline of that record."""
        with writing(self._engine, lock_of("answers", record)) as connection:
            connection.execute(delete(AnswerRow).where(AnswerRow.record == record))

    def _write(self, key: str, statement: Any) -> None:
        with writing(self._engine, lock_of("answers", digest(key))) as connection:
            connection.execute(statement.where(AnswerRow.key == digest(key)))


class PipelineRows:
    """Pipelines that were given over the API, each as the mapping that a file would hold."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> dict[str, Any]:
        """Every one by its name."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(PipelineRow.pipeline, PipelineRow.body)).all()
        try:
            return {name: json.loads(body) for name, body in sorted(rows)}
        except (ValueError, TypeError) as error:
            raise damaged("pipeline", error) from error

    def keep(self, name: str, mapping: Mapping[str, Any], at: str) -> None:
        """Keep it, in the place of one of that name; on disk when this returns."""
        values = {"at": at, "body": json.dumps(mapping, ensure_ascii=False)}
        with writing(self._engine, lock_of("pipelines", name)) as connection:
            changed = connection.execute(
                update(PipelineRow).where(PipelineRow.pipeline == name).values(**values)
            )
            if changed.rowcount == 0:
                connection.execute(insert(PipelineRow).values(pipeline=name, **values))

    def remove(self, name: str) -> None:
        """Forget it, where there is one."""
        with writing(self._engine, lock_of("pipelines", name)) as connection:
            connection.execute(delete(PipelineRow).where(PipelineRow.pipeline == name))
