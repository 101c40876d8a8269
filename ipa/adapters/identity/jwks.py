"""The public keys of an OIDC issuer, from a file or an address, kept for a while."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from ipa.control.ports import Clock
from ipa.model.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from jwt import PyJWK

LOG = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# An issuer announces a new key days before it signs with it.
KEEP_S = 600.0
# Where the issuer does not answer, those that were read last hold for so long.
STALE_S = 3600.0
# A token that names a key we do not know makes us look again, but not for every such token.
RETRY_S = 30.0
TIMEOUT_S = 5.0
# A key is a kilobyte.
LONGEST_BYTES = 1 << 20
# None that checks with what it signs with: whoever has a public key could then sign.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def source_fault(source: str) -> str:
    """What is wrong with where the keys shall come from, empty for nothing."""
    url = urlsplit(source)
    if not url.scheme or len(url.scheme) == 1:
        return "" if Path(source).is_file() else f"is no file: {source!r}"
    if url.scheme not in ("https", "http") or not url.hostname:
        return "is neither a file nor an https address"
    if url.scheme == "http" and url.hostname not in LOOPBACK:
        return "is not https: whoever is on the way could give us keys"
    return ""


class Jwks:
    """The key set at `source`: a file, or an address that does not redirect; else ConfigurationError."""

    def __init__(self, source: str, clock: Clock, transport: httpx.BaseTransport | None = None) -> None:
        fault = source_fault(source)
        if fault:
            # Not the address: it may hold a password.
            raise ConfigurationError(f"IPA_OIDC_JWKS {fault}")
        self._source, self._clock, self._transport = source, clock, transport
        self._lock = threading.Lock()
        self._keys: Sequence[PyJWK] = ()
        self._read_s: float | None = None
        self._tried_s: float | None = None

    def key(self, key_id: str | None) -> PyJWK | None:
        """The key of that id, or without one the only key; None where there is none.

        UnavailableError where the keys could not be read for too long.
        """
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._read_s is None or now_s - self._read_s > KEEP_S or self._find(key_id) is None:
                self._refresh(now_s)
            if self._read_s is None or now_s - self._read_s > STALE_S:
                raise UnavailableError("the keys of the OIDC issuer cannot be read")
            return self._find(key_id)

    def _find(self, key_id: str | None) -> PyJWK | None:
        if key_id is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.key_id == key_id), None)

    def _refresh(self, now_s: float) -> None:
        if self._tried_s is not None and now_s - self._tried_s < RETRY_S:
            return
        self._tried_s = now_s
        try:
            self._keys = _usable(json.loads(self._read()))
        except (OSError, ValueError, RecursionError, httpx.HTTPError) as error:
            LOG.warning("the keys of the OIDC issuer cannot be read: %s", type(error).__name__)
            return
        self._read_s = now_s

    def _read(self) -> bytes:
        if urlsplit(self._source).scheme not in ("https", "http"):
            return Path(self._source).read_bytes()
        options: dict[str, Any] = {"timeout": TIMEOUT_S, "follow_redirects": False, "trust_env": False}
        with (
            httpx.Client(transport=self._transport, **options) as client,
            client.stream("GET", self._source) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"HTTP {answer.status_code}")
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > LONGEST_BYTES:
                    raise ValueError("too long")
            return bytes(body)


def _usable(found: Any) -> Sequence[PyJWK]:
    """The keys of the set that we check signatures with. ValueError where it is none."""
    from jwt import PyJWK, PyJWTError

    listed = found.get("keys") if isinstance(found, Mapping) else None
    if not isinstance(listed, list):
        raise ValueError("no key set")
    keys = []
    for each in listed:
        try:
            key = PyJWK.from_dict(each)
        except (PyJWTError, TypeError, ValueError, AttributeError):
            # A set may hold keys of kinds that we do not know.
            continue
        if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig"):
            keys.append(key)
    return keys
