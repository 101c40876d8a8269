"""The state of the service in the database: small values by kind and name, and the stores over them.

Values are canonical JSON text by their type (`Codec`). Controls and profiles are read and written by
`StateRows`. API keys, of which the store holds only digests, plans, answers to idempotent
requests, pipelines created over the API and the names of records have rules of their own.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, Engine, bindparam, delete, select

from ipa.adapters.store.database import GroupCommit, lock_key, reading, writing
from ipa.adapters.store.schema import StateKind, StateRow, upsert
from ipa.adapters.store.sqlite_file import RESTORE
from ipa.control.audit.record import MARK
from ipa.control.canonical import digest
from ipa.control.ports import Clock, PipelineControl
from ipa.control.saved_plans import IdempotencyClaim, StoredAnswer, StoredPlan
from ipa.model.access import ApiKey, Grant, Holder, Identity, Role
from ipa.model.decision import Decision
from ipa.model.errors import NotFoundError, UnavailableError
from ipa.model.profile import StageProfile

# Plans of a record that are kept: nobody applies one that is older by more.
MOST_PLANS = 500
# Plans are made for now. Retries of requests come within minutes, at worst after a weekend.
PLANS_S = ANSWERS_S = 7 * 86400.0
# No request takes longer: a write to a cluster has a shorter deadline.
LONGEST_S = 300.0
# 2^48 identifiers: two pipelines of one name, or two keys, never draw the same.
ID_BYTES = 6
# The prefix of keys, for people and for secret scanners.
PREFIX = "ipa_"
# Too many to guess, so a plain digest is as good as a slow one.
SECRET_BYTES = 32
FORM = re.compile(r"ipa_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
# Compared with for an unknown key id, so that it takes as long as a known one.
NO_DIGEST = "0" * 64
LOG = logging.getLogger(__name__)
T = TypeVar("T")
# The kinds that end with their owner, a record.
ENDING = (StateKind.ANSWER, StateKind.CONTROL, StateKind.PLAN)
# Built once: building a statement takes longer than reading a row.
_KIND = StateRow.kind == bindparam("its")
_BODY = select(StateRow.body).where(_KIND, StateRow.name == bindparam("named"))
_BODIES = select(StateRow.name, StateRow.body).where(_KIND).order_by(StateRow.name)
_OF_OWNER = _BODIES.where(StateRow.owner == bindparam("owned"))


class Codec(Generic[T]):
    """The codec of a type: to JSON text and back. Equal values have equal text."""

    def __init__(self, kind: type[T]) -> None:
        self._name = kind.__name__
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def text(self, value: T) -> str:
        """Return the value as JSON with sorted keys and no spaces."""
        plain: Any = self._adapter.dump_python(value, mode="json")
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def value(self, text: str) -> T:
        """Decode the text; UnavailableError if it is damaged."""
        try:
            return self._adapter.validate_python(json.loads(text))
        except (ValueError, ValidationError) as error:
            raise damaged(self._name, error) from error


def damaged(kind: str, error: Exception) -> UnavailableError:
    """Return the error for a row of that kind whose text cannot be decoded."""
    return UnavailableError(f"the store holds a {kind} that cannot be read: {error}", hint=RESTORE)


DECISION = Codec(Decision)
CONTROL = Codec(PipelineControl)
PROFILE = Codec(StageProfile)
PLAN = Codec(StoredPlan)


def read_state(connection: Connection, kind: StateKind, name: str) -> str | None:
    """Return the value within the transaction; None if there is none."""
    return connection.scalar(_BODY, {"its": kind.value, "named": name})


def put_state(
    connection: Connection, kind: StateKind, name: str, body: str, owner: str = "", at_s: float = 0.0
) -> None:
    """Store the value within the transaction, in place of an existing value of that name."""
    row = {"kind": kind.value, "name": name, "owner": owner, "at_s": at_s, "body": body}
    upsert(connection, StateRow, [row])


class StateRows:
    """The values by kind and name. A write is durable when it returns; UnavailableError if it fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, kind: StateKind, name: str) -> str | None:
        """Return the value; None if there is none."""
        with reading(self._engine) as connection:
            return read_state(connection, kind, name)

    def all(self, kind: StateKind, owner: str | None = None) -> dict[str, str]:
        """Return the values of the kind by name, sorted; with `owner` only that owner's."""
        query, values = _BODIES, {"its": kind.value}
        if owner is not None:
            query, values = _OF_OWNER, {**values, "owned": owner}
        with reading(self._engine) as connection:
            rows = connection.execute(query, values).all()
        return dict(rows)

    def put(self, kind: StateKind, name: str, body: str, owner: str = "") -> None:
        """Store the value in place of an existing value of that name."""
        with writing(self._engine, lock_key(kind, name)) as connection:
            put_state(connection, kind, name, body, owner)

    def remove(self, kind: StateKind, name: str) -> None:
        """Delete the value if there is one."""
        with writing(self._engine, lock_key(kind, name)) as connection:
            is_it = (StateRow.kind == kind.value) & (StateRow.name == name)
            connection.execute(delete(StateRow).where(is_it))

    def end(self, owner: str) -> None:
        """Delete the owner's control, plans and answers."""
        kinds = [kind.value for kind in ENDING]
        with writing(self._engine, lock_key("owner", owner)) as connection:
            connection.execute(delete(StateRow).where(StateRow.kind.in_(kinds), StateRow.owner == owner))


