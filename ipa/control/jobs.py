"""Jobs of long work: their state, and the store that keeps them over a restart."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

# The longest a job may run, in seconds. A day of load at a few requests a second takes a minute.
LONGEST_S = 900.0


class JobPhase(StrEnum):
    """The progress of a job. The last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """True if the job has ended."""
        return self in (JobPhase.DONE, JobPhase.FAILED, JobPhase.CANCELLED)


@dataclass(frozen=True, slots=True)
class JobFault:
    """Reason of a failed job, with the `code` of a problem."""

    code: str
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """The state of a job. `percent` is the part of its work that is done; `result` is set once it is done.

    `report` holds the data of its report (`experiment_report.unpacked`), None if its process sent none.
    `starts` counts its processes: more than one if the service was restarted meanwhile.
    """

    job_id: str
    asked: Mapping[str, Any]
    phase: JobPhase
    percent: int
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    result: Mapping[str, Any] | None = None
    fault: JobFault | None = None
    report: bytes | None = field(default=None, repr=False)
    # The record of its pipeline; empty for the one of the pipeline's name.
    record: str = ""
    # The client that started it.
    client: str = ""
    starts: int = 0

    @property
    def key(self) -> str:
        """The record of the job's pipeline."""
        return self.record or str(self.asked["pipeline"])


class JobStore(Protocol):
    """The jobs that outlive the service. Every method raises UnavailableError if the store fails."""

    def keep(self, job: Job, holder: str, spec: bytes | None = None) -> None:
        """Store the job in its present state, with the service that runs it.

        The specification is stored with `spec`, stays without, and is dropped once the job has ended. A job
        that has ended stays as it is.
        """

    def jobs(self, but: Collection[str] = ()) -> Sequence[Job]:
        """The stored jobs, oldest first, without those of these ids."""

    def phases(self) -> Mapping[str, JobPhase]:
        """The phase of every stored job by its id."""

    def take(self, holder: str, now_s: float) -> Sequence[tuple[Job, bytes]]:
        """The jobs that no running service is known to hold, with their specifications; now the holder's."""

    def forget(self, job_ids: Collection[str]) -> None:
        """Delete the jobs of these ids."""
