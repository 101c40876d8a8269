"""Identities by the API keys of the store."""

from __future__ import annotations

import logging

from ipa.adapters.store.keys import PREFIX, Keys
from ipa.control.ports import Clock
from ipa.model.access import Holder, Identity

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
