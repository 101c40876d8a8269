"""The checks of the store for `ipa doctor`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from ipa.adapters.store.database import (
    MAKE_ROOM,
    MOST_WAL_BYTES,
    Access,
    current_schema,
    is_low,
    parse_url,
    shown,
)
from ipa.adapters.store.schema import NEWEST
from ipa.adapters.store.sqlite_file import RESTORE, database_path, open_to_others, page_faults
from ipa.adapters.store.store import open_from
from ipa.model.errors import IpaError
from ipa.model.findings import DoctorCheck, Finding, fail, failed, ok, warn
from ipa.settings import Settings

# Reading 10 GB takes some minutes.
PATIENCE_S = 3600.0
MAKE_KEY = "ipa key create --role owner"


def store_checks(settings: Settings) -> list[DoctorCheck]:
    """Every check of the store that only reads it."""
    checks = [DoctorCheck("store", lambda: store_findings(settings))]
    try:
        path = database_path(parse_url(settings.store_url))
    except IpaError:
        # The first check reports the error.
        return checks
    record = DoctorCheck("record", lambda: record_findings(settings), after="store", timeout_s=PATIENCE_S)
    if path is None or not path.exists():
        return [*checks, record]
    return [
        *checks,
        DoctorCheck("rights of the store", lambda: rights_findings(path), after="store"),
        DoctorCheck("disk of the store", lambda: disk_findings(path), after="store"),
        DoctorCheck("pages of the store", lambda: page_findings(path), after="store", timeout_s=PATIENCE_S),
        record,
    ]


def store_findings(settings: Settings) -> Iterator[Finding]:
    """Check that the store answers and has the newest schema."""
    try:
        schema, name = current_schema(settings.store_url), shown(parse_url(settings.store_url))
    except IpaError as error:
        yield failed("store", error, "export IPA_STORE_URL=sqlite:///runs/ipa.sqlite3")
        return
    if not schema:
        yield ok("store", f"{name} does not exist yet; `ipa serve` creates it")
    elif schema == NEWEST:
        yield ok("store", f"{name} has schema {schema}, the newest")
    else:
        problem = f"{name} has schema {schema}, the newest known here is {NEWEST}"
        yield warn(
            "store", problem, "ipa serve   (migrates it when it starts; or install the version that wrote it)"
        )


def key_finding(settings: Settings, name: str, now: datetime) -> Finding:
    """Check that the store has a valid API key."""
    valid = 0
    # A missing or older store is neither created nor migrated for this check.
    if current_schema(settings.store_url) == NEWEST:
        with closing(open_from(settings, Access.READ)) as store:
            valid = sum(key.state(now) == "valid" for key in store.keys.all())
    return ok(name, f"{valid} valid API keys") if valid else warn(name, "there is no valid API key", MAKE_KEY)


def rights_findings(path: Path) -> Iterator[Finding]:
    """Check that only the owner may read and write the files of the store."""
    name, exposed = "rights of the store", open_to_others(path)
    if exposed:
        files = " ".join(str(each) for each, _ in exposed)
        rights = ", ".join(f"{each.name} {mode:o}" for each, mode in exposed)
        yield warn(
            name,
            f"other accounts may read these files, which hold the digests of keys: {rights}",
            f"chmod 600 {files}",
        )
    else:
        yield ok(name, "only its owner reads and writes its files")


def disk_findings(path: Path) -> Iterator[Finding]:
    """Check the free space of the disk and the size of the write-ahead log."""
    name = "disk of the store"
    try:
        disk = shutil.disk_usage(path.parent)
    except OSError as error:
        yield fail(name, f"its free space cannot be read: {error.strerror}")
        return
    words = f"{disk.free / 1e6:.0f} of {disk.total / 1e6:.0f} MB are free"
    yield warn(name, words, MAKE_ROOM) if is_low(disk.free, disk.total) else ok(name, words)
    log = path.with_name(f"{path.name}-wal")
    size_bytes = log.stat().st_size if log.exists() else 0
    if size_bytes > 2 * MOST_WAL_BYTES:
        words = f"{log} has {size_bytes / 1e6:.0f} MB: a process has a long read of the store open"
        yield warn(name, words, f"fuser {log}   (end that process; then the log shrinks by itself)")


def page_findings(path: Path) -> Iterator[Finding]:
    """Check the pages, indexes and references of a SQLite file."""
    name = "pages of the store"
    began_s = time.monotonic()
    faults = page_faults(path)
    if faults:
        yield fail(name, f"it is damaged: {'; '.join(faults)}", RESTORE)
    else:
        took_s = time.monotonic() - began_s
        yield ok(name, f"{path.stat().st_size / 1e6:.0f} MB without a fault, read in {took_s:.1f} s")


def record_findings(settings: Settings) -> Iterator[Finding]:
    """Check that no entry of the record was changed."""
    name = "record"
    if not current_schema(settings.store_url):
        return
    with closing(open_from(settings, Access.READ)) as store:
        entries, names = 0, store.recorded()
        for pipeline in names:
            try:
                entries += store.verify(pipeline, full=True).entries
            except IpaError as error:
                yield failed(name, error)
        yield ok(name, f"{entries} entries of {len(names)} pipelines are unchanged")
