"""A store that cannot be written makes the service degraded, with the reason; one file has one service."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from ipa.adapters.store import Access, Store, database, open_store
from ipa.adapters.store.database import FORGET_S, LOG_EVERY_S, WriteHealth
from ipa.cli.main import run
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.decision import Mode
from ipa.model.errors import ConfigurationError, ConflictError, UnavailableError
from tests.contract.store_harness import a_decision
from tests.fakes.waiting import until
from tests.faults.table import Case
from tests.faults.test_store_faults import full, read_only, recorded_world

PROGRAMS = ("unshare", "mount")


def missing() -> str:
    """The reason why this machine cannot mount one; empty where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)} to mount a small file system"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"],
        check=False,
        capture_output=True,
        text=True,
    )
    return f"may not mount a small file system: {tried.stderr.strip()}" if tried.returncode else ""


def on_disk(folder: Path, size: str, command: Sequence[str]) -> list[str]:
    """The command, run in a mount namespace of its own where the folder is a file system of that size."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, str(folder), *command]


class SmallDisk:
    """The file system of such a process, as seen from outside."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.path = Path(f"/proc/{pid}/root{folder}")

    def fill(self) -> None:
        """Leave no room."""
        with (self.path / "filler").open("ab", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(4096))
            except OSError:
                return

    def free(self) -> None:
        """Give the room back."""
        (self.path / "filler").unlink()


ROOT = Path(__file__).resolve().parents[2]
MAIN = [sys.executable, "-c", "from ipa.cli.main import main; main()"]


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IPA_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


@pytest.fixture
def mountable() -> None:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)


class Demo:
    """`ipa demo`, whose store is on a small disk."""

    def __init__(self, client: httpx.Client, disk: SmallDisk, log: Path) -> None:
        self._client, self.disk, self._log = client, disk, log

    def get(self, path: str) -> Any:
        answer = self._client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def writes(self) -> str:
        """The service's message on its store's writes; empty where they work."""
        checks = {each["name"]: each for each in self.get("/readyz?verbose")["checks"]}
        return str(checks["store writes"]["detail"])

    def decided(self) -> int:
        """The tick of the newest decision on disk."""
        decisions = self.get("/v1/pipelines/video/decisions?limit=1&inputs=false")["decisions"]
        return int(decisions[0]["tick"]) if decisions else 0

    def metric(self, name: str) -> float:
        lines = self._client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def log(self) -> list[str]:
        return self._log.read_text().splitlines()


@contextmanager
def demo_on(folder: Path, size: str) -> Iterator[Demo]:
    disk, log = folder / "disk", folder / "log"
    disk.mkdir()
    command = on_disk(disk, size, [*MAIN, "demo", "--port", "0", "--speed", "60"])
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, env=environment(TMPDIR=str(disk)), stdout=subprocess.PIPE, stderr=stream, text=True
        )
    with process:
        try:
            assert process.stdout is not None
            url = next(line for line in process.stdout if "http://" in line).split()[-1]
            with httpx.Client(base_url=url, trust_env=False, timeout=300) as client:
                yield Demo(client, SmallDisk(process.pid, disk), log)
        finally:
            process.kill()


@pytest.mark.live
@pytest.mark.usefixtures("mountable")
def test_r11_a_full_disk_degrades_and_the_service_recovers(case: Case, tmp_path: Path) -> None:
    with demo_on(tmp_path, "6m") as demo:
        until(lambda: demo.get("/v1/pipelines/video/history")["decisions"])
        case.equal("said before", demo.writes(), "")
        demo.disk.fill()
        until(lambda: "disk is full" in demo.writes())
        ready = demo.get("/readyz?verbose")
        case.equal("ready, degraded", (ready["ready"], ready["degraded"]), (True, True))
        case.note("said", demo.writes())
        assert "Enlarge the volume" in demo.writes()
        case.equal("metric", demo.metric("ipa_store_degraded"), 1.0)
        audit_failed = 'ipa_decisions_total{pipeline="video",reason="hold.audit_failed"}'
        until(lambda: demo.metric(audit_failed) >= 10)
        held = demo.decided()
        # What is read is answered: status, history, the record.
        demo.get("/v1/pipelines/video/status")
        case.at_least("decisions read", len(demo.get("/v1/pipelines/video/history")["decisions"]), 1)
        lines = [line for line in demo.log() if "is full" in line]
        case.at_most("lines logged of 10 ticks and more", len(lines), 4)
        demo.disk.free()
        until(lambda: not demo.writes() and demo.decided() > held)
        case.equal("metric once there is room", demo.metric("ipa_store_degraded"), 0.0)
        assert any("can be written again after" in line for line in demo.log())
        record = demo.get("/v1/pipelines/video/record")
        case.at_least("entries that verify", record["entries"], held)