class PlanRows:
    """The newest `most` plans of each record. What-if plans come by the hundred, and share transactions."""

    def __init__(self, engine: Engine, most: int = MOST_PLANS) -> None:
        self._engine, self._most = engine, most
        self._writes = GroupCommit(self._write)

    def keep(self, plan: StoredPlan) -> None:
        """Store the plan durably; UnavailableError: it is not on disk."""
        self._writes.add(
            {
                "kind": StateKind.PLAN.value,
                "name": plan.plan_id,
                "owner": plan.key,
                "at_s": datetime.fromisoformat(plan.at).timestamp(),
                "body": PLAN.text(plan),
            }
        )

    def plan(self, plan_id: str) -> StoredPlan:
        """Return the plan; NotFoundError if it was never stored or is already deleted."""
        body = StateRows(self._engine).get(StateKind.PLAN, plan_id)
        if body is None:
            raise NotFoundError(
                f"there is no plan {plan_id!r}",
                hint=f"The newest {self._most} of a pipeline are kept for a week; "
                "POST /v1/pipelines/PIPELINE/plans makes one.",
            )
        return PLAN.value(body)

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Store the rows, and delete old plans and those of the rows' owners beyond the newest."""
        is_plan = StateRow.kind == StateKind.PLAN.value
        newest_s = max(row["at_s"] for row in rows)
        with writing(self._engine, lock_key("plans", "")) as connection:
            upsert(connection, StateRow, rows)
            connection.execute(delete(StateRow).where(is_plan, StateRow.at_s < newest_s - PLANS_S))
            for owner in {row["owner"] for row in rows}:
                is_owned = is_plan & (StateRow.owner == owner)
                newest = select(StateRow.name).where(is_owned).order_by(StateRow.at_s.desc())
                oldest = connection.scalars(newest.offset(self._most)).all()
                if oldest:
                    connection.execute(delete(StateRow).where(is_owned, StateRow.name.in_(oldest)))


