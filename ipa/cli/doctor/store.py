"""The store, read whole: its pages, its record, its disk and its rights. For `ipa doctor --store`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ipa.adapters.store import Access, open_from
from ipa.adapters.store.database import MOST_WAL_BYTES, parse_url, schema_state
from ipa.adapters.store.health import MAKE_ROOM, disk_of
from ipa.adapters.store.sqlite_file import RESTORE, file_of, open_to_others, page_faults
from ipa.cli.doctor.base import Check, Finding, fail, failed, ok, warn
from ipa.cli.doctor.here import store_findings
from ipa.model.errors import IpaError
from ipa.settings import Settings

# 10 GB are read in some minutes.
PATIENCE_S = 3600.0


def store_checks(settings: Settings) -> list[Check]:
    """Everything that can be known of the store without writing it."""
    checks = [Check("store", lambda: store_findings(settings))]
    try:
        path = file_of(parse_url(settings.store_url))
    except IpaError:
        # The first check says what is wrong.
        return checks
    record = Check("record", lambda: record_findings(settings), after="store", timeout_s=PATIENCE_S)
    if path is None:
        return [*checks, record]
    return [
        *checks,
        Check("rights of the store", lambda: rights_findings(path), after="store"),
        Check("disk of the store", lambda: disk_findings(path), after="store"),
        Check("pages of the store", lambda: page_findings(path), after="store", timeout_s=PATIENCE_S),
        record,
    ]


def rights_findings(path: Path) -> Iterator[Finding]:
    """The files of the store that others may read or write."""
    name, found = "rights of the store", open_to_others(path)
    if found:
        files = " ".join(str(each) for each, _ in found)
        rights = ", ".join(f"{each.name} {mode:o}" for each, mode in found)
        yield warn(name, f"others may read what holds digests of keys: {rights}", f"chmod 600 {files}")
    elif path.exists():
        yield ok(name, "only its owner reads and writes its files")


def disk_findings(path: Path) -> Iterator[Finding]:
    """The room left, and the size of the write-ahead log."""
    name = "disk of the store"
    if not path.exists():
        return
    try:
        disk = disk_of(path)
    except OSError as error:
        yield fail(name, f"it cannot be looked at: {error.strerror}")
        return
    seen = f"{disk.free_bytes / 1e6:.0f} of {disk.total_bytes / 1e6:.0f} MB are free"
    yield warn(name, seen, MAKE_ROOM) if disk.is_low else ok(name, seen)
    log = path.with_name(f"{path.name}-wal")
    size_bytes = log.stat().st_size if log.exists() else 0
    if size_bytes > 2 * MOST_WAL_BYTES:
        seen = f"{log} has {size_bytes / 1e6:.0f} MB: something has read the store for long"
        yield warn(name, seen, f"fuser {log}   (end what reads it; then the log shrinks by itself)")


def page_findings(path: Path) -> Iterator[Finding]:
    """Damage to pages, indexes and references of a SQLite file."""
    name = "pages of the store"
    if not path.exists():
        return
    began_s = time.monotonic()
    faults = page_faults(path)
    if faults:
        yield fail(name, f"it is damaged: {'; '.join(faults)}", RESTORE)
    else:
        took_s = time.monotonic() - began_s
        yield ok(name, f"all {path.stat().st_size / 1e6:.0f} MB are whole, read in {took_s:.1f} s")


def record_findings(settings: Settings) -> Iterator[Finding]:
    """The chains of the record, each entry as it was written."""
    name = "record"
    state = schema_state(settings.store_url)
    if not state.current:
        return
    store = open_from(settings, Access.READ)
    try:
        entries, names = 0, store.recorded()
        for pipeline in names:
            try:
                entries += store.verify(pipeline, full=True).entries
            except IpaError as error:
                yield failed(name, error)
        yield ok(name, f"{entries} entries of {len(names)} pipelines are as they were written")
    finally:
        store.close()
