"""A queue of jobs: long work, each in a process of its own, a few at a time."""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from ipa.control.ports import Clock
from ipa.model.errors import BusyError, NotFoundError
from ipa.service.experiment_report import packed

LOG = logging.getLogger(__name__)
# The loops need the other core.
RUNNING = 1
WAITING = 16
# Waiting jobs of one client.
WAITING_EACH = 4
# Specifications of waiting jobs, compressed; the rates of a day take half a megabyte.
WAITING_BYTES = 16 << 20
WAITING_EACH_BYTES = 4 << 20
# Ended jobs that are kept; each with its report takes some ten kilobytes.
KEPT = 200
# Their bytes together; a run with thousands of changes has a report of half a megabyte.
KEPT_BYTES = 16 << 20
UNKNOWN = f"The newest {KEPT} are kept, until the service ends; GET /v1/experiments lists them."
# A day of load at a few requests a second takes a minute.
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

    @property
    def key(self) -> str:
        """The record of the job's pipeline."""
        return self.record or str(self.asked["pipeline"])


class JobProcess(Protocol):
    """The process of one job: it reads one line of JSON and answers with lines of JSON.

    A context manager: the process ends with the block.
    """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    @property
    def is_late(self) -> bool:
        """True if it was killed because its time was up."""

    def send(self, line: str) -> None:
        """Send one line of JSON."""

    def answers(self) -> Iterator[Mapping[str, Any]]:
        """Its answers until its output ends. Errors: ValueError for a line that is not JSON."""

    def kill(self) -> None:
        """End it now."""


class JobStarter(Protocol):
    """Starts the process of a job."""

    def __call__(self, *, limit_s: float) -> JobProcess:
        """A new process, which is killed after `limit_s`. Errors: OSError."""


@dataclass
class _Entry:
    job: Job
    # Compressed, and dropped once it is sent: the rates of a day take some megabytes.
    spec: bytes
    child: JobProcess | None = field(default=None, repr=False)


