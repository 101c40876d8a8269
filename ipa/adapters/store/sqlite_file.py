"""The file of a SQLite store: its permissions, the lock of the one service that uses it, and its guard."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL

from ipa.adapters.processes import PRIVATE, FileLock, HeldError, create_private
from ipa.adapters.signing import Keyring
from ipa.model.errors import ConfigurationError, ConflictError, UnavailableError

LOG = logging.getLogger("ipa.store")
# "IPA1", by which `file` and other programs identify the database.
APPLICATION_ID = 0x4950_4131
# The store's files; the last is the key that signs checkpoints of the record.
BESIDE = ("", "-wal", "-shm", ".key")
RESTORE = "Restore it from a backup (`ipa store restore`), or name another store with IPA_STORE_URL."


def database_path(url: URL) -> Path | None:
    """Return the file of a SQLite URL; None for a server or a database in memory."""
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or name in ("", ":memory:"):
        return None
    return Path(unquote(urlsplit(name).path)) if name.startswith("file:") else Path(name)


def read_only_uri(path: Path) -> str:
    """Return the URI by which SQLite opens the file read-only."""
    disk = os.statvfs(path.parent)
    # On a read-only file system without a log SQLite could not create one, and no process writes the file.
    is_fixed = disk.f_flag & os.ST_RDONLY and not path.with_name(f"{path.name}-wal").exists()
    return f"file:{quote(str(path.absolute()))}?{'immutable=1' if is_fixed else 'mode=ro'}"


def prepare(path: Path) -> None:
    """Create the file if it is missing, and narrow its permissions.

    ConfigurationError: it cannot be created or written. UnavailableError: it is empty.
    """
    check_not_emptied(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # A database without tables.
            with closing(sqlite3.connect(":memory:")) as empty:
                empty.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                create_private(path, empty.serialize())
        narrow(path)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    for each, kind in ((path, "file"), (path.parent, "folder")):
        if not os.access(each, os.W_OK):
            raise _unusable(path, f"the {kind} {each} is read-only for this user")


def check_not_emptied(path: Path) -> None:
    """UnavailableError if the file exists and is empty."""
    try:
        is_emptied = path.is_file() and path.stat().st_size == 0
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if is_emptied:
        raise UnavailableError(
            f"the store {path} is an empty file; a store that lost its contents is not replaced by a new one",
            hint=f"{RESTORE} If it never held anything, remove the file.",
        )


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the store {path} cannot be written: {why}",
        hint="Give the service write access to the file and its folder, or set IPA_STORE_URL.",
    )


def find_keyring(url: URL, key_file: str = "") -> Keyring:
    """Return the keyring of the file; by default the one beside an SQLite store, empty on PostgreSQL."""
    if key_file:
        return Keyring(Path(key_file))
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or name.startswith("file:") or name in ("", ":memory:"):
        return Keyring(None)
    return Keyring(Path(f"{name}{BESIDE[-1]}"), may_make=True)


def open_to_others(path: Path) -> list[tuple[Path, int]]:
    """Return the store's files that accounts other than their owner may use, each with its permissions."""
    exposed = []
    for suffix in BESIDE:
        each = path.with_name(path.name + suffix)
        try:
            mode = each.stat().st_mode & 0o777
        except FileNotFoundError:
            continue
        if mode & ~PRIVATE:
            exposed.append((each, mode))
    return exposed


def narrow(path: Path) -> None:
    """Remove other accounts' permissions from the store's files that this user owns."""
    for each, mode in open_to_others(path):
        if each.stat().st_uid == os.geteuid():
            each.chmod(PRIVATE)
            LOG.warning("permissions of %s narrowed from %o to %o: it holds secrets", each, mode, PRIVATE)


def page_faults(path: Path) -> list[str]:
    """Return the first three faults of pages and indexes. Reads the whole file, without a lock."""
    try:
        with closing(sqlite3.connect(read_only_uri(path), uri=True)) as connection:
            faults = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        faults = [str(error)]
    return [fault for fault in faults if fault != "ok"][:3]


def locked_for_service(store: Path) -> FileLock:
    """Acquire and return the lock of the service that uses the store.

    ConflictError: another process holds it. ConfigurationError: the store's folder does not support locks.
    """
    # All symbolic links to a store share one lock.
    path = store.resolve()
    path = path.with_name(f"{path.name}.lock")
    try:
        return FileLock(path)
    except HeldError as error:
        raise ConflictError(
            f"the store {store} is in use by an ipa service{error}",
            hint="Stop that service, or set IPA_STORE_URL to another store. "
            "Replicas share a PostgreSQL store.",
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"the store {store} cannot be locked with {path.name}: {error.strerror}",
            hint="Give the service write access to the folder of the store, on a local file system, "
            "or use PostgreSQL.",
        ) from error


def guard(engine: Engine, path: Path) -> None:
    """Make every connection of the engine fail once its file was moved, removed or replaced.

    SQLite would keep writing to a removed file, or create a new one.
    """
    inodes: list[int] = []

    def remember(*_: Any) -> None:
        if not inodes:
            inodes.append(path.stat().st_ino)

    def check(*_: Any) -> None:
        if inodes and (not path.exists() or path.stat().st_ino != inodes[0]):
            raise UnavailableError(
                f"the store {path} was moved or removed while it was in use",
                hint="Put it back, or restart the service with an empty store: the missing entries are lost.",
            )

    event.listen(engine, "do_connect", check)
    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", check)
