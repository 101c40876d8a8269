"""The API keys in the store, which holds only their digests, and authentication by them."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine, RowMapping, insert, select, update

from ipa.adapters.store.codec import damaged
from ipa.adapters.store.database import reading, writing
from ipa.adapters.store.schema import KeyRow
from ipa.control.ports import Clock
from ipa.model.access import ApiKey, Grant, Holder, Identity, Role
from ipa.model.errors import NotFoundError

# The prefix of keys, for people and for secret scanners.
PREFIX = "ipa_"
ID_BYTES = 6
# Too many to guess, so a plain digest is as good as a slow one.
SECRET_BYTES = 32
FORM = re.compile(r"ipa_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
# Compared with for an unknown key id, so that it takes as long as a known one.
NO_DIGEST = "0" * 64
# Any constant: serialises writers of keys on PostgreSQL.
LOCK = 0x1FA5_0002


class Keys:
    """The keys of a store. Safe for many threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self, name: str, grant: Grant, *, now: datetime, expires_at: datetime | None = None
    ) -> tuple[ApiKey, str]:
        """Create a key. Return it with its token, which cannot be read later."""
        key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        key = ApiKey(key_id, name, grant, now, expires_at)
        with writing(self._engine, LOCK) as connection:
            connection.execute(
                insert(KeyRow).values(
                    key_id=key_id,
                    digest=_digest(secret),
                    name=name,
                    role=grant.role.value,
                    namespace=grant.namespace,
                    created_at=now.isoformat(),
                    expires_at=expires_at.isoformat() if expires_at else None,
                )
            )
        return key, f"{PREFIX}{key_id}_{secret}"

    def find(self, token: str) -> ApiKey | None:
        """Return the key of the token, valid or not; None if there is none. Both take equally long."""
        form = FORM.fullmatch(token)
        if form is None:
            return None
        key_id, secret = form.groups()
        with reading(self._engine) as connection:
            row = (
                connection.execute(select(KeyRow.__table__).where(KeyRow.key_id == key_id)).mappings().first()
            )
        kept = row["digest"] if row else NO_DIGEST
        is_it = hmac.compare_digest(_digest(secret), kept)
        return _key(row) if row and is_it else None

    def all(self) -> Sequence[ApiKey]:
        """Return every key, oldest first."""
        query = select(KeyRow.__table__).order_by(KeyRow.created_at, KeyRow.key_id)
        with reading(self._engine) as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str, *, now: datetime) -> ApiKey:
        """Revoke the key and return it; NotFoundError if there is none."""
        with writing(self._engine, LOCK) as connection:
            is_it = KeyRow.key_id == key_id
            connection.execute(
                update(KeyRow).where(is_it, KeyRow.revoked_at.is_(None)).values(revoked_at=now.isoformat())
            )
            row = connection.execute(select(KeyRow.__table__).where(is_it)).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no key {key_id!r}", hint="`ipa key list` lists them.")
        return _key(row)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: RowMapping) -> ApiKey:
    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(row[name]) if row[name] else None

    try:
        created_at = datetime.fromisoformat(row["created_at"])
        grant = Grant(Role(row["role"]), row["namespace"])
        return ApiKey(
            row["key_id"], row["name"], grant, created_at, moment("expires_at"), moment("revoked_at")
        )
    except (ValueError, TypeError) as error:
        raise damaged("key", error) from error


LOG = logging.getLogger(__name__)


class KeyIdentities:
    """Authentication by API keys. It reads the store for every request, so a revoked key ends at once."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys, self._clock = keys, clock

    def takes(self, token: str) -> bool:
        """True if the token has the prefix of API keys. No other method gets to see it then."""
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
