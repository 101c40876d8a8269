"""A queue of jobs: long work, each in a process of its own, a few at a time."""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from ipa.control.jobs import LONGEST_S, Job, JobFault, JobPhase, JobStore
from ipa.control.ports import Clock
from ipa.model.errors import BusyError, NotFoundError, UnavailableError

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
UNKNOWN = f"The newest {KEPT} are kept; GET /v1/experiments lists them."
# A job during which the service ended this often is the likely cause of it.
MOST_STARTS = 2


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
    # False: another service runs it.
    is_mine: bool = True
    # True if the store has it.
    is_kept: bool = False


class JobQueue:
    """Runs jobs, `RUNNING` at once, and takes the clients in turn. Thread-safe.

    The store keeps the jobs over a restart: those that have ended as they are, the others begin again, since
    the same specification has the same result. While the store fails they are in memory only.

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
        store: JobStore | None = None,
    ) -> None:
        self._each = each
        self._store = store
        # This run of the service, in the store.
        self._holder = uuid4().hex
        self._clock, self._start, self._most, self._longest_s = clock, start, waiting, longest_s
        self._entries: dict[str, _Entry] = {}
        self._queue: deque[str] = deque()
        self._lock = threading.Lock()
        # When a job of each client began last, as a count of those that began.
        self._began: dict[str, int] = {}
        self._threads = 0
        self._closed = False
        # The ids whose state is to be written to the store, and the turn of the thread that writes it.
        self._unsaved: dict[str, None] = {}
        self._saving = threading.Lock()
        self._look()

    def submit(
        self, asked: Mapping[str, Any], spec: Mapping[str, Any], *, record: str = "", client: str = ""
    ) -> Job:
        """A new job of the client, about the pipeline of the record; BusyError if too many wait."""
        kept = packed(spec)
        job = Job(uuid4().hex, asked, JobPhase.QUEUED, 0, self._clock.now(), record=record, client=client)
        with self._changing():
            self._check_room(client, len(kept))
            entry = self._entries[job.job_id] = _Entry(job, kept)
            # Before a thread may take its specification away.
            with self._storing():
                if self._store is not None:
                    self._store.keep(job, self._holder, kept)
                    entry.is_kept = True
            self._queue.append(job.job_id)
            self._forget_oldest()
            self._begin()
            return job

    def job(self, job_id: str) -> Job:
        """The job of that id; NotFoundError if there is none, or it was forgotten."""
        entry = self._entries.get(job_id)
        if entry is None or not entry.is_mine:
            self._look()
        with self._lock:
            return self._entry(job_id).job

    def jobs(self) -> list[Job]:
        """Every job that is kept, newest first."""
        self._look()
        with self._lock:
            return [entry.job for entry in reversed(self._entries.values())]

    def cancel(self, job_id: str) -> Job:
        """Cancel the job unless it has ended, and return it."""
        with self._changing():
            entry = self._entry(job_id)
            if not entry.job.phase.is_end:
                self._end(entry, JobPhase.CANCELLED)
            return entry.job

    def forget(self, job_id: str) -> None:
        """Cancel the job unless it has ended, and forget it."""
        self.cancel(job_id)
        with self._changing():
            self._drop(job_id)

    def end_record(self, record: str) -> None:
        """Cancel and forget the jobs about the pipeline of that record."""
        self._look()
        with self._lock:
            about = [job_id for job_id, entry in self._entries.items() if entry.job.key == record]
        for job_id in about:
            with suppress(NotFoundError):
                self.forget(job_id)

    def close(self) -> None:
        """End the processes and start no more. Jobs that have not ended begin again with the next service."""
        with self._lock:
            self._closed = True
            unended = [it for it in self._entries.values() if it.is_mine and not it.job.phase.is_end]
            left = [entry.job for entry in unended if entry.is_kept]
            for entry in unended:
                self._end(entry, JobPhase.CANCELLED)
                del self._unsaved[entry.job.job_id]
        # What has ended before may not be in the store yet.
        self._save()
        if (store := self._store) is None:
            return
        for job in left:
            # This end is no fault of the job's.
            starts = job.starts - (job.phase is JobPhase.RUNNING)
            with self._storing():
                store.keep(replace(job, phase=JobPhase.QUEUED, percent=0, starts=starts), "")

    def _look(self) -> None:
        """Take the jobs that no service runs, and see those that others have started, ended and forgotten."""
        if (store := self._store) is None:
            return
        with self._storing():
            with self._lock:
                known = [job_id for job_id, entry in self._entries.items() if entry.is_kept]
            taken = store.take(self._holder, self._clock.now().timestamp())
            phases = store.phases()
            with self._lock:
                settled = [
                    it.job.job_id for it in self._entries.values() if it.is_mine or it.job.phase.is_end
                ]
            others = store.jobs(but=[*settled, *(job.job_id for job, _ in taken)])
            with self._changing():
                for job_id in known:
                    self._follow(job_id, phases.get(job_id))
                self._entries |= {job.job_id: _Entry(job, b"", is_mine=False, is_kept=True) for job in others}
                for job, spec in taken:
                    self._take(job, spec)
                if taken or others:
                    by_age = sorted(self._entries.items(), key=lambda it: it[1].job.created_at)
                    self._entries = dict(by_age)
                self._begin()

    def _follow(self, job_id: str, stored: JobPhase | None) -> None:
        """End the job if it was ended elsewhere, forget it if it is not stored; the caller holds the lock."""
        entry = self._entries.get(job_id)
        if entry is None or (stored is not None and not (entry.is_mine and stored.is_end)):
            return
        if not entry.job.phase.is_end:
            self._end(entry, JobPhase.CANCELLED)
        if stored is None:
            self._entries.pop(job_id, None)

    def _take(self, job: Job, spec: bytes) -> None:
        """Queue a job of a service that has ended; the caller holds the lock."""
        waiting = replace(job, phase=JobPhase.QUEUED, percent=0, started_at=None)
        entry = self._entries[job.job_id] = _Entry(waiting, spec, is_kept=True)
        if job.starts >= MOST_STARTS:
            detail = f"the service ended {job.starts} times while it ran"
            fault = JobFault("internal", detail, "Ask for less: fewer repeats, minutes or requests.")
            self._end(entry, JobPhase.FAILED, fault=fault)
        else:
            self._queue.append(job.job_id)

    def _begin(self) -> None:
        """Start a thread if one more job may run; the caller holds the lock."""
        if self._queue and self._threads < RUNNING and not self._closed:
            self._threads += 1
            threading.Thread(target=self._work, name="experiments", daemon=True).start()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, then write the changed jobs to the store."""
        try:
            with self._lock:
                yield
        finally:
            self._save()

    def _save(self) -> None:
        """Write the changed jobs as they are now, one thread at a time, so that the newest comes last."""
        if (store := self._store) is None:
            return
        with self._saving:
            with self._lock:
                changed = {job_id: self._entries.get(job_id) for job_id in self._unsaved}
                self._unsaved.clear()
            with self._storing():
                gone = [job_id for job_id, entry in changed.items() if entry is None]
                if gone:
                    store.forget(gone)
                for entry in changed.values():
                    if entry is not None and entry.is_kept:
                        store.keep(entry.job, self._holder)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Go on in memory if the store fails."""
        try:
            yield
        except UnavailableError as error:
            LOG.warning("experiments are not in the store: %s", error.message)

    def _drop(self, job_id: str) -> None:
        """Forget the job; the caller holds the lock."""
        entry = self._entries.pop(job_id, None)
        if entry is not None and entry.is_kept:
            self._unsaved[job_id] = None

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
            self._drop(oldest)
            del ended[oldest], sizes[oldest]

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
        self._unsaved[entry.job.job_id] = None
        # Its thread may let go of it meanwhile.
        if (child := entry.child) is not None:
            child.kill()
        self._forget_oldest()

    def _work(self) -> None:
        """Run the waiting jobs one after another until none waits."""
        while True:
            with self._changing():
                if self._closed or not self._queue:
                    self._threads -= 1
                    return
                entry = self._next()
                entry.job = replace(
                    entry.job,
                    phase=JobPhase.RUNNING,
                    started_at=self._clock.now(),
                    starts=entry.job.starts + 1,
                )
                self._unsaved[entry.job.job_id] = None
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
        with self._changing():
            if entry.job.phase.is_end or self._closed:
                return
            if "percent" in said:
                entry.job = replace(entry.job, percent=int(said["percent"]))
            elif "result" in said:
                self._end(entry, JobPhase.DONE, percent=100, result=said["result"], report=report)
            else:
                self._end(entry, JobPhase.FAILED, fault=JobFault(**said["fault"]))

    def _fail(self, entry: _Entry, fault: JobFault) -> None:
        """End the job with that fault unless it has ended."""
        with self._changing():
            if not entry.job.phase.is_end and not self._closed:
                self._end(entry, JobPhase.FAILED, fault=fault)


def _sent(entry: _Entry) -> str:
    """The specification as JSON, which the entry drops."""
    spec, entry.spec = entry.spec, b""
    return zlib.decompress(spec).decode() if spec else ""


def _size(job: Job) -> int:
    """An estimate of the bytes that the job takes in memory."""
    return 2048 + len(job.report or b"") + len(json.dumps(job.result))


def packed(values: Any) -> bytes:
    """JSON values compressed."""
    return zlib.compress(json.dumps(values).encode())
