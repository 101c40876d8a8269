"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, reached by a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.fakes.waiting import until

# Debian keeps programs that users of a server do not need out of the PATH.
DEBIAN = Path("/usr/lib/postgresql")
USER = "ipa"
# What is lost when the machine stops needs no disk.
QUICK = (
    "fsync=off",
    "full_page_writes=off",
    "max_connections=60",
    "shared_buffers=16MB",
    "listen_addresses=",
)
STOP_S = 10.0


def program(name: str) -> str | None:
    """The path of a program of PostgreSQL, of the newest version; None where it is not installed."""
    versions = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]), reverse=True)
    return str(versions[0]) if versions else shutil.which(name)


def missing() -> str:
    """The parts that a cluster lacks here; empty where one can be started."""
    if not program("initdb") or not program("postgres"):
        return "needs a PostgreSQL server (Debian: apt-get install postgresql), or IPA_TEST_POSTGRES_URL"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL refuses to run as root, and there is no user postgres or nobody"
    return ""


def _account() -> pwd.struct_passwd | None:
    """The user that runs it in place of root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def other_children(*, recursive: bool = False) -> list[psutil.Process]:
    """The processes that this one started, but for those of a server that a fixture keeps."""
    return [each for each in psutil.Process().children(recursive=recursive) if each.name() != "postgres"]


@contextmanager
def running() -> Iterator[str]:
    """The URL of a database in a new cluster, which ends with the block."""
    account = _account() if os.geteuid() == 0 else None
    # Not pytest's folder: its path is too long for a socket, and root's alone.
    folder = Path(tempfile.mkdtemp(prefix="ipa-pg-", dir="/tmp"))
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    as_user = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data, log = folder / "data", folder / "log"
    try:
        made = [str(program("initdb")), "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8"]
        made += ["--no-locale", "--no-sync", "--no-instructions"]
        subprocess.run(made, cwd="/", check=True, capture_output=True, **as_user)  # type: ignore[call-overload]
        options = [word for option in QUICK for word in ("-c", option)]
        command = [str(program("postgres")), "-D", str(data), "-k", str(folder), *options]
        with log.open("wb") as stream:
            server = subprocess.Popen(command, cwd="/", stdout=stream, stderr=stream, **as_user)  # type: ignore[call-overload]
        try:
            url = f"postgresql://{USER}@/postgres?host={folder}"
            until(lambda: server.poll() is not None or _answers(url))
            assert server.poll() is None, log.read_text(errors="replace")
            yield url
        finally:
            # At once: nothing of it is kept.
            server.send_signal(signal.SIGQUIT)
            server.wait(STOP_S)
    finally:
        shutil.rmtree(folder)


def _answers(url: str) -> bool:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            return connection.scalar(text("SELECT 1")) == 1
    except OperationalError:
        return False
    finally:
        engine.dispose()


def emptied(url: str) -> str:
    """The URL, once its database has no table of ours; another's stay, since people may name one."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        ours = text(
            r"SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE 'ipa\_%'"
        )
        for table in connection.scalars(ours).all():
            connection.execute(text(f"DROP TABLE {table} CASCADE"))
    engine.dispose()
    return url
