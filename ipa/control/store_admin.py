"""The time that each kind of row of the store is kept, and the reports of its administration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

DAY_S = 86_400.0
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention of the store. An age of None keeps the kind for ever.

    `decisions_s` is the age up to which every decision is kept, holds included. After it only changes and
    people's actions stay, up to `changes_s`.
    `decisions_bytes` bounds the bytes of the period in which every decision is kept: above it the oldest
    holds are removed before their age; None sets no bound.
    """

    decisions_s: float = 30 * DAY_S
    changes_s: float | None = None
    decisions_bytes: int | None = 1_700 * MEGABYTE


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The result of one `prune`. `is_done` is False if it ended early and more can be removed."""

    sealed_entries: int = 0
    sealed_segments: int = 0
    thinned_segments: int = 0
    removed_decisions: int = 0
    removed_changes: int = 0
    freed_bytes: int = 0
    longest_write_s: float = 0.0
    is_done: bool = True
    # The fault by record of those that are damaged: nothing of them is sealed or removed.
    damaged: Mapping[str, str] = field(default_factory=dict)
    # About the bytes of the period in which every decision is kept.
    record_bytes: int = 0
    # True if the size bound, not the age, decides what is removed.
    is_bounded: bool = False


@dataclass(frozen=True, slots=True)
class StoreContents:
    """The contents of a verified copy."""

    pipelines: int
    entries: int
    decisions: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was written and verified."""

    file: str
    sha256: str
    contents: StoreContents


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored store."""

    store: str
    contents: StoreContents


# Reports progress: the step in words, and the part of it that is done (0 to 1).
CopyStep = Callable[[str, float], None]
