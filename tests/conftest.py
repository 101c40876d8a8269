"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main
from hypothesis import settings

from ipa.optimize import deadline
from tests.amounts import many

if TYPE_CHECKING:
    from tests.fakes.commands import Ipa

# Before numpy is there: the threads of its algebra wait for each other by computing, which took as much time
# again as the algebra, of cores that other tests use.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What the helpers of tests assert is told in full, as if the test itself asserted it.
pytest.register_assert_rewrite("tests.fakes", "tests.faults", "tests.contract")
# The same examples each time; what they take depends on the machine.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=many(50))
settings.load_profile("fixed")

ROOT = Path(__file__).resolve().parent.parent
# A package of its own, whose tests are run once it is installed.
collect_ignore = ["example_plugin"]


# Their processes answer as soon as the machine lets them.
LIVE = ("browser", "local")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Let each worker begin with another part of the files: it compiles it, and finds the rest compiled."""
    worker, count = (os.environ.get(f"PYTEST_XDIST_WORKER{part}", "") for part in ("", "_COUNT"))
    if not worker or session.config.args != ["tests"]:
        return
    files = [it for it in sorted((ROOT / "tests").rglob("test_*.py")) if it.parts[-2] != collect_ignore[0]]
    first = int(worker.removeprefix("gw")) * len(files) // int(count)
    for file in (*files[first:], *files[:first]):
        # The collection imports it again, and tells it.
        with suppress(Exception, pytest.skip.Exception):
            import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of Chromium and of model servers `live`, before pytest selects by mark."""
    for item in items:
        if any(item.get_closest_marker(name) for name in LIVE):
            item.add_marker(pytest.mark.live)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine by the `run` of its module, such as that of a virtual clock."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    getattr(pyfuncitem.module, "run", asyncio.run)(pyfuncitem.obj(**given))
    return True


def pytest_collection_finish() -> None:
    """Modules and tests are there until the end: the garbage collector does not look at them ever again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def _one_command_line() -> Iterator[None]:
    """The command line built once a worker: tests run verbs by the hundred, and building it takes 40 ms."""
    main = sys.modules.get("ipa.cli.main")
    with pytest.MonkeyPatch.context() as patch:
        if main is not None:
            patch.setattr(main, "build_app", cache(main.build_app))
            patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


class CpuTime:
    """This process's CPU time, asked for once in two milliseconds: solvers look at it all the time."""

    EACH_S = 0.002

    def __init__(self) -> None:
        self._asked_s = self._cpu_s = -1.0

    def __call__(self) -> float:
        now_s = time.perf_counter()
        if now_s - self._asked_s > self.EACH_S:
            self._asked_s, self._cpu_s = now_s, time.process_time()
        return self._cpu_s


@pytest.fixture(autouse=True)
def _limits_of_cpu_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Count CPU time for the limits of solvers, which others do not take; real time in live tests."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("live") is None:
            patch.setattr(deadline, "perf_counter", CpuTime())
        yield


@pytest.fixture
def ipa(capfd: pytest.CaptureFixture[str]) -> Ipa:
    """The command line in this process."""
    from tests.fakes.commands import ipa_with

    return ipa_with(capfd)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published profiles and traces; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("IPA_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "ipa_profiles.json").is_file():
        pytest.skip(f"needs the published data, which is not at {folder}; set IPA_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL database for tests: IPA_TEST_POSTGRES_URL, else a cluster started here."""
    given = os.environ.get("IPA_TEST_POSTGRES_URL", "")
    if given:
        yield given
        return
    from tests.fakes import postgres

    lacking = postgres.missing()
    if lacking:
        pytest.skip(lacking)
    with postgres.running() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of a PostgreSQL database with nothing in it. Tests that take it are of its xdist_group."""
    from tests.fakes.postgres import emptied

    return emptied(postgres_server)
