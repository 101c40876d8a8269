"""Types of retention: the ages and sizes to keep, the store's statistics, and the report of a pass.

`Store.prune` applies a `Retention` and returns a `PruneReport`; `Store.stats` returns `StoreStats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

DAY_S = 86_400.0
YEAR_DAYS = 365
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention of the store. An age of None keeps the kind for ever.

    `decisions_s` is the age up to which every decision is kept, holds included. After it only changes and
    people's acts stay, up to `changes_s`. `series_s` is the age up to which the rolled-up series is kept.
    `decisions_bytes` bounds the bytes of the time of which every decision is kept: above it the oldest holds
    are removed before their age; None sets no bound.
    """

    decisions_s: float = 30 * DAY_S
    changes_s: float | None = None
    series_s: float = YEAR_DAYS * DAY_S
    decisions_bytes: int | None = 1_900 * MEGABYTE


class RetentionSettings(Protocol):
    """The settings that a `Retention` is made of; 0 days keep for ever, 0 MB set no bound."""

    @property
    def keep_decisions_days(self) -> float: ...
    @property
    def keep_changes_days(self) -> float: ...
    @property
    def keep_series_days(self) -> float: ...
    @property
    def keep_decisions_mb(self) -> float: ...


def retention_from(settings: RetentionSettings) -> Retention:
    """Return the retention of the settings."""
    return Retention(
        decisions_s=settings.keep_decisions_days * DAY_S,
        changes_s=settings.keep_changes_days * DAY_S if settings.keep_changes_days else None,
        series_s=settings.keep_series_days * DAY_S,
        decisions_bytes=round(settings.keep_decisions_mb * MEGABYTE) if settings.keep_decisions_mb else None,
    )


class RowKind(StrEnum):
    """The kinds of rows in the store's statistics."""

    # Decisions and entries row by row: the newest ones.
    HOT = "hot"
    # Decisions and entries in sealed segments.
    SEALED = "sealed"
    # Decisions and entries that an older version wrote and that are not sealed yet.
    LEGACY = "legacy"
    SERIES = "series"
    # Plans, answers, profiles, keys, controls and pipelines.
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class KindStats:
    """Rows and bytes of one kind. Bytes are those of the payloads and an estimate of the row around them."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """The size of the store, and how fast it grows.

    `file_bytes` is the size on disk (of the database on PostgreSQL), `free_bytes` the part of it that new
    rows reuse, `log_bytes` the write-ahead log. `decisions` counts the decisions that can be read,
    `removed` those that retention removed. `bytes_per_decision` is the mean over all kept decisions,
    `per_day` the decisions recorded in the last day. The projections are the bytes of this store's decisions,
    changes and series after 30 days and after a year at the present rate, under the present retention; None
    before there is an hour of decisions. `oldest_decision_at` is that of the oldest hold that is kept.
    """

    kinds: Mapping[RowKind, KindStats]
    file_bytes: int
    free_bytes: int
    log_bytes: int
    decisions: int
    changes: int
    removed: int
    segments: int
    pipelines: int
    bytes_per_decision: float | None
    bytes_per_change: float | None
    # Of each decision recorded, what stays once holds are removed.
    lasting_bytes_per_decision: float | None
    decisions_per_day: float
    bytes_per_day: float | None
    projected_month_bytes: float | None
    projected_year_bytes: float | None
    oldest_decision_at: str | None
    oldest_change_at: str | None
    # The key that seals and removals are signed with; empty where there is none yet.
    key_id: str = ""
    # True if the size bound, not the age, decides what is removed.
    is_bounded: bool = False
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The report of a `Store.prune`. `is_done` is False if it ended early with work left."""

    sealed_entries: int = 0
    sealed_segments: int = 0
    thinned_segments: int = 0
    removed_decisions: int = 0
    removed_changes: int = 0
    removed_series: int = 0
    freed_bytes: int = 0
    longest_write_s: float = 0.0
    is_done: bool = True
