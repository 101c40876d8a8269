"""The names of records by pipeline: a later pipeline of a name does not see the earlier one's record."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from ipa.adapters.store.database import lock_of, reading, writing
from ipa.adapters.store.schema import RecordRow
from ipa.control.audit.record import MARK

# 2^48 identifiers: two pipelines of one name never draw the same.
ID_BYTES = 6


@dataclass(frozen=True, slots=True)
class NamedRecord:
    """A record, and its pipeline's namespace when the record began."""

    record: str
    namespace: str


class RecordTable:
    """The current record of each pipeline, by name. Thread-safe; `read` loads the changes of other processes.

    A pipeline created over the API writes a new record, `NAME~ID`. A pipeline of a file continues the record
    of its name and namespace after a restart. A name without a row, as in older stores, is its own record.
    """

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine, self._now = engine, now
        self._lock = threading.Lock()
        self._owners: Mapping[str, NamedRecord] = {}
        self.read()

    def read(self) -> None:
        """Read the current records from the database."""
        with self._lock, reading(self._engine) as connection:
            rows = connection.execute(_CURRENT).all()
            self._owners = {name: NamedRecord(record, namespace) for name, record, namespace in rows}

    def owner(self, name: str) -> NamedRecord | None:
        """Return record and namespace of the pipeline that has this name now; None without a row."""
        return self._owners.get(name)

    def of(self, name: str) -> str:
        """Return the record that a pipeline, or PIPELINE@POLICY, writes now.

        The name of a record stands for itself; `NAME~` is the record that an older store has under NAME.
        """
        pipeline, at, policy = name.partition("@")
        if pipeline.endswith(MARK):
            return f"{pipeline.removesuffix(MARK)}{at}{policy}"
        owner = self._owners.get(pipeline)
        return f"{owner.record}{at}{policy}" if owner else name

    def resume(self, name: str, namespace: str) -> str:
        """Return the record that the pipeline of a file continues; a new one if the namespace differs."""
        with self._writing(name) as connection:
            record = self._adopted(connection, name, namespace)
            return record or self._begun(connection, name, namespace)

    def adopt(self, name: str, namespace: str) -> str | None:
        """Return the record of a pipeline in the store; None while another process creates or removes it."""
        with self._writing(name) as connection:
            return self._adopted(connection, name, namespace)

    def begin(self, name: str, namespace: str) -> str:
        """Start a new record for the pipeline, and return its name."""
        with self._writing(name) as connection:
            return self._begun(connection, name, namespace)

    def end(self, name: str) -> None:
        """End the record of the pipeline of that name."""
        with self._writing(name) as connection:
            self._end(connection, name)
            self._owners = {each: owner for each, owner in self._owners.items() if each != name}

    @contextmanager
    def _writing(self, name: str) -> Iterator[Connection]:
        with self._lock, writing(self._engine, lock_of("records", name)) as connection:
            yield connection

    def _adopted(self, connection: Connection, name: str, namespace: str) -> str | None:
        rows = connection.execute(_OF_NAME, {"its": name}).all()
        current = next((row for row in rows if row.ended_at is None), None)
        if not rows:
            # Continue the record that an older store has under the plain name, without a namespace.
            return self._insert(connection, name, name, namespace)
        if current is None or current.namespace != namespace:
            return None
        self._owners = {**self._owners, name: NamedRecord(current.record, namespace)}
        return str(current.record)

    def _begun(self, connection: Connection, name: str, namespace: str) -> str:
        self._end(connection, name)
        return self._insert(connection, f"{name}{MARK}{secrets.token_hex(ID_BYTES)}", name, namespace)

    def _insert(self, connection: Connection, record: str, name: str, namespace: str) -> str:
        at = self._now().isoformat()
        connection.execute(insert(RecordRow).values(record=record, pipeline=name, namespace=namespace, at=at))
        self._owners = {**self._owners, name: NamedRecord(record, namespace)}
        return record

    def _end(self, connection: Connection, name: str) -> None:
        connection.execute(
            update(RecordRow)
            .where(RecordRow.pipeline == name, RecordRow.ended_at.is_(None))
            .values(ended_at=self._now().isoformat())
        )


_CURRENT = select(RecordRow.pipeline, RecordRow.record, RecordRow.namespace).where(
    RecordRow.ended_at.is_(None)
)
_OF_NAME = select(RecordRow.record, RecordRow.namespace, RecordRow.ended_at).where(
    RecordRow.pipeline == bindparam("its")
)
