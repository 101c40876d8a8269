"""The database: engine, pragmas, transactions, upgrades, the health of writes, and errors as IpaError."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from ipa.adapters.processes import FileLock
from ipa.adapters.store import schema, sqlite_file
from ipa.model.errors import ConfigurationError, IpaError, NotFoundError, UnavailableError
from ipa.model.masking import HARMLESS, HIDDEN, mask_url

LOG = logging.getLogger("ipa.store")
# The wait for another process's transaction; ours take milliseconds.
BUSY_TIMEOUT_S = 5.0
# Any constant: prevents concurrent upgrades of one PostgreSQL database.
MIGRATION_LOCK = 0x1FA5_0001
# One lock for all pipelines: entries are numbered in the order of their commits.
RECORD_LOCK = zlib.crc32(b"ipa/record")
# A write-ahead log that grew during a backup or a check is truncated to this.
MOST_WAL_BYTES = 64 * 1024 * 1024
TRY_AGAIN = "Check that it runs, can be reached and has free disk space, then try again."
SERVE = "`ipa serve` of this version upgrades it when it starts."
# Phrases in errors of SQLite and Python about a damaged file.
DAMAGE = ("not a database", "malformed", "could not decode to utf-8", "codec can't decode")
# A failure without a later write of its kind, good or bad, is forgotten after this long.
FORGET_S = 600.0
# An outage is logged at this interval: a thousand loops fail a hundred times a second.
LOG_EVERY_S = 60.0
# A hundred pipelines at a tick of 10 s write about this much in an hour or two; less on a small volume.
LOW_BYTES = 64 * 1024 * 1024
LOW_RATIO = 0.05
MAKE_ROOM = "Enlarge the volume or remove other files from it; `ipa store prune` removes old decisions."
T = TypeVar("T")
# Some megabytes; other writers of the store wait for the group.
MOST_TOGETHER = 64
# The longest wait for writes that are about to come, and the interval of looking for them.
LINGER_S = 0.02
LOOK_S = 0.001


class Access(Enum):
    """The purpose for which a store is opened."""

    # Reads only: nothing is created, upgraded or locked, and a service beside it is not blocked.
    READ = auto()
    # Reads and writes beside a service, in short transactions.
    WRITE = auto()
    # Records decisions, as the only service on a SQLite file.
    SERVE = auto()


def open_engine(store_url: str, access: Access = Access.WRITE) -> Engine:
    """Return an engine on the store at its newest schema. Its contents are not checked.

    For writing, a missing SQLite file is created and an older schema is upgraded. ConfigurationError: the URL
    is wrong, the store is read-only, or another version wrote it. NotFoundError: there is no store to read.
    ConflictError: another service uses it. UnavailableError: it does not answer or is damaged; a damaged
    store is never replaced by an empty one.
    """
    url = parse_url(store_url)
    path, lock = sqlite_file.database_path(url), None
    engine = _engine(url, access)
    try:
        if path is not None and access is Access.SERVE:
            lock = sqlite_file.locked_for_service(path)
            engine.update_execution_options(ipa_lock=lock)
        _bring_up_to_date(engine, access)
    except BaseException:
        close_engine(engine)
        raise
    return engine


def _on_late_checkin(connection: DBAPIConnection | None, record: object) -> None:
    if connection is not None:
        connection.close()


def close_engine(engine: Engine) -> None:
    """Close every connection, and release the lock of the store.

    A connection that another thread uses is closed when that thread returns it.
    """
    event.listen(engine.pool, "checkin", _on_late_checkin)
    engine.dispose()
    lock: FileLock | None = engine.get_execution_options().get("ipa_lock")
    if lock is not None:
        lock.release()


def current_schema(store_url: str) -> str:
    """Return the schema of the store, without creating or changing it; empty if it is missing or empty.

    Errors: as `open_engine`.
    """
    url = parse_url(store_url)
    path = sqlite_file.database_path(url)
    if path is not None and not path.exists():
        return ""
    engine = _engine(url, Access.READ)
    try:
        return _revision(engine) or ""
    finally:
        engine.dispose()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A reading transaction; UnavailableError if the database fails."""
    with _translated(engine.url), engine.connect() as connection:
        yield connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A transaction whose reads all see one snapshot; errors as `reading`."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with reading(engine) as connection:
        yield connection


