"""The API keys in the store, which holds only their digests, and authentication by them."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ipa.adapters.store.codec import damaged
from ipa.adapters.store.schema import StateKind
from ipa.adapters.store.state import StateRows
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
            "digest": _digest(secret),
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
        """Return the key of the token, valid or not; None if there is none. Both take equally long."""
        form = FORM.fullmatch(token)
        if form is None:
            return None
        key_id, secret = form.groups()
        body = self._state.get(StateKind.KEY, key_id)
        key, kept = _key(key_id, body) if body is not None else (None, NO_DIGEST)
        return key if hmac.compare_digest(_digest(secret), kept) else None

    def all(self) -> Sequence[ApiKey]:
        """Return every key, oldest first."""
        found = [_key(key_id, body)[0] for key_id, body in self._state.all(StateKind.KEY).items()]
        return sorted(found, key=lambda key: (key.created_at, key.key_id))

    def revoke(self, key_id: str, *, now: datetime) -> ApiKey:
        """Revoke the key and return it; NotFoundError if there is none."""
        body = self._state.get(StateKind.KEY, key_id)
        if body is None:
            raise NotFoundError(f"there is no key {key_id!r}", hint="`ipa key list` lists them.")
        if _key(key_id, body)[0].revoked_at is None:
            # Nothing else of a key changes, so what was read is not older than what is written.
            body = json.dumps(json.loads(body) | {"revoked_at": now.isoformat()})
            self._state.put(StateKind.KEY, key_id, body)
        return _key(key_id, body)[0]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


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
