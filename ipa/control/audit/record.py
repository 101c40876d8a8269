"""The record of all decisions and changes: its entries, how they are chained, its checkpoints and its tail.

Each entry is one canonical JSON text that holds the digest of the pipeline's entry before it. Changing,
removing or inserting an entry therefore shows in every later one (docs/explanation/audit.md). Checkpoints
prove what retention removed from a chain, so that the rest verifies. Events are these entries too.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from ipa.control.canonical import canonical_json, digest, plain
from ipa.control.engine.actuation import Actuation, ActuationPhase
from ipa.control.engine.guards import total_cores
from ipa.control.ports import Attribution, PipelineControl
from ipa.model.decision import Action, Change, Decision
from ipa.model.errors import RecordError
from ipa.model.recording import UNLESS_DEFAULT, recorded_as

# The author of decisions that no person asked for.
SERVICE = "ipa"
# Between the name and the identifier of a record; no name of a pipeline contains it, and no URL escapes it.
MARK = "~"
# The entry before the first one.
NOTHING = ""
RESTORE = "Compare with an export of `ipa audit`, or with a backup of the store."


class EntryKind(StrEnum):
    """The subject of an entry."""

    DECISION = "decision"
    # The end of a change that was written.
    CHANGE = "change"
    # A person's action on the pipeline.
    CONTROL = "control"
    # The start of decisions that an older version of the store recorded.
    ADOPTED = "adopted"


APPLIED, LANDED = "applied", "landed"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry: who did what and why. `what` is a reason code, an outcome, or a person's action.

    `content` is the digest of the whole decision, which is stored beside the entry. `record` is the name of
    its record if it is not the pipeline's: several pipelines may have had that name in turn.
    """

    pipeline: str
    kind: EntryKind
    what: str
    at: str
    by: str = ""
    why: str = ""
    was: Any = field(default=None, metadata=recorded_as("from"))
    becomes: Any = field(default=None, metadata=recorded_as("to"))
    decision_id: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    record: str = field(default="", metadata=UNLESS_DEFAULT)

    @property
    def key(self) -> str:
        """The record that the entry belongs to."""
        return self.record or self.pipeline

    def text(self, seq: int, number: int, previous: str) -> str:
        """Return the text as entry `number` of its pipeline, `seq` of all, after the digest `previous`."""
        entry = replace(self, record="") if self.key == self.pipeline else self
        return canonical_json({**plain(entry), "seq": seq, "number": number, "previous": previous})


