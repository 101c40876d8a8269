"""Opening a store costs the same whatever it holds, and never makes a service beside it wait."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from ipa.adapters.store import Access, Store, database, open_store
from ipa.cli.main import run
from ipa.control.audit.record import Verified
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.access import Grant, Role
from ipa.model.decision import Mode
from ipa.model.errors import ConfigurationError, ConflictError, IpaError, NotFoundError, RecordError
from tests.contract.store_harness import a_decision
from tests.faults.table import Case

MB = 1024 * 1024
# Pages of a store that has one entry, its tables' roots and the schema.
OPENING_BYTES = 2 * MB


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a key and some decisions, which `ipa` finds."""
    made = tmp_path / "s.sqlite3"
    store = open_store(url_of(made))
    store.set_control("ocr", PipelineControl(Mode.ACTIVE), Attribution(ControlAction.MODE))
    for tick in range(8):
        store.record(a_decision(tick))
    store.keys.create("ada", Grant(Role.OPERATOR), now=store._now())
    store.close()
    monkeypatch.setenv("IPA_STORE_URL", url_of(made))
    return made


@contextmanager
def bytes_read() -> Iterator[Callable[[], int]]:
    """Counts what this process reads from files, whether from the disk or from the system's cache."""

    def count() -> int:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])

    before = count()
    yield lambda: count() - before


@contextmanager
def statements() -> Iterator[list[str]]:
    """Every statement that is sent to SQLite."""
    sent: list[str] = []

    def traced(connection: sqlite3.Connection, _record: object) -> None:
        connection.set_trace_callback(sent.append)

    event.listen(Engine, "connect", traced)
    yield sent
    event.remove(Engine, "connect", traced)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Another process is in a transaction that writes."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE other (at TEXT)")
    yield
    other.execute("ROLLBACK")
    other.close()


@pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="counts bytes in /proc/self/io, which Linux has"
)
@pytest.mark.parametrize("access", Access)
def test_r8_opening_reads_the_same_of_a_large_store(case: Case, path: Path, access: Access) -> None:
    case.title += f": {access.name.lower()}"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=OFF")
    other.execute("PRAGMA synchronous=OFF")
    other.execute("CREATE TABLE padding (body BLOB)")
    other.execute(f"INSERT INTO padding VALUES (zeroblob({200 * MB}))")
    other.execute("PRAGMA journal_mode=WAL")
    other.close()
    with bytes_read() as count:
        store = open_store(url_of(path), access)
        store.check()
        opened_bytes = count()
    store.close()
    case.note("size of the store, MB", path.stat().st_size / MB)
    case.at_most("MB read by opening", opened_bytes / MB, OPENING_BYTES / MB)


READERS = {
    "key list": ["key", "list"],
    "doctor --store": ["doctor", "--store"],
    "store backup": ["store", "backup", "copy.sqlite3"],
}


@pytest.mark.parametrize("verb", READERS)
def test_r8_verbs_that_read_do_not_wait_for_a_writer(
    case: Case, path: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    case.title += f": {verb}"
    monkeypatch.chdir(path.parent)
    # Whoever waits for the lock fails at once.
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.001)
    with written(path):
        case.equal("exit code beside a writer", run(READERS[verb]), 0)
    assert not capfd.readouterr().err.startswith("error")


