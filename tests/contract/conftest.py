"""A store at each kind of database: SQLite, and PostgreSQL where a server is installed or named; a node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa.adapters.store import Store, open_store
from tests.contract.node_harness import SharedNode, shared_node
from tests.contract.store_harness import Reopen

# Its tests share a cluster, and so a worker.
POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))


@pytest.fixture(params=["sqlite", POSTGRESQL])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/folder/ipa.sqlite3"
        return
    yield request.getfixturevalue("postgres_url")


@pytest.fixture
def reopen(url: str) -> Iterator[Reopen]:
    opened: list[Store] = []

    def open_again() -> Store:
        opened.append(open_store(url))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Reopen) -> Store:
    return reopen()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedNode]:
    """The node of a module's tests that run on one. Later tests look for processes that were left behind."""
    with shared_node(tmp_path_factory.mktemp("node")) as made:
        yield made
