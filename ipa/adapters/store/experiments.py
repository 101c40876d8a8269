"""Experiments in the database, so that they outlive the service."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Engine, delete, insert, select, update

from ipa.adapters.store.codec import JOB
from ipa.adapters.store.database import lock_of, reading, writing
from ipa.adapters.store.schema import ExperimentRow
from ipa.control.jobs import LONGEST_S, Job, JobPhase

# A service writes the job that it holds when it starts and ends it; after this time the service is gone.
ORPHANED_S = LONGEST_S + 60.0
_ENDS = tuple(phase.value for phase in JobPhase if phase.is_end)
_LOCK = lock_of("experiments", "")


class ExperimentRows:
    """The jobs of all services that share the database. A SQLite file has one service."""

    def __init__(self, engine: Engine, now_s: Callable[[], float] = time.time) -> None:
        self._engine, self._now_s = engine, now_s
        self._is_shared = engine.dialect.name != "sqlite"

    def keep(self, job: Job, holder: str, spec: bytes | None = None) -> None:
        """Store the job in its present state, unless it is stored as ended."""
        values = {
            "phase": job.phase.value,
            "holder": holder,
            "at_s": self._now_s(),
            "body": JOB.text(replace(job, report=None)),
            "report": job.report,
        }
        if job.phase.is_end or spec is not None:
            values["spec"] = b"" if job.phase.is_end else spec
        mine = ExperimentRow.experiment_id == job.job_id
        with writing(self._engine, _LOCK) as connection:
            phase = connection.scalar(select(ExperimentRow.phase).where(mine))
            if phase is None and spec is not None:
                connection.execute(insert(ExperimentRow).values(experiment_id=job.job_id, **values))
            elif phase not in _ENDS:
                connection.execute(update(ExperimentRow).where(mine).values(**values))

    def jobs(self, but: Collection[str] = ()) -> Sequence[Job]:
        """Return the stored jobs, oldest first, without those of these ids."""
        query = select(ExperimentRow.body, ExperimentRow.report).order_by(ExperimentRow.seq)
        if but:
            query = query.where(ExperimentRow.experiment_id.not_in(but))
        with reading(self._engine) as connection:
            return [_job_of(row.body, row.report) for row in connection.execute(query)]

    def phases(self) -> Mapping[str, JobPhase]:
        """Return the phase of every stored job by its id."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(ExperimentRow.experiment_id, ExperimentRow.phase))
            return {row.experiment_id: JobPhase(row.phase) for row in rows}

    def take(self, holder: str, now_s: float) -> Sequence[tuple[Job, bytes]]:
        """Return the jobs without a running service, with their specifications; they are the holder's now."""
        lost = ExperimentRow.phase.not_in(_ENDS) & (ExperimentRow.holder != holder)
        if self._is_shared:
            lost &= (ExperimentRow.holder == "") | (ExperimentRow.at_s < now_s - ORPHANED_S)
        columns = (ExperimentRow.experiment_id, ExperimentRow.body, ExperimentRow.report, ExperimentRow.spec)
        with reading(self._engine) as connection:
            if connection.scalar(select(ExperimentRow.seq).where(lost).limit(1)) is None:
                return ()
        with writing(self._engine, _LOCK) as connection:
            rows = connection.execute(select(*columns).where(lost).order_by(ExperimentRow.seq)).all()
            taken = ExperimentRow.experiment_id.in_([row.experiment_id for row in rows])
            connection.execute(update(ExperimentRow).where(taken).values(holder=holder, at_s=now_s))
        return [(_job_of(row.body, row.report), row.spec) for row in rows]

    def forget(self, job_ids: Collection[str]) -> None:
        """Delete the jobs of these ids."""
        with writing(self._engine, _LOCK) as connection:
            connection.execute(delete(ExperimentRow).where(ExperimentRow.experiment_id.in_(job_ids)))


def _job_of(body: str, report: bytes | None) -> Job:
    return replace(JOB.value(body), report=report)
