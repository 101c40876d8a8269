"""Opening the database: pragmas, transactions, migrations, and errors in the words of this package."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from ipa.model.errors import ConfigurationError, IpaError, UnavailableError

LOG = logging.getLogger(__name__)
# It tells of every look at the schema; what changes is told below.
logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)
# Not alembic's own name: a PostgreSQL database may be shared with another program that uses alembic.
VERSION_TABLE = "ipa_schema_version"
# A writer waits this long for another process's transaction; ours take milliseconds.
BUSY_TIMEOUT_S = 5.0
# Any constant: it keeps two services from migrating the same PostgreSQL database at once.
MIGRATION_LOCK = 0x1FA5_0001
# "IPA1", so that `file` and other programs can tell whose database it is.
APPLICATION_ID = 0x4950_4131
RESTORE = "Restore it from a backup, or name another store with IPA_STORE_URL."


def open_engine(store_url: str) -> Engine:
    """An engine on the store at its newest schema.

    A missing SQLite file is created. ConfigurationError: the URL is wrong, the store is read-only, or a newer
    version wrote it. UnavailableError: it does not answer or is damaged; nothing is ever started afresh.
    """
    url = _parse(store_url)
    engine = _engine(url)
    try:
        _migrate(engine, url)
    except BaseException:
        engine.dispose()
        raise
    return engine


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Where a store is: the schema that it has (empty: it is not there yet, or empty), and the newest."""

    shown: str
    current: str
    newest: str


def schema_state(store_url: str) -> SchemaState:
    """The schema of the store, which is neither made nor changed. Errors: as `open_engine`."""
    url = _parse(store_url)
    newest = _scripts()[1].get_current_head() or ""
    name = url.database or ""
    is_file = url.get_backend_name() == "sqlite" and not name.startswith("file:")
    if is_file and name not in ("", ":memory:") and not Path(name).exists():
        return SchemaState(_shown(url), "", newest)
    engine = _engine(url)
    try:
        with reading(engine) as connection:
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            return SchemaState(_shown(url), context.get_current_revision() or "", newest)
    finally:
        engine.dispose()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads; UnavailableError where the database fails."""
    with _translated(engine.url), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: Engine, lock: int) -> Iterator[Connection]:
    """A transaction that writes alone of its `lock`, on disk when it ends; UnavailableError otherwise."""
    with _translated(engine.url), engine.connect() as plain:
        connection = plain.execution_options(ipa_begin="BEGIN IMMEDIATE")
        with connection.begin():
            if engine.dialect.name == "postgresql":
                # A server set to answer before its disk does would lose decisions that were acted on.
                connection.execute(text("SET LOCAL synchronous_commit TO ON"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock})
            yield connection


def lock_of(kind: str, name: str) -> int:
    """The key under which writers of one thing wait for each other on PostgreSQL."""
    return zlib.crc32(f"ipa/{kind}/{name}".encode())


def _parse(store_url: str) -> URL:
    try:
        url = make_url(store_url)
    except ArgumentError as error:
        raise ConfigurationError(
            # Not the URL: it may hold a password.
            "the store's URL, IPA_STORE_URL, cannot be read",
            hint="Set IPA_STORE_URL, for example to sqlite:///runs/ipa.sqlite3",
        ) from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"the store cannot be kept in {url.get_backend_name()!r}",
            hint="Use sqlite:///FILE or postgresql://USER@HOST/DATABASE",
        )
    return url


def _engine(url: URL) -> Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        _prepare_file(url)
    arguments: dict[str, Any] = {"timeout": BUSY_TIMEOUT_S} if is_sqlite else {"connect_timeout": 5}
    try:
        engine = create_engine(url, connect_args=arguments, pool_pre_ping=not is_sqlite)
    except (ImportError, NoSuchModuleError) as error:
        raise ConfigurationError(
            f"the driver of {_shown(url)} is not installed", hint="pip install 'ipa-serving[postgres]'"
        ) from error
    if is_sqlite:
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
        if not str(url.database).startswith("file:"):
            _File(Path(str(url.database))).guard(engine)
    return engine


def _prepare_file(url: URL) -> None:
    name = url.database or ""
    if name in ("", ":memory:"):
        raise ConfigurationError(
            "the store cannot be kept in memory: decisions must outlive the service",
            hint="Set IPA_STORE_URL to a file, for example sqlite:///runs/ipa.sqlite3",
        )
    if name.startswith("file:"):
        return
    path = Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_emptied = path.is_file() and path.stat().st_size == 0
    except OSError as error:
        raise ConfigurationError(
            f"the store's folder {path.parent} cannot be made: {error.strerror}", hint="Set IPA_STORE_URL."
        ) from error
    if is_emptied:
        raise UnavailableError(
            f"the store {path} is an empty file; a store that lost its contents is not started afresh",
            hint=f"{RESTORE} If it never held anything, remove the file.",
        )


class _File:
    """The file that was opened first. SQLite goes on writing to one that was removed, and makes a new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: int | None = None

    def guard(self, engine: Engine) -> None:
        """Have every connection fail once another file, or none, has its name."""
        event.listen(engine, "do_connect", self._check)
        event.listen(engine, "connect", self._remember)
        event.listen(engine, "checkout", self._check)

    def _remember(self, *_: Any) -> None:
        self._inode = self._inode or self._path.stat().st_ino

    def _check(self, *_: Any) -> None:
        if self._inode is not None and (not self._path.exists() or self._path.stat().st_ino != self._inode):
            raise UnavailableError(
                f"the store {self._path} was moved or removed while it was in use",
                hint="Put it back, or start the service again: what is not there is lost.",
            )


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _on_sqlite_begin
    cursor = connection.cursor()
    # WAL: the page reads while the loop writes. FULL: a commit returns only after fsync.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("ipa_begin", "BEGIN"))


def _scripts() -> tuple[Config, ScriptDirectory]:
    """The migrations, and the configuration to run them with."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config, ScriptDirectory.from_config(config)


def _migrate(engine: Engine, url: URL) -> None:
    config, scripts = _scripts()
    known = {script.revision for script in scripts.walk_revisions()}
    with writing(engine, MIGRATION_LOCK) as connection:
        if engine.dialect.name == "sqlite":
            found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
            if found != "ok":
                raise UnavailableError(f"the store {_shown(url)} is damaged: {found}", hint=RESTORE)
            # Marks the file as ours, and fails now, not at the first decision, where it is read-only.
            connection.execute(text(f"PRAGMA application_id = {APPLICATION_ID}"))
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        current = context.get_current_revision()
        if current is not None and current not in known:
            raise ConfigurationError(
                f"the store {_shown(url)} has schema {current!r}, which is newer than this version of ipa",
                hint="Install the version of ipa that wrote it, or name another store with IPA_STORE_URL.",
            )
        newest = scripts.get_current_head()
        if current != newest:
            LOG.info("store %s: schema %s to %s", _shown(url), current or "none", newest)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    try:
        yield
    except IpaError:
        raise
    except (DBAPIError, SQLAlchemyError) as error:
        said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        if "readonly" in said or "read-only" in said:
            raise ConfigurationError(
                f"the store {_shown(url)} cannot be written: {said}",
                hint="Give the service write access to the file and its folder, or set IPA_STORE_URL.",
            ) from error
        damaged = "not a database" in said or "malformed" in said
        raise UnavailableError(
            f"the store {_shown(url)} {'is damaged' if damaged else 'failed'}: {said}",
            hint=RESTORE if damaged else "Check that it runs and can be reached, then try again.",
        ) from error
