"""Leader election among replicas of the service, as a pure state machine over one Lease.

    READ ─free, expired─▶ REPLACE ─answered▶ leads ─retry_s▶ REPLACE (renew) ▶ …
    READ ─absent─▶ CREATE ─answered▶ holds, and leads once nobody else can lead any more
    READ ─held by another─▶ WAIT ▶ READ          any write ─409▶ READ     ─no answer▶ READ

Nobody's clock is compared with another's. A holder leads from its acquisition until `renew_deadline_s` after
the *sending* of its last renewal that was answered; another takes the lease no sooner than `lease_s` after it
*saw* the record's version change last. Since the sending comes before the change and the change before the
seeing, and the deadline is shorter than the lease, at most one leads at any moment, whatever the wall clocks
show, however late an answer is, and however long a replica is suspended. Every write is made onto the version
that was read.

A Lease that people have cleared, renamed or deleted is treated as held by a replica that may still lead: its
duration is waited out. Only the holder's own release is taken at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf

# A wait is up to this much shorter than `retry_s`, so that replicas do not ask in step.
JITTER_RATIO = 0.2
# The duration in a record that was released; no service is configured with one so short.
RELEASED_S = 1.0


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """The duration of a lease, its holder's renewal deadline, and the interval between reads.

    The defaults are client-go's. `faults` lists in words what is wrong with them.
    """

    lease_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0

    def faults(self) -> tuple[str, ...]:
        """The faults by which two replicas might lead at once, or none for long."""
        faults = []
        if self.lease_s <= RELEASED_S or self.lease_s != int(self.lease_s):
            faults.append(f"the lease of {self.lease_s:g} s is not a whole number of seconds above 1")
        if self.renew_deadline_s >= self.lease_s:
            faults.append(
                f"the renew deadline of {self.renew_deadline_s:g} s is not below the lease of "
                f"{self.lease_s:g} s, so two could lead at once"
            )
        if not 0 < self.retry_s < self.renew_deadline_s:
            faults.append(
                f"the retry of {self.retry_s:g} s is not below the renew deadline of "
                f"{self.renew_deadline_s:g} s, so no renewal could be missed"
            )
        return tuple(faults)


@dataclass(frozen=True, slots=True)
class Lease:
    """The fields of a Lease. Its times only inform and show a change: no clock is compared with them.

    Leases with the same fields are equal, whatever their versions.
    """

    holder: str
    lease_s: float
    acquired_at: str = ""
    renewed_at: str = ""
    transitions: int = 0
    version: str = field(default="", compare=False)

    @property
    def is_released(self) -> bool:
        """True if its holder released it. A Lease cleared by hand still has its acquisition time."""
        return not self.holder and self.lease_s <= RELEASED_S and not self.acquired_at


class LeaseAction(StrEnum):
    """The next action on the Lease."""

    WAIT = "wait"
    READ = "read"
    CREATE = "create"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class LeaseStep:
    """The next step: for a write the Lease and the `version` it replaces, for a wait its duration."""

    act: LeaseAction
    lease: Lease | None = None
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Election:
    """The state of one replica. All times are of its own clock, which must not stop while the replica does.

    `lease` is the record as last read and `changed_s` when a read last differed; `is_current` is true if it
    can be written onto; `mine` is this replica's own newest record while it holds the Lease; `tried` is the
    write in flight, sent at `sent_s`. It leads in `from_s` ≤ now < `until_s`. `term` counts how often it
    became leader.
    """

    me: str
    times: LeaseTimes = LeaseTimes()
    lease: Lease | None = None
    changed_s: float = -inf
    seen_s: float = -inf
    is_current: bool = False
    mine: Lease | None = None
    tried: LeaseStep | None = None
    sent_s: float = -inf
    from_s: float = inf
    until_s: float = -inf
    due_s: float = -inf
    refused_before: bool = False
    term: int = 0


@dataclass(frozen=True, slots=True)
class LeaderStatus:
    """The leader as one replica knows it ("" for none), and why the Lease cannot be used."""

    leading: bool
    identity: str
    leader: str
    trouble: str = ""

    @property
    def words(self) -> str:
        """The status in a few words."""
        if self.leading:
            return "leads"
        if self.trouble:
            return f"stands by, because the Lease cannot be used: {self.trouble}"
        if self.leader == self.identity:
            return "holds the lease, and leads once no other replica can be leading"
        return f"stands by, {self.leader or 'nobody'} leads"


# A service that runs alone.
ALONE = LeaderStatus(True, "", "")


def leader_status(election: Election, now_s: float, trouble: str = "") -> LeaderStatus:
    """The status now; `trouble` is the reason if the Lease cannot be used."""
    leading = leads(election, now_s)
    holder = election.lease.holder if election.lease else ""
    return LeaderStatus(leading, election.me, election.me if leading else holder, trouble)


def leads(election: Election, now_s: float) -> bool:
    """True if this replica may write now."""
    return election.from_s <= now_s < election.until_s


def next_step(election: Election, now_s: float, stamp: str) -> LeaseStep:
    """The next step. `stamp` is the wall-clock time as text, different at every call."""
    if now_s < election.due_s:
        return LeaseStep(LeaseAction.WAIT, wait_s=election.due_s - now_s)
    if not election.is_current:
        return LeaseStep(LeaseAction.READ)
    lease, lease_s = election.lease, election.times.lease_s
    if lease is None:
        return LeaseStep(LeaseAction.CREATE, Lease(election.me, lease_s, stamp, stamp))
    if _is_ours(election, lease):
        return LeaseStep(LeaseAction.REPLACE, replace(lease, lease_s=lease_s, renewed_at=stamp))
    taken = Lease(election.me, lease_s, stamp, stamp, lease.transitions + 1, lease.version)
    return LeaseStep(LeaseAction.REPLACE, taken)


def sending(election: Election, step: LeaseStep, now_s: float) -> Election:
    """The election while a write is in flight; to be called before the write is sent."""
    return replace(election, tried=step, sent_s=now_s)


def saw(election: Election, lease: Lease | None, now_s: float, jitter: float) -> Election:
    """The election after the answer to a read; `lease` None if there is no Lease. `jitter` is in 0..1."""
    # By version: what says the same may have said something else meanwhile.
    news = election.seen_s == -inf or (lease and lease.version) != (election.lease and election.lease.version)
    election = replace(
        election,
        lease=lease,
        changed_s=now_s if news else election.changed_s,
        seen_s=now_s,
        is_current=True,
        due_s=now_s,
    )
    tried = election.tried
    if lease is not None and tried is not None and lease == tried.lease:
        # It was not answered, and happened, perhaps long ago: renew it at once.
        return replace(wrote(election, lease.version, now_s, jitter), due_s=now_s)
    election = replace(election, tried=None)
    if lease is None:
        return election
    mine = election.mine
    if _is_ours(election, lease) and (leads(election, now_s) or (mine and lease.version == mine.version)):
        return election
    # Another's; or ours from before a lapse, since when somebody else wrote.
    election = replace(resigned(election), mine=None)
    expires_s = election.changed_s + max(election.times.lease_s, lease.lease_s)
    if lease.is_released or now_s >= expires_s:
        return election
    return replace(election, is_current=False, due_s=min(now_s + _retry_s(election, jitter), expires_s))


def wrote(election: Election, version: str, now_s: float, jitter: float) -> Election:
    """The election after its write was answered with the new version."""
    times, tried = election.times, election.tried
    assert tried is not None and tried.lease is not None
    lease, from_s, term = replace(tried.lease, version=version), election.from_s, election.term
    if not leads(election, now_s):
        if tried.act is LeaseAction.CREATE:
            # The holder of the deleted Lease may not know yet.
            from_s = now_s + times.lease_s
        elif _is_ours(election, lease) and from_s < inf:
            # Nobody else wrote since: leads anew after a lapse, or goes on waiting to lead.
            from_s = max(from_s, now_s)
        else:
            from_s = now_s
        term += from_s != election.from_s
    return replace(
        election,
        lease=lease,
        changed_s=now_s,
        seen_s=now_s,
        is_current=True,
        mine=lease,
        tried=None,
        from_s=from_s,
        until_s=election.sent_s + times.renew_deadline_s,
        due_s=now_s + _retry_s(election, jitter),
        refused_before=False,
        term=term,
    )


def refused(election: Election, now_s: float, jitter: float) -> Election:
    """The election after its write was refused, since another replica wrote first: read the Lease again.

    At once the first time; repeated refusals wait in between.
    """
    wait_s = _retry_s(election, jitter) if election.refused_before else 0.0
    return replace(
        election,
        tried=None,
        is_current=False,
        refused_before=True,
        seen_s=now_s,
        due_s=now_s + wait_s,
    )


def unanswered(election: Election, now_s: float, jitter: float) -> Election:
    """The election after a read or a write without an answer: read the Lease again."""
    return replace(election, is_current=False, due_s=now_s + _retry_s(election, jitter))


def resigned(election: Election) -> Election:
    """The election after this replica resigned: it does not lead, even if it holds the Lease."""
    return replace(election, from_s=inf, until_s=-inf)


def release_of(election: Election, now_s: float, stamp: str) -> Lease | None:
    """The Lease that lets another replica lead at once; None if this one does not hold it.

    A holder that does not lead yet waits for another replica that may still lead, and so must its successor.
    """
    lease = election.lease
    if lease is None or not _is_ours(election, lease) or now_s < election.from_s:
        return None
    return replace(lease, holder="", lease_s=RELEASED_S, acquired_at="", renewed_at=stamp)


def _is_ours(election: Election, lease: Lease) -> bool:
    """True if this replica wrote the Lease; its name alone may be someone else's edit."""
    mine = election.mine
    return (
        mine is not None
        and lease.holder == election.me
        and (lease.acquired_at, lease.transitions) == (mine.acquired_at, mine.transitions)
    )


def _retry_s(election: Election, jitter: float) -> float:
    return election.times.retry_s * (1.0 - JITTER_RATIO * jitter)