@contextmanager
def writing(engine: Engine, lock: int) -> Iterator[Connection]:
    """A writing transaction, exclusive under its `lock`, durable at its end; else UnavailableError."""
    health, kind = write_health(engine), "record" if lock == RECORD_LOCK else "other writes"
    try:
        with _translated(engine.url), engine.connect() as plain:
            connection = plain.execution_options(ipa_begin="BEGIN IMMEDIATE")
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    # A server that commits asynchronously could lose decisions that were already acted on.
                    connection.execute(text("SET LOCAL synchronous_commit TO ON"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock})
                yield connection
    except (UnavailableError, ConfigurationError) as error:
        health.failed(kind, error)
        raise
    health.worked(kind)


def write_health(engine: Engine) -> WriteHealth:
    """Return the health of the writes through this engine."""
    health: WriteHealth = engine.get_execution_options()["ipa_health"]
    return health


def lock_key(kind: str, name: str) -> int:
    """Return the key of the advisory lock that serialises writers of one kind and name on PostgreSQL."""
    return zlib.crc32(f"ipa/{kind}/{name}".encode())


def parse_url(store_url: str) -> URL:
    """Parse the URL of a store; ConfigurationError if it cannot be one."""
    try:
        url = make_url(store_url)
    except ArgumentError as error:
        raise ConfigurationError(
            # The message omits the URL, which may hold a password.
            "the store's URL, IPA_STORE_URL, cannot be read",
            hint="Set IPA_STORE_URL, for example to sqlite:///runs/ipa.sqlite3",
        ) from error
    if "@" in (url.host or ""):
        raise ConfigurationError(
            "the store's URL, IPA_STORE_URL, has more than one @",
            hint="Write the @ of a password as %40, a / as %2F.",
        )
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"the store cannot be kept in {url.get_backend_name()!r}",
            hint="Use sqlite:///FILE or postgresql://USER@HOST/DATABASE",
        )
    if url.get_backend_name() == "sqlite" and sqlite_file.database_path(url) is None:
        raise ConfigurationError(
            "the store cannot be kept in memory: decisions must outlive the service",
            hint="Set IPA_STORE_URL to a file, for example sqlite:///runs/ipa.sqlite3",
        )
    return url


def _engine(url: URL, access: Access) -> Engine:
    path, creator = sqlite_file.database_path(url), None
    arguments: dict[str, Any] = {"connect_timeout": 5}
    if path is not None:
        arguments = {"timeout": BUSY_TIMEOUT_S}
        if access is Access.READ:
            sqlite_file.check_not_emptied(path)
            if not path.exists():
                raise NotFoundError(
                    f"there is no store {shown(url)}",
                    hint="`ipa serve` creates it; IPA_STORE_URL names another.",
                )
            uri, many = sqlite_file.read_only_uri(path), {"uri": True, "check_same_thread": False}
            creator = partial(sqlite3.connect, uri, timeout=BUSY_TIMEOUT_S, **many)
        elif url.query.get("mode") == "ro":
            raise ConfigurationError(
                f"the store {shown(url)} cannot be written: its URL says mode=ro", hint="Set IPA_STORE_URL."
            )
        else:
            sqlite_file.prepare(path)
    elif access is Access.READ:
        arguments["options"] = "-c default_transaction_read_only=on"
    options = {"creator": creator} if creator else {"connect_args": arguments}
    try:
        engine = create_engine(url, pool_pre_ping=path is None, **options)
    except (ImportError, NoSuchModuleError) as error:
        raise ConfigurationError(
            f"the driver of {shown(url)} is not installed",
            hint="For PostgreSQL install it with: pip install 'psycopg[binary]'",
        ) from error
    engine.update_execution_options(ipa_health=WriteHealth(shown(url)))
    if path is not None:
        event.listen(engine, "connect", _on_sqlite_connect if creator is None else _on_sqlite_read)
        event.listen(engine, "begin", _on_sqlite_begin)
        if creator is None:
            sqlite_file.guard(engine, path)
    return engine