READ_ONLY = """
import subprocess, sys
from ipa.cli.main import run
assert run(["key", "create", "--role", "operator", "--name", "ada"]) == 0
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
assert run(["key", "list"]) == 0
sys.exit(run(["key", "create", "--role", "operator"]))
"""
FULL = """
import sys
from pathlib import Path
from ipa.cli.main import run
assert run(["key", "create", "--role", "operator", "--name", "ada"]) == 0
with (Path(sys.argv[1]) / "filler").open("ab", buffering=0) as stream:
    try:
        while stream.write(bytes(4096)):
            pass
    except OSError:
        pass
sys.exit(run(["key", "list"]))
"""


@pytest.mark.usefixtures("mountable")
@pytest.mark.parametrize(
    ("script", "code", "remedy"),
    [
        pytest.param(READ_ONLY, 78, "Give the service write access", id="read-only"),
        pytest.param(FULL, 1, "Enlarge the volume", id="full"),
    ],
)
def test_r11_what_cannot_be_opened_says_why(
    case: Case, tmp_path: Path, script: str, code: int, remedy: str
) -> None:
    """A disk that is read-only is read; one without room for SQLite's shared memory is not opened."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = on_disk(disk, "2m", [sys.executable, "-c", script, str(disk)])
    variables = environment(IPA_STORE_URL=f"sqlite:///{disk}/s.sqlite3")
    done = subprocess.run(
        command, env=variables, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    case.equal("exit code", done.returncode, code)
    assert remedy in done.stderr
    assert script is FULL or "ada" in done.stdout
    case.note("said", done.stderr.strip().splitlines()[-1].replace(str(disk), "").strip())


@pytest.mark.parametrize("trouble", [full, read_only], ids=["full", "read-only"])
def test_r11_the_store_says_why_it_is_degraded(
    case: Case, tmp_path: Path, trouble: Any, caplog: pytest.LogCaptureFixture
) -> None:
    case.title += f": {trouble.__name__}"
    with recorded_world(tmp_path / "s.sqlite3") as recorded:
        store = recorded.world.store
        assert isinstance(store, Store)
        recorded.world.ticks(1)
        case.equal("well", store.degraded(), ())
        with trouble(recorded), caplog.at_level(logging.ERROR):
            decisions = recorded.world.ticks(5)
            (reason,) = store.degraded()
            case.note("said", reason.rpartition(" failed: ")[2])
            case.equal("reasons", {it.reason.value for it in decisions}, {"hold.audit_failed"})
            case.equal("reads", store.control("ocr"), PipelineControl())
        errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
        case.equal("lines logged of 5 ticks", len(errors), 2)
        # Why it cannot be written, and that decisions are held for that.
        assert {each.name for each in errors} == {"ipa.store", "ipa.control"}
        recorded.world.ticks(1)
        case.equal("once it is well", store.degraded(), ())


def test_r11_a_small_write_does_not_hide_that_decisions_fail() -> None:
    now_s = [0.0]
    health = WriteHealth("s", lambda: now_s[0])
    health.failed("record", UnavailableError("disk full", hint="Make room."))
    health.worked("other writes")
    assert health.reasons() == ("disk full. Make room.",)
    now_s[0] = FORGET_S + 1.0
    assert health.reasons() == ()


def test_r11_an_outage_is_logged_once_a_minute(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    now_s = [0.0]
    health = WriteHealth("s", lambda: now_s[0])
    with caplog.at_level(logging.WARNING):
        for second in range(int(10 * LOG_EVERY_S)):
            now_s[0] = float(second)
            for _ in range(10):
                health.failed("record", UnavailableError("disk full", hint="Make room."))
        health.worked("record")
    case.equal("lines of an outage of ten minutes with 6 000 failures", len(caplog.records), 11)
    assert "written again after 599 s" in caplog.records[-1].message


@pytest.mark.xdist_group("postgresql")
def test_r11_a_postgresql_that_only_reads_degrades(case: Case, postgres_url: str) -> None:
    store = open_store(postgres_url)
    store.record(a_decision(1))
    plain = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))

    def only_reads(value: str) -> None:
        with plain.begin() as connection:
            connection.execute(text("SET TRANSACTION READ WRITE"))
            name = connection.scalar(text("SELECT current_database()"))
            connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}'))
        store._engine.dispose()

    only_reads("on")
    try:
        with pytest.raises(ConfigurationError, match="read-only"):
            store.record(a_decision(2))
        case.equal("reasons", len(store.degraded()), 1)
        case.equal("decisions read", len(store.decisions("ocr")), 1)
    finally:
        only_reads("off")
    store.record(a_decision(2))
    case.equal("once it is well", store.degraded(), ())
    store.close()
    plain.dispose()


HOLD = """
import sys
from ipa.adapters.store import Access, open_store
store = open_store(sys.argv[1], Access.SERVE)
print("serving", flush=True)
sys.stdin.read()
"""


@contextmanager
def serving(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that serves with that store."""
    command = [sys.executable, "-c", HOLD, url]
    process = subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "serving\n"
            yield process
        finally:
            process.kill()