@dataclass(frozen=True)
class Recorded:
    """A stored entry: its text, and the text of its decision if that was read too."""

    text: str
    decision: str | None = None

    @cached_property
    def digest(self) -> str:
        """The entry's digest."""
        return digest(self.text)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The values of the text; RecordError if it is damaged."""
        try:
            values: dict[str, Any] = json.loads(self.text)
        except ValueError as error:
            raise RecordError(f"an entry of the record is damaged: {error}", hint=RESTORE) from error
        return values

    @cached_property
    def seq(self) -> int:
        """Its number among all entries. Does not cache `values`: those of a thousand would fill memory."""
        return int(Recorded(self.text).values["seq"])

    def line(self) -> str:
        """The entry as a line of an export."""
        return f'{{"digest":"{self.digest}","entry":{self.text}}}'


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry of a chain. A copy kept elsewhere proves later that the chain was not rewritten."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"


# A head as text.
HEAD = r"^[0-9]{1,18}:[0-9a-f]{64}$"


def head_of(text: str) -> Head:
    """Parse a head; ValueError if the text is not one."""
    if not re.match(HEAD, text):
        raise ValueError(f"{text!r} is not a head: a number, a colon and 64 hexadecimal digits")
    number, _, digest_ = text.partition(":")
    return Head(int(number), digest_)


@dataclass(frozen=True, slots=True)
class Verified:
    """The contents of a verified chain. Retention removed `removed` of its `decisions`.

    `unchecked` checkpoints have no signature, or no key was available to verify it.
    """

    decisions: int
    head: Head
    removed: int = 0
    unchecked: int = 0

    @property
    def entries(self) -> int:
        """The number of entries."""
        return self.head.number


def record_in(values: Mapping[str, Any]) -> str:
    """The record that the entry with these values belongs to."""
    return str(values.get("record") or values["pipeline"])


class Chain:
    """A verifier of the entries of one record, in order. RecordError names the first one that was changed.

    `anchor` is a head of the record that was kept elsewhere.
    """

    def __init__(self, pipeline: str, anchor: Head | None = None) -> None:
        self.pipeline, self.anchor = pipeline, anchor
        self.head = Head(0, NOTHING)
        self.decisions = self.removed = self.unchecked = 0

    def skip(self, head: Head, decisions: int, removed: int, *, unchecked: bool) -> None:
        """Continue at the head of a run of entries that a checkpoint covers."""
        self.head = head
        self.unchecked += unchecked
        self.decisions += decisions
        self.removed += removed
        self._meet_anchor()

    def _meet_anchor(self) -> None:
        anchor = self.anchor
        if anchor is not None and anchor.number == self.head.number and anchor.digest != self.head.digest:
            raise self.fault(f"entry {anchor.number} does not have the digest of the anchor")

    def add(self, text: str, stored_digest: str) -> dict[str, Any]:
        """Check the next entry, and return its values."""
        number = self.head.number + 1
        if digest(text) != stored_digest:
            raise self.fault(f"entry {number} was changed")
        values: dict[str, Any] = json.loads(text)
        if record_in(values) != self.pipeline:
            raise self.fault(f"entry {number} is of pipeline {record_in(values)!r}")
        if values["number"] != number:
            what = "was removed" if values["number"] > number else "was inserted or moved"
            raise self.fault(f"entry {number} {what}: entry {values['number']} is in its place")
        if values["previous"] != self.head.digest:
            raise self.fault(f"entry {number} does not follow the present entry {number - 1}")
        if values["kind"] == EntryKind.ADOPTED and values["facts"].get("damaged"):
            raise self.fault(f"decision {values['facts']['damaged']!r} was changed, as entry {number} notes")
        self.decisions += bool(values["content"])
        self.head = Head(number, stored_digest)
        self._meet_anchor()
        return values

    def ended(self, stored_head: Head | None = None) -> Verified:
        """Return the contents of the chain if it ends at the stored head and reaches the anchor."""
        here = self.head.number
        for name, head in (("the head", stored_head), ("the anchor", self.anchor)):
            if head is not None and head.number > here:
                which = f"{here + 1} was" if head.number == here + 1 else f"{here + 1} to {head.number} were"
                raise self.fault(f"entry {which} removed from the end: {name} is entry {head.number}")
        if stored_head is not None and stored_head.number < here:
            raise self.fault(f"entry {stored_head.number + 1} was inserted after the end")
        if stored_head is not None and stored_head.digest != self.head.digest:
            raise self.fault(f"entry {here} does not have the digest of the head")
        return Verified(self.decisions, self.head, self.removed, self.unchecked)

    def fault(self, message: str) -> RecordError:
        """Return the error for a fault of this chain."""
        return RecordError(f"the record of {self.pipeline!r} is damaged: {message}", hint=RESTORE)


def of_decision(decision: Decision, content: str) -> Entry:
    """The entry for a decision whose text has the digest `content`."""
    is_change = decision.action is Action.APPLY
    return Entry(
        pipeline=decision.pipeline,
        kind=EntryKind.DECISION,
        what=decision.reason.value,
        at=decision.at,
        by=decision.by or SERVICE,
        why=decision.detail,
        was=plain(decision.previous) if is_change else None,
        becomes=plain(decision.configs) if is_change else None,
        decision_id=decision.decision_id,
        facts={
            "action": decision.action,
            "tick": decision.tick,
            "mode": decision.mode,
            "observed_rate_rps": decision.observed_rate_rps,
            "observed_latency_s": decision.observed_latency_s,
            "forecast_upper_rps": decision.forecast.upper_rps if decision.forecast else None,
            "pas": decision.plan.pas if decision.plan else None,
            "cores": total_cores(decision.configs) if decision.configs else None,
        },
        content=content,
    )


def of_control(
    pipeline: str, was: PipelineControl, becomes: PipelineControl, attribution: Attribution, at: str
) -> Entry:
    """The entry for a person's action, with only those fields of the control that it changed."""
    old, new = plain(was), plain(becomes)
    changed = [key for key in old | new if old.get(key) != new.get(key)]
    return Entry(
        pipeline=pipeline,
        kind=EntryKind.CONTROL,
        what=attribution.deed.value,
        at=at,
        by=attribution.by,
        why=attribution.why,
        was={key: old.get(key) for key in changed},
        becomes={key: new.get(key) for key in changed},
    )


