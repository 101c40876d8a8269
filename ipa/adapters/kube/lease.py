"""Leadership by a coordination.k8s.io/v1 Lease: carries out the steps of ipa/control/election.py."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import LEASE, ObjectRef
from ipa.adapters.kube.transport import Json
from ipa.control import election
from ipa.model.errors import ConflictError, IpaError, NotFoundError

log = logging.getLogger("ipa.leadership")

TIME_FORM = "%Y-%m-%dT%H:%M:%S.%fZ"
# Longer than a call takes: the thread ends by itself before.
JOIN_S = 10.0


def elapsed_s() -> float:
    """Seconds of a monotonic clock that also counts the time in which the machine was suspended.

    Linux's CLOCK_MONOTONIC, which time.monotonic() is, stands still in a suspend: a leader that slept through
    its lease would wake and believe that it still leads. CLOCK_BOOTTIME goes on; a system without it uses
    time.monotonic().
    """
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class LeaseLeadership:
    """The Leadership of one replica of the service; `start` begins a thread that takes part in the election.

    `place` is the Lease. That thread calls `on_lead` when this replica becomes the leader.
    """

    def __init__(
        self,
        client: KubeClient,
        place: ObjectRef,
        identity: str,
        times: election.LeaseTimes,
        *,
        now_s: Callable[[], float] = elapsed_s,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        draw: Callable[[], float] = random.random,
        on_lead: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._place = client, place
        self._now_s, self._wall, self._draw = now_s, wall, draw
        self._on_lead = on_lead
        # Replaced as a whole by one thread at a time, and read by any.
        self._election = election.Election(identity, times)
        self._body: Json = {}
        self._stamped = datetime.min.replace(tzinfo=UTC)
        self._trouble = ""
        self._logged = ""
        self._led_term = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def leading(self) -> bool:
        """Return True if this replica may write now; checked at every call, so also right after a suspend."""
        return self.term() is not None

    def term(self) -> int | None:
        """The number of the present term, or None if the replica does not lead."""
        state = self._election
        return state.term if election.leads(state, self._now_s()) else None

    def standing(self) -> election.LeaderStatus:
        """The leader and its term, as far as this replica knows."""
        return election.leader_status(self._election, self._now_s(), self._trouble)

    def start(self) -> None:
        """Start the thread that takes part in the election."""
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)
        self._thread.start()

    def step(self) -> float:
        """Do the step that is due, and return the seconds until the next one. Never raises."""
        try:
            step = election.next_step(self._election, self._now_s(), self._stamp())
            if step.act is not election.LeaseAction.WAIT:
                self._carry_out(step)
        except Exception:
            # A bug must not end the participation: the lease runs out, and the next step tries again.
            log.exception("leadership: a step failed")
            self._election = election.unanswered(self._election, self._now_s(), 0.0)
            step = election.LeaseStep(election.LeaseAction.WAIT, wait_s=self._election.times.retry_s)
        now = self.standing()
        if now.leading and self._election.term != self._led_term:
            self._led_term = self._election.term
            self._on_lead()
        if now.words != self._logged:
            self._logged = now.words
            log.info("leadership: %s %s", now.identity, now.words)
        if step.act is not election.LeaseAction.WAIT:
            return 0.0
        # Not past the moment at which this replica begins or ceases to lead: it is logged then.
        state, now_s = self._election, self._now_s()
        turns = [at_s - now_s for at_s in (state.from_s, state.until_s) if at_s > now_s]
        return min([step.wait_s, *turns])

    def close(self, settled: Callable[[], bool] = lambda: True) -> None:
        """Leave the election; let another replica lead at once if `settled()`: no write is under way.

        `settled` is called once this replica no longer leads, so no write begins after it. If a write is
        under way, the lease runs out instead, and nobody leads meanwhile.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        released = election.release_of(self._election, self._now_s(), self._stamp())
        self._election = election.resigned(self._election)
        if released is None:
            return
        try:
            if not settled():
                raise ConflictError("a write is still in progress")
            self._client.replace(LEASE, self._place.namespace, self._with(released))
            log.info("leadership: released, another can lead at once")
        except IpaError as error:
            log.warning("leadership: not released (%s); another can lead once it expires", error.message)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._stop.wait(self.step())

    def _carry_out(self, step: election.LeaseStep) -> None:
        try:
            if step.lease is None:
                self._read()
            else:
                self._write(step, step.lease)
            self._trouble = ""
        except (ConflictError, NotFoundError):
            # Another replica was faster, or the Lease was deleted: read it again.
            self._election = election.refused(self._election, self._now_s(), self._draw())
        except IpaError as error:
            self._trouble = error.message
            self._election = election.unanswered(self._election, self._now_s(), self._draw())

    def _read(self) -> None:
        body: Json = {}
        with suppress(NotFoundError):
            body = self._client.get(LEASE, self._place.namespace, self._place.name)
        self._body = body
        lease = parse_lease(self._body, self._election.times.lease_s) if self._body else None
        self._election = election.saw(self._election, lease, self._now_s(), self._draw())

    def _write(self, step: election.LeaseStep, lease: election.Lease) -> None:
        namespace = self._place.namespace
        self._election = election.sending(self._election, step, self._now_s())
        if step.act is election.LeaseAction.CREATE:
            metadata = {"name": self._place.name, "namespace": namespace}
            fresh = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata}
            self._body = self._client.create(LEASE, namespace, fresh | {"spec": write_spec(lease)})
        else:
            self._body = self._client.replace(LEASE, namespace, self._with(lease))
        version = str(self._body["metadata"].get("resourceVersion", ""))
        self._election = election.wrote(self._election, version, self._now_s(), self._draw())

    def _with(self, lease: election.Lease) -> Json:
        """The body of the Lease as last read, with the new spec: labels and owners of others stay."""
        metadata = {**self._body["metadata"], "resourceVersion": lease.version}
        metadata.pop("managedFields", None)
        spec = self._body.get("spec")
        spec = {**(spec if isinstance(spec, dict) else {}), **write_spec(lease)}
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}

    def _stamp(self) -> str:
        """The present time as text, different from the last one even if the wall clock stands still."""
        now = self._wall()
        if now == self._stamped:
            now += timedelta(microseconds=1)
        self._stamped = now
        return now.strftime(TIME_FORM)