def test_r8_listing_keys_writes_nothing(case: Case, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    contents = path.read_bytes()
    with statements() as sent:
        case.equal("exit code", run(["key", "list"]), 0)
    assert "ada" in capfd.readouterr().out
    case.note("statements", len(sent))
    reads = ("SELECT", "BEGIN", "ROLLBACK", "COMMIT", "PRAGMA main.table_info", "PRAGMA temp.table_info")
    reads += ("PRAGMA read_uncommitted",)
    others = [it for it in sent if not it.lstrip().startswith(reads) or "IMMEDIATE" in it]
    case.equal("statements that are no read", others, [])
    case.equal("contents unchanged", path.read_bytes() == contents, True)


def test_r8_a_writer_of_the_newest_schema_opens_beside_another(
    case: Case, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.001)
    with written(path):
        store = open_store(url_of(path))
        case.equal("decisions read", len(store.decisions("ocr")), 8)
    store.close()


def test_r8_a_reader_of_an_older_schema_names_the_remedy(case: Case, path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("UPDATE ipa_schema_version SET version_num = '0008'")
    other.commit()
    other.close()
    with pytest.raises(ConfigurationError, match=r"schema 0008, older.*\n.*ipa serve"):
        open_store(url_of(path), Access.READ)
    with pytest.raises(NotFoundError, match="ipa serve"):
        open_store(url_of(path.with_name("none.sqlite3")), Access.READ)
    case.equal("stores created by reading", [*path.parent.glob("none*")], [])


def test_r8_an_older_schema_is_left_alone_beneath_a_service(case: Case, path: Path) -> None:
    serving = open_store(url_of(path), Access.SERVE)
    other = sqlite3.connect(path)
    other.execute("UPDATE ipa_schema_version SET version_num = '0008'")
    other.commit()
    with pytest.raises(ConflictError, match="in use by an ipa service"):
        open_store(url_of(path), Access.WRITE)
    version = other.execute("SELECT version_num FROM ipa_schema_version").fetchone()[0]
    other.close()
    serving.close()
    case.equal("schema beneath the service", version, "0008")


def _read_everything(url: str) -> list[object]:
    """The answer that every reader of the service finds."""
    store = open_store(url, Access.WRITE)
    try:
        return [
            store.decisions("ocr", limit=1000),
            store.control("ocr"),
            store.entries(0, 100),
            store.keys.all(),
            store.given.all(),
            store.profiles("ocr"),
            store.verify("ocr"),
        ]
    finally:
        store.close()


def test_r8_damage_is_found_where_it_is_met(case: Case, path: Path) -> None:
    """A page of noise, or one byte, anywhere: the answer is right, or an error of ours that says so."""
    store = open_store(url_of(path))
    store.given.keep("given", {"name": "given"})
    # Most pages hold rows then: what is damaged is seldom empty.
    for tick in range(8, 100):
        store.record(a_decision(tick))
    store.close()
    good, whole = path.read_bytes(), _read_everything(url_of(path))
    rounds = int(os.environ.get("IPA_FAULT_SEEDS", "20"))
    outcomes = {"right": 0, "refused": 0, "verified all the same": 0}
    case.seeds = f"0-{rounds - 1}"
    for seed in range(rounds):
        draw = random.Random(seed)
        bad = bytearray(good)
        if seed % 2:
            at = draw.randrange(len(bad))
            bad[at] ^= 1 << draw.randrange(8)
        else:
            at = draw.randrange(1, len(bad) // 4096) * 4096
            bad[at : at + 4096] = draw.randbytes(4096)
        path.write_bytes(bad)
        try:
            contents = _read_everything(url_of(path))
        except IpaError as error:
            outcomes["refused"] += 1
            assert error.hint, error
        else:
            assert isinstance(contents[-1], Verified)
            # No digest covers keys and pipelines that were given.
            is_same = [each == other for each, other in zip(contents, whole, strict=True)]
            outcomes["right" if all(is_same) else "verified all the same"] += 1
            assert is_same[0] and is_same[2] and is_same[-1], f"seed {seed}"
        for name in (f"{path}-wal", f"{path}-shm"):
            Path(name).unlink(missing_ok=True)
    case.note("outcomes", outcomes)
    case.at_least("damages that were refused", outcomes["refused"], rounds // 4)


# The name of the pipeline in a row of the record, and in the index by which that is found.
NAMES = {"row": rb"ocr.decision", "index": rb"\x04\x13\x01\x01ocr"}


@pytest.mark.parametrize("place", NAMES)
def test_r8_a_row_of_one_pipeline_by_its_index_and_of_another_by_itself(
    case: Case, path: Path, place: str
) -> None:
    case.title += f": {place}"
    content = path.read_bytes()
    match = re.search(NAMES[place], content, re.DOTALL)
    assert match
    path.write_bytes(content.replace(match[0], match[0].replace(b"ocr", b"ncr"), 1))
    store = open_store(url_of(path))
    with pytest.raises(RecordError, match=r"entry \d was changed") as raised:
        store.verify("ocr")
    store.close()
    case.note("found", raised.value.message)


def test_r8_files_are_private_whatever_the_umask(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.sqlite3"
    before = os.umask(0)
    try:
        store = open_store(url_of(path), Access.SERVE)
        store.record(a_decision(1))
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(before)
    case.note("files", ", ".join(sorted(modes)))
    case.equal("rights of the files", {f"{mode:o}" for mode in modes.values()}, {"600"})


def test_r8_wider_rights_are_narrowed(case: Case, path: Path) -> None:
    path.chmod(0o644)
    open_store(url_of(path), Access.READ).close()
    case.equal("rights after reading", f"{stat.S_IMODE(path.stat().st_mode):o}", "644")
    open_store(url_of(path), Access.SERVE).close()
    case.equal("rights after serving", f"{stat.S_IMODE(path.stat().st_mode):o}", "600")


def test_r8_services_that_begin_at_once_create_one_store(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    script = (
        "import sys; from ipa.adapters.store import open_store; "
        "store = open_store(sys.argv[1]); store.keys.all(); store.close()"
    )
    command = [sys.executable, "-c", script, url_of(path)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1].decode() for process in started]
    # One of them migrates; another that comes then is told so, or waits for it.
    failed = [text for process, text in zip(started, errors, strict=True) if process.returncode]
    case.equal("failures other than that", [it for it in failed if "in use by an ipa service" not in it], [])
    store = Store(database.open_engine(url_of(path)))
    case.equal("keys of the store", list(store.keys.all()), [])
    store.close()