def of_ended(ended: Actuation, at: str) -> Entry:
    """The entry for a change that is no longer in flight."""
    assert ended.change is not None
    what = LANDED if ended.phase is ActuationPhase.SETTLED else ended.phase.value
    return replace(of_applied(ended.change, at), what=what, why=ended.detail)


def of_applied(change: Change | Decision, at: str, by: str = "") -> Entry:
    """The entry for a change that was accepted and now rolls out."""
    return Entry(
        pipeline=change.pipeline,
        kind=EntryKind.CHANGE,
        what=APPLIED,
        at=at,
        by=by or SERVICE,
        was=plain(change.previous),
        becomes=plain(change.configs),
        decision_id=change.decision_id,
    )


# (key id, signature, text) -> True if that key signed the text.
Verifies = Callable[[str, str, str], bool]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run of a pipeline's chain: the entries `first` to `last` follow `previous` and end at `head`.

    It had `decisions`; `held` holds, `changes` and `kept` entries of all kinds are still stored. `entries` is
    the digest of the kept entries' digests, `content` that of their block.
    """

    pipeline: str
    first: int
    last: int
    first_seq: int
    last_seq: int
    first_s: float
    last_s: float
    first_tick: int = 0
    last_tick: int = 0
    decisions: int = 0
    held: int = 0
    changes: int = 0
    kept: int = 0
    previous: str = ""
    head: str = ""
    entries: str = ""
    content: str = ""

    @property
    def text(self) -> str:
        """The text that is signed."""
        return canonical_json(self)

    @property
    def is_whole(self) -> bool:
        """True if none of its rows was removed."""
        return self.kept == self.last - self.first + 1

    @property
    def removed(self) -> int:
        """The decisions that were removed from it."""
        return self.decisions - self.held - self.changes

    @property
    def where(self) -> str:
        """The range of entries, in words."""
        return f"entries {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with its signature; both texts are empty if it is not signed.

    `block` are the kept entries in the form in which the store packs them; empty if it was not read.
    """

    checkpoint: Checkpoint
    key_id: str
    signature: str
    block: bytes = b""

    def line(self) -> str:
        """The checkpoint as a line of an export."""
        return canonical_json(
            {"checkpoint": self.checkpoint, "key_id": self.key_id, "signature": self.signature}
        )


def entries_digest(digests: list[str]) -> str:
    """Return the digest of the digests of entries, in their order."""
    return digest("\n".join(digests))


class ExportedChain(Chain):
    """A chain of an export, whose checkpoints come first and cover the entries that retention removed."""

    def __init__(self, pipeline: str, anchor: Head | None = None) -> None:
        super().__init__(pipeline, anchor)
        # Each checkpoint, with the digests of the entries within it.
        self._spans: list[tuple[Checkpoint, list[str]]] = []

    def cover(self, checkpoint: Checkpoint, *, unchecked: bool) -> None:
        """Add a checkpoint."""
        self._spans.append((checkpoint, []))
        self.unchecked += unchecked

    def add_line(self, entry: Mapping[str, Any], text: str, stored_digest: str) -> None:
        """Check the next entry, after advancing over removed ones that checkpoints cover."""
        number = entry.get("number")
        while isinstance(number, int) and self.head.number + 1 < number and (span := self._span(1)):
            if span[0].last < number:
                self.head = Head(span[0].last, span[0].head)
            else:
                self.head = Head(number - 1, str(entry.get("previous")))
        self.add(text, stored_digest)
        if span := self._span(0):
            span[1].append(self.head.digest)

    def finish(self) -> Verified:
        """Advance to the end of the last checkpoint, check the entries within each, and end the chain."""
        while span := self._span(1):
            self.head = Head(span[0].last, span[0].head)
        for checkpoint, digests in self._spans:
            if len(digests) != checkpoint.kept or entries_digest(digests) != checkpoint.entries:
                words = f"the export does not have the entries of the checkpoint of {checkpoint.where}"
                raise self.fault(words)
            self.removed += checkpoint.removed
            self.decisions += checkpoint.removed
        return self.ended()

    def _span(self, ahead: int) -> tuple[Checkpoint, list[str]] | None:
        """The checkpoint that covers the entry `ahead` of the newest one, with the digests within it."""
        number = self.head.number + ahead
        return next((each for each in self._spans if each[0].first <= number <= each[0].last), None)