def _on_sqlite_connect(connection: Any, record: Any) -> None:
    _on_sqlite_read(connection, record)
    cursor = connection.cursor()
    # WAL: the page reads while the loop writes. FULL: a commit returns only after fsync.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"journal_size_limit={MOST_WAL_BYTES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_read(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # _on_sqlite_begin emits BEGIN


def _on_sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("ipa_begin", "BEGIN"))


def _revision(engine: Engine) -> str | None:
    """The schema revision of the store; None if it has none."""
    with reading(engine) as connection:
        return schema.schema_revision(connection)


def _bring_up_to_date(engine: Engine, access: Access) -> None:
    """Upgrade an older schema. A store at the newest schema is only read, and no lock is taken."""
    current, newest = _revision(engine), schema.NEWEST
    if current == newest:
        return
    schema.check_revision(shown(engine.url), current)
    if access is Access.READ:
        raise ConfigurationError(
            f"the store {shown(engine.url)} has schema {current or 'none'}, older than {newest!r} of this "
            "version of ipa, and reading does not upgrade it",
            hint=SERVE,
        )
    path = sqlite_file.database_path(engine.url)
    lock = sqlite_file.locked_for_service(path) if path is not None and access is Access.WRITE else None
    try:
        with writing(engine, MIGRATION_LOCK) as connection:
            if path is not None:
                # The mark of this application's files.
                application_id = connection.execute(text("PRAGMA application_id")).scalar()
                if application_id == 0:
                    connection.execute(text(f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}"))
                elif application_id != sqlite_file.APPLICATION_ID:
                    other = f"a database of another program (application id {application_id:#x})"
                    raise ConfigurationError(
                        f"the store {shown(engine.url)} is {other}",
                        hint="Name another file with IPA_STORE_URL.",
                    )
            # Another process may have upgraded it meanwhile.
            current = schema.schema_revision(connection)
            schema.check_revision(shown(engine.url), current)
            if current != newest:
                LOG.info("store %s: schema %s to %s", shown(engine.url), current or "none", newest)
                schema.upgrade(connection, current)
    finally:
        if lock is not None:
            lock.release()


def shown(url: URL) -> str:
    """Return the URL with possible secrets masked."""
    return mask_url(url.render_as_string(hide_password=False))


def _hide(message: str, url: URL) -> str:
    """The message of a driver, with possible secrets of the URL masked."""
    options = (value for key, value in url.query.items() if key not in HARMLESS)
    values = (url.username, url.password, *options)
    for value in filter(None, (each if isinstance(each, str) else "" for each in values)):
        message = message.replace(value, HIDDEN)
    return message


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    try:
        yield
    except IpaError:
        raise
    except (SQLAlchemyError, sqlite3.Error, UnicodeDecodeError) as error:
        # sqlite3.Error comes from our pragmas, UnicodeDecodeError from SQLite's own message about damage.
        message = _hide(str(error.orig if isinstance(error, DBAPIError) else error).strip(), url)
        lower = message.lower()
        if "readonly" in lower or "read-only" in lower:
            raise ConfigurationError(
                f"the store {shown(url)} cannot be written: {message}",
                hint="Give the service write access to the file and its folder, or set IPA_STORE_URL.",
            ) from error
        is_damaged = any(words in lower for words in DAMAGE)
        path = sqlite_file.database_path(url)
        # SQLite reports "disk I/O error" if there is no space for its shared memory.
        low = low_disk(path) if path is not None and not is_damaged else ""
        raise UnavailableError(
            f"the store {shown(url)} {'is damaged' if is_damaged else 'failed'}: {message}",
            hint=sqlite_file.RESTORE
            if is_damaged
            else low or (MAKE_ROOM if "is full" in lower else TRY_AGAIN),
        ) from error


@dataclass(slots=True)
class _Outage:
    """Failing writes of one kind, from the first failure to the last."""

    error: IpaError
    since_s: float
    last_s: float
    count: int = 0
    logged_s: float = float("-inf")


class WriteHealth:
    """The failures to write a store, each until a write of the same kind succeeds. Thread-safe.

    Kinds are separate, since on a full disk a small write may succeed while a decision does not fit.
    """

    def __init__(self, shown: str, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._shown, self._monotonic_s = shown, monotonic_s
        self._lock = threading.Lock()
        self._outages: dict[str, _Outage] = {}

    def failed(self, kind: str, error: IpaError) -> None:
        """Note and log a failed write."""
        now_s = self._monotonic_s()
        with self._lock:
            outage = self._outages.setdefault(kind, _Outage(error, now_s, now_s))
            outage.error, outage.last_s = error, now_s
            outage.count += 1
            if now_s - outage.logged_s < LOG_EVERY_S:
                return
            outage.logged_s = now_s
            count = outage.count
        LOG.error("%s (%s, failure %d). %s", error.message, kind, count, error.hint)

    def worked(self, kind: str) -> None:
        """Forget the failures of that kind."""
        if kind not in self._outages:
            return
        with self._lock:
            outage = self._outages.pop(kind, None)
        if outage is not None:
            lasted_s = self._monotonic_s() - outage.since_s
            LOG.warning(
                "the store %s can be written again after %.0f s (%s, %d failures)",
                self._shown, lasted_s, kind, outage.count,
            )  # fmt: skip

    def reasons(self) -> tuple[str, ...]:
        """Return why writes fail now, each with its remedy; empty if they work."""
        oldest_s = self._monotonic_s() - FORGET_S
        with self._lock:
            for kind in [kind for kind, outage in self._outages.items() if outage.last_s < oldest_s]:
                del self._outages[kind]
            return tuple(
                dict.fromkeys(f"{it.error.message}. {it.error.hint}" for it in self._outages.values())
            )


def is_low(free_bytes: int, total_bytes: int) -> bool:
    """True if a disk with this much free space may soon refuse writes."""
    return free_bytes < min(LOW_BYTES, LOW_RATIO * total_bytes)


def low_disk(path: Path) -> str:
    """Return a warning if the disk is nearly full; else empty."""
    try:
        disk = shutil.disk_usage(path.parent)
    except OSError as error:
        return f"the free space on the disk of the store {path} cannot be read: {error.strerror}"
    if not is_low(disk.free, disk.total):
        return ""
    return f"the disk of the store {path} has {disk.free / 1e6:.1f} MB free. {MAKE_ROOM}"


class GroupCommit(Generic[T]):
    """A queue whose items are written in groups. `write` writes all items that it is given, or raises.

    A writer waits up to `LINGER_S` for more items while `more_come` is true. With a single thread each write
    is a group of its own.
    """

    def __init__(
        self, write: Callable[[Sequence[T]], None], more_come: Callable[[], bool] = lambda: False
    ) -> None:
        self._write, self._more_come = write, more_come
        self._waiting: deque[tuple[T, Future[None]]] = deque()
        # Held by the thread that writes a group.
        self._writing = threading.Lock()

    def add(self, item: T) -> None:
        """Write the item. If its group fails, it is written again alone: an error concerns this item only."""
        done: Future[None] = Future()
        self._waiting.append((item, done))
        while not done.done():
            with self._writing:
                # Another thread may have written it while this one waited.
                if not done.done():
                    until_s = time.monotonic() + LINGER_S
                    while (
                        self._more_come()
                        and len(self._waiting) < MOST_TOGETHER
                        and time.monotonic() < until_s
                    ):
                        time.sleep(LOOK_S)
                    self._write_group()
        done.result()

    def _write_group(self) -> None:
        """Write the items that have waited longest, and wake their writers."""
        group = [self._waiting.popleft() for _ in range(min(MOST_TOGETHER, len(self._waiting)))]
        try:
            self._write([item for item, _ in group])
        except BaseException as error:
            if len(group) == 1 or not isinstance(error, Exception):
                for _, done in group:
                    done.set_exception(error)
                return
            LOG.info("a group of %d writes failed; each is retried alone", len(group), exc_info=True)
            for item, done in group:
                try:
                    self._write([item])
                    done.set_result(None)
                except Exception as own:
                    done.set_exception(own)
            return
        for _, done in group:
            done.set_result(None)
