"""The store: the ports DecisionLog, ControlStore and ProfileStore over one database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Engine, and_, func, insert, select, update

from ipa.adapters.store.codec import CONTROL, DECISION, PROFILE, digest
from ipa.adapters.store.database import lock_of, open_engine, reading, writing
from ipa.adapters.store.kept import AnswerRows, PipelineRows, PlanRows
from ipa.adapters.store.schema import ControlRow, DecisionRow, ProfileRow
from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Decision
from ipa.model.errors import ConflictError, NotFoundError, UnavailableError
from ipa.model.profile import StageProfile


class Store:
    """Decisions, controls and profiles in one database; safe for many threads and processes.

    `plans` and `answers` are those of the API, `given` the pipelines that came over it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.plans = PlanRows(engine)
        self.answers = AnswerRows(engine)
        self.given = PipelineRows(engine)

    def close(self) -> None:
        """Write what waits, and close every connection."""
        self.plans.close()
        self._engine.dispose()

    def record(self, decision: Decision) -> None:
        """Return only when the decision is on disk.

        The same decision again is fine (a retry after an unknown outcome); another one under its id is a
        ConflictError. UnavailableError: it is not on disk.
        """
        body = DECISION.text(decision)
        with writing(self._engine, lock_of("decisions", decision.pipeline)) as connection:
            kept = connection.scalar(
                select(DecisionRow.body).where(DecisionRow.decision_id == decision.decision_id)
            )
            if kept == body:
                return
            if kept is not None:
                raise ConflictError(f"another decision is already recorded as {decision.decision_id!r}")
            before = connection.scalar(
                select(DecisionRow.digest)
                .where(DecisionRow.pipeline == decision.pipeline)
                .order_by(DecisionRow.seq.desc())
                .limit(1)
            )
            connection.execute(
                insert(DecisionRow).values(
                    decision_id=decision.decision_id,
                    pipeline=decision.pipeline,
                    tick=decision.tick,
                    at=decision.at,
                    action=decision.action.value,
                    reason=decision.reason.value,
                    body=body,
                    digest=digest(before or "", body),
                )
            )

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        """The newest decisions first; those of ticks before `before_tick` where given."""
        query = select(DecisionRow.body).where(DecisionRow.pipeline == pipeline)
        if before_tick is not None:
            query = query.where(DecisionRow.tick < before_tick)
        if applied_only:
            query = query.where(DecisionRow.action == Action.APPLY.value)
        with reading(self._engine) as connection:
            bodies = connection.scalars(query.order_by(DecisionRow.seq.desc()).limit(limit)).all()
        return [DECISION.value(body) for body in bodies]

    def decision(self, decision_id: str) -> Decision:
        """That decision; NotFoundError where there is none."""
        with reading(self._engine) as connection:
            body = connection.scalar(select(DecisionRow.body).where(DecisionRow.decision_id == decision_id))
        if body is None:
            raise NotFoundError(
                f"there is no decision {decision_id!r}", hint="`ipa history PIPELINE` lists them."
            )
        return DECISION.value(body)

    def verify_decisions(self, pipeline: str) -> int:
        """How many decisions the pipeline has; UnavailableError names the first one changed since."""
        columns = select(DecisionRow.decision_id, DecisionRow.body, DecisionRow.digest)
        before, count = "", 0
        with reading(self._engine) as connection:
            query = columns.where(DecisionRow.pipeline == pipeline).order_by(DecisionRow.seq)
            for decision_id, body, kept in connection.execute(query):
                if digest(before, body) != kept:
                    raise UnavailableError(
                        f"the record of {pipeline!r} was changed at or just before decision {decision_id!r}",
                        hint="Compare with a backup of the store.",
                    )
                before, count = kept, count + 1
        return count

    def control(self, pipeline: str) -> PipelineControl:
        """What was said last; the default where nothing was."""
        with reading(self._engine) as connection:
            body = connection.scalar(select(ControlRow.body).where(ControlRow.pipeline == pipeline))
        return PipelineControl() if body is None else CONTROL.value(body)

    def set_control(self, pipeline: str, control: PipelineControl) -> None:
        """Keep it; on disk when this returns."""
        body = CONTROL.text(control)
        with writing(self._engine, lock_of("controls", pipeline)) as connection:
            changed = connection.execute(
                update(ControlRow).where(ControlRow.pipeline == pipeline).values(body=body)
            )
            if changed.rowcount == 0:
                connection.execute(insert(ControlRow).values(pipeline=pipeline, body=body))

    def save_profile(self, profile: StageProfile) -> int:
        """The revision under which it is kept, from 1 on; the same one again where nothing changed."""
        body = PROFILE.text(profile)
        mark = digest(body)
        with writing(self._engine, lock_of("profiles", f"{profile.pipeline}/{profile.stage}")) as connection:
            newest = _newest_profile(connection, profile.pipeline, profile.stage)
            if newest is not None and newest[1] == mark:
                return newest[0]
            revision = 1 if newest is None else newest[0] + 1
            connection.execute(
                insert(ProfileRow).values(
                    pipeline=profile.pipeline,
                    stage=profile.stage,
                    revision=revision,
                    digest=mark,
                    body=body,
                )
            )
        return revision

    def profile(self, pipeline: str, stage: str) -> StageProfile:
        """The newest profile; NotFoundError where there is none."""
        with reading(self._engine) as connection:
            newest = _newest_profile(connection, pipeline, stage)
        if newest is None:
            raise NotFoundError(
                f"there is no profile of stage {stage!r} of pipeline {pipeline!r}",
                hint="`ipa profile` measures one.",
            )
        return PROFILE.value(newest[2])

    def profiles(self, pipeline: str) -> Mapping[str, StageProfile]:
        """The newest profile of every stage of the pipeline, by stage name."""
        newest = (
            select(ProfileRow.stage, func.max(ProfileRow.revision).label("revision"))
            .where(ProfileRow.pipeline == pipeline)
            .group_by(ProfileRow.stage)
            .subquery()
        )
        is_newest = and_(ProfileRow.stage == newest.c.stage, ProfileRow.revision == newest.c.revision)
        query = select(ProfileRow.stage, ProfileRow.body).join(newest, is_newest)
        query = query.where(ProfileRow.pipeline == pipeline).order_by(ProfileRow.stage)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return {stage: PROFILE.value(body) for stage, body in rows}


def open_store(store_url: str) -> Store:
    """The store at that SQLAlchemy URL, its schema brought up to date. Errors: see `open_engine`."""
    return Store(open_engine(store_url))


def _newest_profile(connection: Connection, pipeline: str, stage: str) -> tuple[int, str, str] | None:
    row = connection.execute(
        select(ProfileRow.revision, ProfileRow.digest, ProfileRow.body)
        .where(ProfileRow.pipeline == pipeline, ProfileRow.stage == stage)
        .order_by(ProfileRow.revision.desc())
        .limit(1)
    ).first()
    return None if row is None else (row[0], row[1], row[2])