def verify_lines(
    lines: Iterable[str], anchors: Mapping[str, Head], verifies: Verifies | None = None
) -> dict[str, Verified]:
    """Verify the lines of an export, and return the contents of each record from its first entry on.

    RecordError names the first changed line. `verifies` checks the signatures of checkpoints, which come
    before the entries; without it they are counted as unchecked.
    """
    chains: dict[str, ExportedChain] = {}

    def chain_of(pipeline: str) -> ExportedChain:
        return chains.setdefault(pipeline, ExportedChain(pipeline, anchors.get(pipeline)))

    for index, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            if "checkpoint" in values:
                known = {each.name: values["checkpoint"][each.name] for each in fields(Checkpoint)}
                checkpoint, key_id = Checkpoint(**known), str(values["key_id"])
                chain, check = chain_of(checkpoint.pipeline), verifies if key_id else None
                if check and not check(key_id, str(values["signature"]), checkpoint.text):
                    raise chain.fault(f"the checkpoint of {checkpoint.where} is not signed with a known key")
                chain.cover(checkpoint, unchecked=check is None)
                continue
            text, stored_digest = canonical_json(values["entry"]), str(values["digest"])
            chain = chain_of(record_in(values["entry"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"line {index} is not an entry of a record: {error}", hint=RESTORE) from error
        try:
            chain.add_line(values["entry"], text, stored_digest)
        except (KeyError, AttributeError) as error:
            raise chain.fault(f"entry {chain.head.number + 1} was changed") from error
    chains = {name: chain for name, chain in chains.items() if chain.head.number}
    missing = [name for name in anchors if name not in chains]
    if missing:
        raise RecordError(f"there is no entry of {', '.join(missing)}", hint=RESTORE)
    return {name: chain.finish() for name, chain in chains.items()}


# The interval of reads of the store; a tick is some seconds.
POLL_S = 0.5
# Entries that are cached, about a kilobyte each; older ones are read again.
REMEMBERED = 1000
# A follower that missed more entries than this has to start anew: reading them all would take longer.
MAX_MISSED = 10_000


class FollowedRecord(Protocol):
    """The reader of the store's record that a `RecordFeed` follows."""

    def entries(self, after: int, limit: int, pipeline: str | None = None) -> Sequence[Recorded]:
        """Return the `limit` entries after `after`, oldest first."""

    def newest_seq(self) -> int:
        """Return the `seq` of the newest entry; 0 without entries."""

    def checkpoints(self, after: int, pipeline: str | None = None) -> Iterable[SignedCheckpoint]:
        """Return the checkpoints of entries after `after` that retention removed."""


class RecordFeed:
    """The newest entries of the record. Thread-safe; raises the store's errors."""

    def __init__(
        self,
        record: FollowedRecord,
        monotonic_s: Callable[[], float],
        *,
        poll_s: float = POLL_S,
        max_missed: int = MAX_MISSED,
    ) -> None:
        self._record, self._monotonic_s = record, monotonic_s
        self.poll_s, self.max_missed = poll_s, max_missed
        self._lock = threading.Lock()
        self._recent: deque[Recorded] = deque(maxlen=REMEMBERED)
        # The `seq` of the newest entry that was read.
        self._newest: int | None = None
        self._read_s = 0.0

    def newest(self, *, now: bool = False) -> int:
        """Return the `seq` of the newest entry, as of the last read; with `now` it reads first."""
        with self._lock:
            return self._refresh(now=now)

    def after(self, seq: int, limit: int = 100) -> Sequence[Recorded]:
        """Return the `limit` entries after `seq`, oldest first."""
        with self._lock:
            if seq >= self._refresh():
                return ()
            if self._recent and self._recent[0].seq <= seq + 1:
                return tuple(entry for entry in self._recent if entry.seq > seq)[:limit]
        return self._record.entries(seq, limit)

    def is_gone(self, seq: int) -> bool:
        """True if the entries after `seq` cannot be followed: they are too many, or of another store."""
        newest = self.newest()
        return seq > newest or newest - seq > self.max_missed

    def _refresh(self, *, now: bool = False) -> int:
        now_s = self._monotonic_s()
        if self._newest is None:
            self._newest = self._record.newest_seq()
        elif not now and now_s - self._read_s < self.poll_s:
            return self._newest
        while entries := self._record.entries(self._newest, REMEMBERED):
            self._recent.extend(entries)
            self._newest = entries[-1].seq
        self._read_s = now_s
        return self._newest
