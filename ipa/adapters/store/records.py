"""Which record belongs to which pipeline: the next owner of a name reads nothing of the earlier one's."""

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

# 2^48 of them: two pipelines of one name never draw the same.
ID_BYTES = 6


@dataclass(frozen=True, slots=True)
class NamedRecord:
    """The pipeline that writes a record: `namespace` is the one it was in when the record began."""

    record: str
    namespace: str


class RecordTable:
    """The current record of each pipeline, by name. Thread-safe; `read` takes up what other processes did.

    A pipeline given over the API writes a new record, `NAME~ID`; one of a file goes on with the record of its
    name and namespace over restarts. A name without a row, as in older stores, is its own record.
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
        """Record and namespace of the pipeline that has this name now; None for a name without a row."""
        return self._owners.get(name)

    def of(self, name: str) -> str:
        """The record that a pipeline, or PIPELINE@POLICY, writes now.

        A record is its own; that of the plain name, which older stores have, is `NAME~`.
        """
        pipeline, at, policy = name.partition("@")
        if pipeline.endswith(MARK):
            return f"{pipeline.removesuffix(MARK)}{at}{policy}"
        owner = self._owners.get(pipeline)
        return f"{owner.record}{at}{policy}" if owner else name

    def resume(self, name: str, namespace: str) -> str:
        """The record that the pipeline of a file goes on with; new if another namespace had the name."""
        with self._writing(name) as connection:
            record = self._adopted(connection, name, namespace)
            return record or self._begun(connection, name, namespace)

    def adopt(self, name: str, namespace: str) -> str | None:
        """The record of a pipeline that is in the store; None while another process gives or removes it."""
        with self._writing(name) as connection:
            return self._adopted(connection, name, namespace)

    def begin(self, name: str, namespace: str) -> str:
        """A new record, which the pipeline writes from now on."""
        with self._writing(name) as connection:
            return self._begun(connection, name, namespace)

    def end(self, name: str) -> None:
        """Have no pipeline write the record of that name any more."""
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
            # What an older store holds under the plain name goes on; it did not say whose it was.
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
