"""A store at each kind of database: SQLite, and PostgreSQL where IPA_TEST_POSTGRES_URL names one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from ipa.adapters.store import Store, open_store
from tests.contract.store_harness import TABLES, Reopen


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/folder/ipa.sqlite3"
        return
    found = os.environ.get("IPA_TEST_POSTGRES_URL", "")
    if not found:
        pytest.skip("needs a PostgreSQL database; set IPA_TEST_POSTGRES_URL")
    engine = create_engine(found.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for table in TABLES:
            connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
    engine.dispose()
    yield found


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
