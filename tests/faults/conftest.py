"""The fixture `case`, and the table of all cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.store import Store, open_store
from ipa.targets.seldon.manifest import render
from tests.fakes import world
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_configs
from tests.faults.manners import NAMES, NAMESPACE, named
from tests.faults.table import ROW, Case, case_of, entry_of, write

PROPERTY = "fault-case"
FOUND: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-table", default="", help="write the table of fault cases to this folder")
    parser.addoption("--faults-groups", default="", help="only rows of these groups, as RG")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    groups = config.getoption("--faults-groups", default="")
    if groups:
        # By row, since -k also picks files and other tests by parts of their names.
        chosen = [each for each in items if (row := ROW.match(each.name)) and row[1].upper() in groups]
        config.hook.pytest_deselected(items=[each for each in items if each not in set(chosen)])
        items[:] = chosen


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """The case of this test, by its name."""
    made = case_of(request.node.name)
    yield made
    # Through the report, so that it also arrives from another worker's process.
    request.node.user_properties.append((PROPERTY, json.dumps(entry_of(made, True, 0.0))))


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal questions to the planner are answered from memory: some sweeps ask the same few over and over."""
    plans: dict[str, Any] = {}
    real = world.planner

    def planner(*arguments: Any, **options: Any) -> Any:
        key = repr((arguments, options))
        if key not in plans:
            plans[key] = real(*arguments, **options)
        return plans[key]

    monkeypatch.setattr(world, "planner", planner)


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    """A server with seven SeldonDeployments."""
    with FakeKube() as fake:
        for name in NAMES:
            body = render(named(name), sample_configs())
            fake.store.create("seldondeployments", NAMESPACE, body)
        yield fake


@pytest.fixture
def connect(kube: FakeKube, tmp_path: Path) -> Iterator[Callable[..., KubeClient]]:
    """Makes clients of it."""
    made: list[KubeClient] = []

    def build_client(timeout_s: float = 10.0, **options: Any) -> KubeClient:
        path = str(kube.kubeconfig(tmp_path))
        made.append(KubeClient.from_kubeconfig(path, timeout_s, seed=0, **options))
        return made[-1]

    yield build_client
    for client in made:
        client.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in a new file."""
    made = open_store(f"sqlite:///{tmp_path / 'keys.sqlite3'}")
    yield made
    made.close()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    recorded = dict(report.user_properties).get(PROPERTY)
    if report.when == "call":
        RESULTS[report.nodeid] = (report.passed, report.duration)
    if report.when == "teardown" and recorded is not None:
        passed, duration_s = RESULTS.get(report.nodeid, (False, 0.0))
        entry = {**json.loads(str(recorded)), "passed": passed, "duration_s": round(duration_s, 2)}
        FOUND.append(entry)


RESULTS: dict[str, tuple[bool, float]] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    folder = config.getoption("--faults-table", default="")
    if folder and FOUND and not hasattr(config, "workerinput"):
        terminalreporter.write_line(write(FOUND, Path(str(folder))))