def test_r11_a_second_service_on_one_file_is_refused(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.sqlite3"
    other_name = tmp_path / "link.sqlite3"
    monkeypatch.setenv("IPA_STORE_URL", f"sqlite:///{path}")
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(ROOT / "pipelines"))
    monkeypatch.setenv("IPA_PROFILES_DIR", str(ROOT / "profiles"))
    with serving(f"sqlite:///{path}") as first:
        other_name.symlink_to(path)
        case.equal("exit code of the second service", run(["serve", "video", "--port", "0"]), 4)
        errors = capfd.readouterr().err
        assert f"process {first.pid}" in errors and "IPA_STORE_URL" in errors
        with pytest.raises(ConflictError):
            open_store(f"sqlite:///{other_name}", Access.SERVE)
        # Verbs that read, or add a key, work beside it.
        codes = [run(["key", "create", "--role", "viewer", "--name", "ada"]), run(["key", "list"])]
        case.equal("exit codes of keys made and listed", codes, [0, 0])
        first.kill()
        first.wait(20)
        store = open_store(f"sqlite:///{path}", Access.SERVE)
        case.equal("keys after kill -9", [key.name for key in store.keys.all()], ["ada"])
        store.close()
    open_store(f"sqlite:///{path}", Access.SERVE).close()


@pytest.mark.xdist_group("postgresql")
def test_r11_replicas_share_postgresql(case: Case, postgres_url: str) -> None:
    stores = [open_store(postgres_url, Access.SERVE) for _ in range(2)]
    for tick, store in enumerate(stores):
        store.record(a_decision(tick))
    case.equal("decisions of two services", stores[0].verify("ocr").decisions, 2)
    for store in stores:
        store.close()


def test_r11_no_lock_of_the_store_is_held_while_a_service_only_decides(case: Case, tmp_path: Path) -> None:
    """Another process may write beside it at any moment between two of its writes."""
    path = tmp_path / "s.sqlite3"
    store = open_store(f"sqlite:///{path}", Access.SERVE)
    store.set_control("ocr", PipelineControl(Mode.ACTIVE), Attribution(ControlAction.MODE))
    other = sqlite3.connect(path, timeout=0.0, isolation_level=None)
    for tick in range(5):
        store.record(a_decision(tick))
        other.execute("BEGIN IMMEDIATE")
        other.execute("COMMIT")
    other.close()
    store.close()
    case.equal("busy timeout, s", database.BUSY_TIMEOUT_S, 5.0)
