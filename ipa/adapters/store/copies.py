"""Backup and restore: a verified copy of a store in one SQLite file.

A backup of PostgreSQL is such a file too, so a restore also moves a store from one database to the other.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, inspect, select

from ipa.adapters.processes import PRIVATE
from ipa.adapters.signing import Keyring
from ipa.adapters.store import database
from ipa.adapters.store.schema import StoreTable
from ipa.adapters.store.sqlite_file import (
    database_path,
    find_keyring,
    locked_for_service,
    page_faults,
    read_only_uri,
)
from ipa.adapters.store.store import Store
from ipa.control.store_admin import Backup, CopyStep, Restored, StoreContents
from ipa.model.errors import ConfigurationError, ConflictError, InputError, UnavailableError
from ipa.settings import Settings

BATCH = 500
# A trigger of our schema does nothing but refuse.
GUARD = re.compile(r"CREATE TRIGGER \w+ BEFORE [^;]* BEGIN SELECT RAISE\(ABORT, '[^']*'\); END")
HINT = "`ipa doctor --store` names the fault; the disk needs as much free space as the store takes."


def back_up(settings: Settings, target: Path, step: CopyStep) -> Backup:
    """Copy a snapshot of the settings' store to a new file, without blocking writers, and verify it.

    ConflictError: the file exists. RecordError: the record is damaged. Errors of reading: as `open_engine`.
    """
    if target.exists():
        raise ConflictError(f"{target} exists already", hint="Name another file.")
    with _temporary_file(target) as part:
        part.unlink()
        _copy_rows(settings.store_url, f"sqlite:///{part}", step)
        # One file, without a log beside it.
        with closing(sqlite3.connect(part)) as plain:
            plain.execute("PRAGMA journal_mode=DELETE")
        keyring = find_keyring(database.parse_url(settings.store_url), settings.store_key_file)
        contents = verify_file(part, step, keyring)
        _sync(part)
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        # Renamed only now that all of it is on the disk.
        part.replace(target)
    _sync(target.parent)
    return Backup(str(target), digest, contents)


def restore(settings: Settings, source: Path, step: CopyStep) -> Restored:
    """Verify a backup, migrate it to the newest schema, and make it the settings' store, if empty or missing.

    ConflictError: a service uses the store, or it is not empty. InputError: the backup is damaged.
    """
    if not source.is_file():
        raise InputError(f"there is no backup {source}", hint="`ipa store backup FILE` writes one.")
    url = database.parse_url(settings.store_url)
    keyring = find_keyring(url, settings.store_key_file)
    path = database_path(url)
    if path is None:
        # Beside the backup there is space for another copy, if the folder can be written.
        folder = source.parent if os.access(source.parent, os.W_OK) else Path(tempfile.gettempdir())
        with _temporary_file(folder / source.name) as part:
            _import(source, part, step)
            contents = verify_file(part, step, keyring)
            _copy_rows(f"sqlite:///{part}", settings.store_url, step)
        return Restored(database.shown(url), contents)
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = locked_for_service(path)
    try:
        _check_empty(path)
        with _temporary_file(path) as part:
            _import(source, part, step)
            contents = verify_file(part, step, keyring)
            for suffix in ("-wal", "-shm"):
                # SQLite would write the log of the empty store into whatever file has its name.
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            part.replace(path)
        _sync(path.parent)
    finally:
        lock.release()
    return Restored(database.shown(url), contents)


def verify_file(path: Path, step: CopyStep, keyring: Keyring) -> StoreContents:
    """Verify a store's file: its pages, its indexes and every chain of its record. Return its contents.

    UnavailableError: it is damaged. RecordError: an entry was changed. Signatures of checkpoints are
    checked only with the store's key.
    """
    step("checking pages", 0.0)
    faults = page_faults(path)
    if faults:
        raise UnavailableError(
            f"the copy {path} is damaged: {'; '.join(faults)}", hint="Take another backup."
        )
    engine = database.open_engine(f"sqlite:///{path}", database.Access.READ)
    with closing(Store(engine, keyring=keyring)) as store:
        names = store.recorded()
        entries = decisions = 0
        for at, name in enumerate(names):
            step(f"verifying the record of {name}", at / len(names))
            verified = store.verify(name)
            entries, decisions = entries + verified.entries, decisions + verified.decisions
    return StoreContents(len(names), entries, decisions, path.stat().st_size)


def _copy_rows(source_url: str, target_url: str, step: CopyStep) -> None:
    """Copy a snapshot of every table in one transaction. ConflictError: the target is not empty."""
    with (
        _opened(source_url, database.Access.READ) as source,
        _opened(target_url) as target,
        database.snapshot(source) as rows,
        database.writing(target, database.RECORD_LOCK) as connection,
    ):
        filled = _filled(connection)
        if filled:
            raise ConflictError(
                f"the store {database.shown(target.url)} is not empty: {', '.join(filled)} have rows",
                hint="Name an empty database; a PostgreSQL store is never overwritten.",
            )
        tables = StoreTable.metadata.sorted_tables
        for at, table in enumerate(tables):
            with rows.execute(select(table), execution_options={"yield_per": BATCH}) as result:
                for batch in result.mappings().partitions():
                    step(f"copying {table.name}", at / len(tables))
                    connection.execute(insert(table), [dict(row) for row in batch])


@contextmanager
def _opened(store_url: str, access: database.Access = database.Access.WRITE) -> Iterator[Engine]:
    engine = database.open_engine(store_url, access)
    try:
        yield engine
    finally:
        database.close_engine(engine)


def _filled(connection: Connection) -> list[str]:
    """The names of the tables that are not empty."""
    there = set(inspect(connection).get_table_names())
    return [
        table.name
        for table in StoreTable.metadata.sorted_tables
        if table.name in there and connection.execute(select(table).limit(1)).first() is not None
    ]


def _check_empty(path: Path) -> None:
    """ConflictError if the file is a store with rows, or cannot be read."""
    if not path.exists():
        return
    try:
        with (
            _opened(f"sqlite:///{path}", database.Access.READ) as engine,
            database.reading(engine) as connection,
        ):
            filled = _filled(connection)
    except (ConfigurationError, UnavailableError) as error:
        filled = [f"it cannot be read: {error.message}"]
    if filled:
        raise ConflictError(
            f"the store {path} is not empty: {', '.join(filled)}",
            hint=f"Move {path.name}, {path.name}-wal and {path.name}-shm away first; the key stays.",
        )


def _import(source: Path, part: Path, step: CopyStep) -> None:
    """Copy a backup to the file `part`, and migrate that to the newest schema."""
    step("copying", 0.0)
    try:
        shutil.copyfile(source, part)
        part.chmod(PRIVATE)
        _check_guards(source, part)
        database.close_engine(database.open_engine(f"sqlite:///{part}"))
    except OSError as error:
        raise UnavailableError(f"{source} cannot be copied: {error.strerror}", hint=HINT) from error
    except UnavailableError as error:
        raise InputError(
            f"the backup {source} cannot be used: {error.message}", hint="Take another."
        ) from error
    _sync(part)


def _check_guards(source: Path, part: Path) -> None:
    """InputError if the backup has triggers or views besides the record's own: later reads would run them."""
    query = (
        "SELECT name, sql FROM sqlite_master WHERE type IN ('trigger', 'view') OR sql LIKE 'CREATE VIRTUAL%'"
    )
    try:
        with closing(sqlite3.connect(read_only_uri(part), uri=True)) as connection:
            objects = connection.execute(query).fetchall()
    except sqlite3.DatabaseError:
        # Opening it as a store reports the fault.
        return
    for name, sql in objects:
        if not GUARD.fullmatch(sql):
            raise InputError(
                f"the backup {source} holds {name!r}, which no store of ipa has",
                hint="Use another backup: somebody changed this one.",
            )


@contextmanager
def _temporary_file(target: Path) -> Iterator[Path]:
    """A private temporary file beside the target, which is removed unless it was renamed."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise UnavailableError(
            f"{target} cannot be written: {error.strerror}",
            hint="Name a file in a folder that can be written.",
        ) from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
    finally:
        for suffix in ("", "-wal", "-shm", ".lock", "-journal"):
            part.with_name(part.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush the file, or the folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