class TermLeadership:
    """The leadership as one control loop sees it, which checks it only now and then.

    A replica that slept through its lease and leads again at the next check may have missed another leader:
    its state is of an earlier term. `leading` is then False once, so that the loop discards that state and
    begins anew.
    """

    def __init__(self, leadership: LeaseLeadership) -> None:
        self._leadership = leadership
        self._last_term: int | None = None

    def leading(self) -> bool:
        """Return True if the replica leads, and has led without a break since a previous True."""
        before, self._last_term = self._last_term, self._leadership.term()
        if before not in (None, self._last_term):
            self._last_term = None
            return False
        return self._last_term is not None


def write_spec(lease: election.Lease) -> Json:
    """The `spec` of the Lease."""
    return {
        "holderIdentity": lease.holder or None,
        "leaseDurationSeconds": int(lease.lease_s),
        "acquireTime": lease.acquired_at or None,
        "renewTime": lease.renewed_at or None,
        "leaseTransitions": lease.transitions,
    }


def parse_lease(body: Json, usual_s: float) -> election.Lease:
    """Parse a Lease; `usual_s` replaces an invalid duration, 0 an invalid number."""
    spec = body.get("spec")

    def value(name: str, otherwise: Any) -> Any:
        entry = spec.get(name) if isinstance(spec, dict) else None
        is_number = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
        return entry if (isinstance(entry, str) if otherwise == "" else is_number) else otherwise

    return election.Lease(
        holder=value("holderIdentity", ""),
        lease_s=float(value("leaseDurationSeconds", usual_s)),
        acquired_at=value("acquireTime", ""),
        renewed_at=value("renewTime", ""),
        transitions=value("leaseTransitions", 0),
        version=str(body["metadata"].get("resourceVersion", "")),
    )