class AnswerRows:
    """Answers by idempotency key, kept for a week. A body without a status belongs to a request under way."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(
        self, key: str, request_digest: str, holder: str, now_s: float, record: str = ""
    ) -> IdempotencyClaim:
        """Claim the key if it is free or the process that holds it is gone, and return its state."""
        is_answer = StateRow.kind == StateKind.ANSWER.value
        name, holder = digest(key), digest(holder)
        mine = {"mark": request_digest, "holder": holder, "status": None}
        with writing(self._engine, lock_key(StateKind.ANSWER, name)) as connection:
            connection.execute(delete(StateRow).where(is_answer, StateRow.at_s < now_s - ANSWERS_S))
            query = select(StateRow.body, StateRow.at_s).where(is_answer, StateRow.name == name)
            row = connection.execute(query).first()
            if row is None:
                put_state(connection, StateKind.ANSWER, name, json.dumps(mine), record, now_s)
                return IdempotencyClaim(request_digest, now_s, mine=True)
            stored = _decoded("answer", row.body, "mark", "holder", "status")
            first, at_s, status = stored["mark"], row.at_s, stored["status"]
            if status is not None:
                return IdempotencyClaim(first, at_s, answer=StoredAnswer(status, stored.get("body") or ""))
            is_left = stored["holder"] != holder or now_s - at_s > LONGEST_S
            if not is_left or first != request_digest:
                return IdempotencyClaim(first, at_s)
            put_state(connection, StateKind.ANSWER, name, json.dumps(mine), record, now_s)
            return IdempotencyClaim(first, at_s, mine=True, is_resumed=True)

    def settle(self, key: str, answer: StoredAnswer) -> None:
        """Store the answer durably."""
        name = digest(key)
        query = select(StateRow.owner, StateRow.at_s, StateRow.body).where(_KIND, StateRow.name == name)
        with writing(self._engine, lock_key(StateKind.ANSWER, name)) as connection:
            row = connection.execute(query, {"its": StateKind.ANSWER.value}).first()
            if row is not None:
                body = _decoded("answer", row.body) | {"status": answer.status, "body": answer.body}
                put_state(connection, StateKind.ANSWER, name, json.dumps(body), row.owner, row.at_s)

    def release(self, key: str) -> None:
        """Release a key whose request changed nothing."""
        StateRows(self._engine).remove(StateKind.ANSWER, digest(key))


class PipelineRows:
    """The pipelines created over the API, each as the mapping of a pipeline file."""

    def __init__(self, state: StateRows) -> None:
        self._state = state

    def all(self) -> dict[str, Any]:
        """Return every pipeline by its name."""
        return {
            name: _decoded("pipeline", body) for name, body in self._state.all(StateKind.PIPELINE).items()
        }

    def keep(self, name: str, mapping: Mapping[str, Any]) -> None:
        """Store the pipeline durably, in place of an existing one of that name."""
        self._state.put(StateKind.PIPELINE, name, json.dumps(mapping, ensure_ascii=False))

    def remove(self, name: str) -> None:
        """Delete the pipeline if there is one."""
        self._state.remove(StateKind.PIPELINE, name)


def _decoded(kind: str, body: str, *names: str) -> dict[str, Any]:
    """The mapping of the JSON text, checked to have these keys; UnavailableError if it is damaged."""
    try:
        mapping = json.loads(body)
        if not isinstance(mapping, dict) or not mapping.keys() >= set(names):
            raise ValueError("it lacks " + ", ".join(names))
        return mapping
    except ValueError as error:
        raise damaged(kind, error) from error


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
        query = select(StateRow.owner, StateRow.name, StateRow.body).where(
            StateRow.kind == StateKind.RECORD.value
        )
        with self._lock, reading(self._engine) as connection:
            rows = [
                (*row[:2], _decoded("record", row.body, "namespace", "ended_at"))
                for row in connection.execute(query)
            ]
            self._owners = {
                name: NamedRecord(record, body["namespace"])
                for name, record, body in rows
                if body["ended_at"] is None
            }

    def owner(self, name: str) -> NamedRecord | None:
        """Return the record and namespace of the pipeline that has this name now; None without a row."""
        return self._owners.get(name)

    def of(self, name: str) -> str:
        """Return the record that a pipeline, or PIPELINE@POLICY, writes now.

        The name of a record returns itself; `NAME~` is the record that an older store has under NAME.
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
        with self._lock, writing(self._engine, lock_key(StateKind.RECORD, name)) as connection:
            yield connection

    def _adopted(self, connection: Connection, name: str, namespace: str) -> str | None:
        rows = self._rows(connection, name)
        if not rows:
            # Continue the record that an older store has under the plain name, without a namespace.
            return self._insert(connection, name, name, namespace)
        for record, body in rows.items():
            if body["ended_at"] is None and body["namespace"] == namespace:
                self._owners = {**self._owners, name: NamedRecord(record, namespace)}
                return record
        return None

    def _begun(self, connection: Connection, name: str, namespace: str) -> str:
        self._end(connection, name)
        return self._insert(connection, f"{name}{MARK}{secrets.token_hex(ID_BYTES)}", name, namespace)

    def _insert(self, connection: Connection, record: str, name: str, namespace: str) -> str:
        body = {"namespace": namespace, "at": self._now().isoformat(), "ended_at": None}
        put_state(connection, StateKind.RECORD, record, json.dumps(body), name)
        self._owners = {**self._owners, name: NamedRecord(record, namespace)}
        return record

    def _end(self, connection: Connection, name: str) -> None:
        for record, body in self._rows(connection, name).items():
            if body["ended_at"] is None:
                ended = json.dumps(body | {"ended_at": self._now().isoformat()})
                put_state(connection, StateKind.RECORD, record, ended, name)

    @staticmethod
    def _rows(connection: Connection, name: str) -> dict[str, dict[str, Any]]:
        """The records that pipelines of the name have, or had."""
        rows = connection.execute(_OF_OWNER, {"its": StateKind.RECORD.value, "owned": name})
        return {record: _decoded("record", body, "namespace", "ended_at") for record, body in rows}