class JobQueue:
    """Runs jobs, `RUNNING` at once, and takes the clients in turn. Thread-safe; it keeps jobs in memory only.

    The process of a job reads its specification as one line of JSON and writes lines of JSON:
    {"percent": n}, then {"result": {...}, "report": {...}} or {"fault": {...}}. It ends when its input does.
    """

    def __init__(
        self,
        clock: Clock,
        start: JobStarter,
        waiting: int = WAITING,
        longest_s: float = LONGEST_S,
        each: int = WAITING_EACH,
    ) -> None:
        self._each = each
        self._clock, self._start, self._most, self._longest_s = clock, start, waiting, longest_s
        self._entries: dict[str, _Entry] = {}
        self._queue: deque[str] = deque()
        self._lock = threading.Lock()
        # When a job of each client began last, as a count of those that began.
        self._began: dict[str, int] = {}
        self._threads = 0
        self._closed = False

    def submit(
        self, asked: Mapping[str, Any], spec: Mapping[str, Any], *, record: str = "", client: str = ""
    ) -> Job:
        """A new job of the client, about the pipeline of the record; BusyError if too many wait."""
        kept = packed(spec)
        with self._lock:
            self._check_room(client, len(kept))
            job = Job(uuid4().hex, asked, JobPhase.QUEUED, 0, self._clock.now(), record=record, client=client)
            self._entries[job.job_id] = _Entry(job, kept)
            self._queue.append(job.job_id)
            self._forget_oldest()
            if self._threads < RUNNING:
                self._threads += 1
                threading.Thread(target=self._work, name="experiments", daemon=True).start()
            return job

    def job(self, job_id: str) -> Job:
        """The job of that id; NotFoundError if there is none, or it was forgotten."""
        with self._lock:
            return self._entry(job_id).job

    def jobs(self) -> list[Job]:
        """Every job that is kept, newest first."""
        with self._lock:
            return [entry.job for entry in reversed(self._entries.values())]

    def cancel(self, job_id: str) -> Job:
        """Cancel the job unless it has ended, and return it."""
        with self._lock:
            entry = self._entry(job_id)
            if not entry.job.phase.is_end:
                self._end(entry, JobPhase.CANCELLED)
            return entry.job

    def forget(self, job_id: str) -> None:
        """Cancel the job unless it has ended, and forget it."""
        self.cancel(job_id)
        with self._lock:
            self._entries.pop(job_id, None)

    def end_record(self, record: str) -> None:
        """Cancel and forget the jobs about the pipeline of that record."""
        with self._lock:
            about = [job_id for job_id, entry in self._entries.items() if entry.job.key == record]
        for job_id in about:
            with suppress(NotFoundError):
                self.forget(job_id)

    def close(self) -> None:
        """Cancel every job and start no more."""
        with self._lock:
            self._closed = True
            for entry in self._entries.values():
                if not entry.job.phase.is_end:
                    self._end(entry, JobPhase.CANCELLED)

    def _entry(self, job_id: str) -> _Entry:
        if job_id not in self._entries:
            raise NotFoundError(f"there is no experiment {job_id!r}", hint=UNKNOWN)
        return self._entries[job_id]

    def _check_room(self, client: str, size: int) -> None:
        waiting = [self._entries[job_id] for job_id in self._queue]
        mine = [each for each in waiting if each.job.client == client]
        if len(mine) >= self._each or sum(len(each.spec) for each in mine) + size > WAITING_EACH_BYTES:
            raise BusyError(
                f"as many experiments of {client or 'one client'} wait as may",
                hint="Ask again once one has ended, or cancel one: GET /v1/experiments lists them.",
            )
        if len(waiting) >= self._most or sum(len(each.spec) for each in waiting) + size > WAITING_BYTES:
            raise BusyError("as many experiments wait as may", hint="Ask again once one has ended.")

    def _forget_oldest(self) -> None:
        """Forget ended jobs until few enough are left: the oldest of the client that holds the most."""
        ended = {job_id: entry.job for job_id, entry in self._entries.items() if entry.job.phase.is_end}
        sizes = {job_id: _size(job) for job_id, job in ended.items()}
        while len(ended) > KEPT or sum(sizes.values()) > KEPT_BYTES:
            of = Counter[str]()
            for job_id, job in ended.items():
                # A share of the number, or of the bytes, whichever there is less of.
                of[job.client] += max(KEPT_BYTES // KEPT, sizes[job_id])
            greediest = of.most_common(1)[0][0]
            oldest = next(job_id for job_id, job in ended.items() if job.client == greediest)
            for mapping in (self._entries, ended, sizes):
                del mapping[oldest]

    def _next(self) -> _Entry:
        """The oldest waiting job of the client whose last start is the longest ago."""
        waiting = [self._entries[job_id] for job_id in self._queue]
        entry = min(waiting, key=lambda each: self._began.get(each.job.client, 0))
        self._queue.remove(entry.job.job_id)
        newest = max(self._began.values(), default=0)
        clients = {each.job.client for each in waiting}
        self._began = {name: at for name, at in self._began.items() if name in clients}
        self._began[entry.job.client] = newest + 1
        return entry

    def _end(self, entry: _Entry, phase: JobPhase, **values: Any) -> None:
        """End the job; the caller holds the lock."""
        entry.job = replace(entry.job, phase=phase, ended_at=self._clock.now(), **values)
        if entry.job.job_id in self._queue:
            self._queue.remove(entry.job.job_id)
        entry.spec = b""
        # Its thread may let go of it meanwhile.
        if (child := entry.child) is not None:
            child.kill()
        self._forget_oldest()

    def _work(self) -> None:
        """Run the waiting jobs one after another until none waits."""
        while True:
            with self._lock:
                if self._closed or not self._queue:
                    self._threads -= 1
                    return
                entry = self._next()
                entry.job = replace(entry.job, phase=JobPhase.RUNNING, started_at=self._clock.now())
            try:
                self._run(entry)
            except Exception:
                LOG.exception("experiment %s failed", entry.job.job_id)
                self._fail(entry, JobFault("internal", "the service failed; its log names the experiment"))

    def _run(self, entry: _Entry) -> None:
        with self._start(limit_s=self._longest_s) as child:
            with self._lock:
                entry.child = child
                if entry.job.phase.is_end:
                    child.kill()
            try:
                child.send(_sent(entry))
                for said in child.answers():
                    self._heard(entry, said)
            except (OSError, ValueError) as error:
                LOG.warning("the process of experiment %s answered nonsense: %s", entry.job.job_id, error)
            finally:
                entry.child = None
        if child.is_late:
            detail = f"it took longer than {self._longest_s:g} s and was stopped"
            fault = JobFault("deadline", detail, "Ask for less: fewer repeats, minutes or requests.")
        else:
            fault = JobFault("internal", "its process ended before it had a result")
        self._fail(entry, fault)

    def _heard(self, entry: _Entry, said: Mapping[str, Any]) -> None:
        report = packed(said["report"]) if "report" in said else None
        with self._lock:
            if entry.job.phase.is_end:
                return
            if "percent" in said:
                entry.job = replace(entry.job, percent=int(said["percent"]))
            elif "result" in said:
                self._end(entry, JobPhase.DONE, percent=100, result=said["result"], report=report)
            else:
                self._end(entry, JobPhase.FAILED, fault=JobFault(**said["fault"]))

    def _fail(self, entry: _Entry, fault: JobFault) -> None:
        """End the job with that fault unless it has ended."""
        with self._lock:
            if not entry.job.phase.is_end:
                self._end(entry, JobPhase.FAILED, fault=fault)


def _sent(entry: _Entry) -> str:
    """The specification as JSON, which the entry drops."""
    spec, entry.spec = entry.spec, b""
    return zlib.decompress(spec).decode() if spec else ""


def _size(job: Job) -> int:
    """An estimate of the bytes that the job takes in memory."""
    return 2048 + len(job.report or b"") + len(json.dumps(job.result))
