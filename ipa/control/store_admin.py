"""Administration of the store: the port, its reports, and how long each kind of row is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ipa.model.access import ApiKey, Grant

DAY_S = 86_400.0
YEAR_DAYS = 365
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention of the store. An age of None keeps the kind for ever.

    `decisions_s` is the age up to which every decision is kept, holds included. After it only changes and
    people's actions stay, up to `changes_s`. `series_s` is the age up to which the rolled-up series is kept.
    `decisions_bytes` bounds the bytes of the period in which every decision is kept: above it the oldest
    holds are removed before their age; None sets no bound.
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
    before there is an hour of decisions. `oldest_decision_at` is the time of the oldest kept hold.
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
    # Bytes per recorded decision after holds are removed.
    lasting_bytes_per_decision: float | None
    decisions_per_day: float
    bytes_per_day: float | None
    projected_month_bytes: float | None
    projected_year_bytes: float | None
    oldest_decision_at: str | None
    oldest_change_at: str | None
    # The key that signs checkpoints; empty if there is none yet.
    key_id: str = ""
    # True if the size bound, not the age, decides what is removed.
    is_bounded: bool = False
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The result of one `prune`. `is_done` is False if it ended early and more can be removed."""

    sealed_entries: int = 0
    sealed_segments: int = 0
    thinned_segments: int = 0
    removed_decisions: int = 0
    removed_changes: int = 0
    removed_series: int = 0
    freed_bytes: int = 0
    longest_write_s: float = 0.0
    is_done: bool = True


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
    """A restored store. `kept_aside` is the file of the former store; empty if there was none."""

    store: str
    contents: StoreContents
    # False if there was no digest beside the backup.
    is_digest_checked: bool
    kept_aside: str = ""


# Reports progress: the step in words, and the part of it that is done (0 to 1).
CopyStep = Callable[[str, float], None]


class KeyStore(Protocol):
    """The API keys of the store, which holds their digests only."""

    def create(
        self, name: str, grant: Grant, *, now: datetime, expires_at: datetime | None = None
    ) -> tuple[ApiKey, str]:
        """A new key and its token, which cannot be read again."""

    def all(self) -> Sequence[ApiKey]:
        """Every key, the oldest first."""

    def revoke(self, key_id: str, *, now: datetime) -> ApiKey:
        """Revoke the key and return it; NotFoundError if there is none."""


class StoreAdmin(Protocol):
    """The administration of a store: copies, retention, statistics and API keys.

    Errors: ConfigurationError, ConflictError (in use, not empty), NotFoundError, RecordError (an entry was
    changed), UnavailableError.
    """

    def back_up(self, file: Path, step: CopyStep) -> Backup:
        """Copy the store to a file that does not exist yet, and verify the copy."""

    def restore(self, file: Path, step: CopyStep, *, force: bool = False) -> Restored:
        """Verify a backup and replace the store with it; `force` renames a store that is not empty."""

    def prune(self, within_s: float | None = None) -> PruneReport:
        """Remove what is older than the retention, for at most `within_s`."""

    def stats(self) -> StoreStats:
        """The rows, the size and the growth of the store."""

    def keys(self, *, writes: bool) -> AbstractContextManager[KeyStore]:
        """The keys, to read or to change."""