class Keys:
    """The keys of a store. Safe for many threads and processes."""

    def __init__(self, state: StateRows) -> None:
        self._state = state

    def create(
        self, name: str, grant: Grant, *, now: datetime, expires_at: datetime | None = None
    ) -> tuple[ApiKey, str]:
        """Create a key. Return it with its token, which cannot be read later."""
        key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        values = {
            "digest": digest(secret),
            "name": name,
            "role": grant.role.value,
            "namespace": grant.namespace,
            "created_at": now.isoformat(),
            "expires_at": expires_at.isoformat() if expires_at else None,
            "revoked_at": None,
        }
        self._state.put(StateKind.KEY, key_id, json.dumps(values))
        return ApiKey(key_id, name, grant, now, expires_at), f"{PREFIX}{key_id}_{secret}"

    def find(self, token: str) -> ApiKey | None:
        """Return the key of the token, valid or not; None if there is none. Both cases take equally long."""
        form = FORM.fullmatch(token)
        if form is None:
            return None
        key_id, secret = form.groups()
        body = self._state.get(StateKind.KEY, key_id)
        key, stored = _key(key_id, body) if body is not None else (None, NO_DIGEST)
        return key if hmac.compare_digest(digest(secret), stored) else None

    def all(self) -> Sequence[ApiKey]:
        """Return every key, oldest first."""
        keys = [_key(key_id, body)[0] for key_id, body in self._state.all(StateKind.KEY).items()]
        return sorted(keys, key=lambda key: (key.created_at, key.key_id))

    def revoke(self, key_id: str, *, now: datetime) -> ApiKey:
        """Revoke the key and return it; NotFoundError if there is none."""
        body = self._state.get(StateKind.KEY, key_id)
        if body is None:
            raise NotFoundError(f"there is no key {key_id!r}", hint="`ipa key list` lists them.")
        if _key(key_id, body)[0].revoked_at is None:
            # Only `revoked_at` ever changes, so the rewritten body loses no other change.
            body = json.dumps(json.loads(body) | {"revoked_at": now.isoformat()})
            self._state.put(StateKind.KEY, key_id, body)
        return _key(key_id, body)[0]


def _key(key_id: str, body: str) -> tuple[ApiKey, str]:
    """The key of the JSON text, and the digest of its secret."""
    try:
        values: dict[str, Any] = json.loads(body)

        def moment(name: str) -> datetime | None:
            return datetime.fromisoformat(values[name]) if values[name] else None

        grant = Grant(Role(values["role"]), values["namespace"])
        created_at = datetime.fromisoformat(values["created_at"])
        key = ApiKey(key_id, values["name"], grant, created_at, moment("expires_at"), moment("revoked_at"))
        return key, str(values["digest"])
    except (ValueError, TypeError, LookupError) as error:
        raise damaged("key", error) from error


class KeyIdentities:
    """Authentication by API keys. It reads the store for every request, so a revoked key ends at once."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys, self._clock = keys, clock

    def takes(self, token: str) -> bool:
        """True if the token has the prefix of API keys; no other method then receives it."""
        return token.startswith(PREFIX)

    def identify(self, token: str, *, fresh: bool, within_s: float = 0.0) -> Identity | None:
        """Return the key's holder; None if it is not valid. UnavailableError: the store does not answer."""
        key = self._keys.find(token)
        if key is None:
            return None
        state = key.state(self._clock.now())
        if state != "valid":
            LOG.info("refused: the key %s is %s", key.key_id, state)
            return None
        return Holder(key.holder, (key.grant,))
