"""Checkpoints of the record: they prove what retention removed from a chain, so that the rest verifies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ipa.control.audit.record import RESTORE, Chain, Head, Verified, record_in
from ipa.control.canonical import canonical_json, digest
from ipa.model.errors import RecordError

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
    first_tick: int
    last_tick: int
    decisions: int
    held: int
    changes: int
    kept: int
    previous: str
    head: str
    entries: str
    content: str

    @property
    def text(self) -> str:
        """The text that is signed."""
        return canonical_json(self)

    @property
    def is_whole(self) -> bool:
        """True if no row of it was removed."""
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
            {"checkpoint": asdict(self.checkpoint), "key_id": self.key_id, "signature": self.signature}
        )


def entries_digest(digests: list[str]) -> str:
    """Return the digest of the digests of entries, in their order."""
    return digest("\n".join(digests))


class Gaps:
    """The checkpoints of an export, which cover the entries that retention removed.

    `verifies` None checks no signature.
    """

    def __init__(self, verifies: Verifies | None = None) -> None:
        self._verifies = verifies
        self._spans: dict[str, list[Checkpoint]] = {}
        self._digests: dict[tuple[str, int], list[str]] = {}
        self._unchecked: dict[str, int] = {}

    def add(self, found: Mapping[str, Any]) -> None:
        """Add the checkpoint of a line. RecordError: its signature is wrong; other errors: it is not one."""
        checkpoint = Checkpoint(**{each.name: found["checkpoint"][each.name] for each in fields(Checkpoint)})
        key_id, signature = str(found["key_id"]), str(found["signature"])
        is_checked = bool(key_id) and self._verifies is not None
        if is_checked and self._verifies and not self._verifies(key_id, signature, checkpoint.text):
            raise Chain(checkpoint.pipeline).fault(
                f"the checkpoint of {checkpoint.where} is not signed with a known key"
            )
        self._unchecked[checkpoint.pipeline] = self._unchecked.get(checkpoint.pipeline, 0) + (not is_checked)
        self._spans.setdefault(checkpoint.pipeline, []).append(checkpoint)

    def bridge(self, chain: Chain, values: Mapping[str, Any]) -> None:
        """Advance the chain over removed entries before the next one, if a checkpoint covers them."""
        number = values.get("number")
        while isinstance(number, int) and chain.head.number + 1 < number:
            span = self._span(chain.pipeline, chain.head.number + 1)
            if span is None:
                return
            if span.last < number:
                chain.head = Head(span.last, span.head)
            else:
                chain.head = Head(number - 1, str(values.get("previous")))

    def finish(self, chain: Chain) -> None:
        """Advance the chain to the end of its last checkpoint, and check the entries within each."""
        while (span := self._span(chain.pipeline, chain.head.number + 1)) is not None:
            chain.head = Head(span.last, span.head)
        for span in self._spans.get(chain.pipeline, ()):
            digests = self._digests.get((span.pipeline, span.first), [])
            if len(digests) != span.kept or entries_digest(digests) != span.entries:
                raise chain.fault(f"the export does not have the entries of the checkpoint of {span.where}")
            chain.removed += span.removed
            chain.decisions += span.removed
        chain.unchecked = self._unchecked.get(chain.pipeline, 0)

    def note(self, chain: Chain) -> None:
        """Note the newest entry of the chain, if it is within a checkpoint."""
        span = self._span(chain.pipeline, chain.head.number)
        if span is not None:
            self._digests.setdefault((span.pipeline, span.first), []).append(chain.head.digest)

    def _span(self, pipeline: str, number: int) -> Checkpoint | None:
        """The checkpoint that covers the entry of that number."""
        spans = self._spans.get(pipeline, ())
        return next((each for each in spans if each.first <= number <= each.last), None)


def verify_lines(
    lines: Iterable[str], anchors: Mapping[str, Head], verifies: Verifies | None = None
) -> dict[str, Verified]:
    """Verify the lines of an export, and return the contents of each record from its first entry on.

    RecordError names the first changed line. `verifies` checks the signatures of
    checkpoints, which come before the entries; without it they are counted as unchecked.
    """
    gaps = Gaps(verifies)
    chains: dict[str, Chain] = {}
    for index, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
            if "checkpoint" in found:
                gaps.add(found)
                continue
            text, kept = canonical_json(found["entry"]), str(found["digest"])
            pipeline = record_in(found["entry"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"line {index} is not an entry of a record: {error}", hint=RESTORE) from error
        chain = chains.setdefault(pipeline, Chain(pipeline, anchors.get(pipeline)))
        try:
            gaps.bridge(chain, found["entry"])
            chain.add(text, kept)
            gaps.note(chain)
        except (KeyError, AttributeError) as error:
            raise chain.fault(f"entry {chain.head.number + 1} was changed") from error
    missing = [name for name in anchors if name not in chains]
    if missing:
        raise RecordError(f"there is no entry of {', '.join(missing)}", hint=RESTORE)
    for chain in chains.values():
        gaps.finish(chain)
    return {name: chain.ended() for name, chain in chains.items()}
