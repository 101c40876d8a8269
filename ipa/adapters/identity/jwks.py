"""The public keys of an OIDC issuer, from a file or an address, cached."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from ipa.adapters.ttl_cache import Bulkhead
from ipa.control.ports import Clock
from ipa.model.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from jwt import PyJWK

LOG = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# An issuer announces a new key days before it signs with it.
KEEP_S = 600.0
# If the issuer does not answer, the keys that were read last are valid for this long.
STALE_S = 3600.0
# A token with an unknown key causes another read, at most this often.
RETRY_S = 30.0
TIMEOUT_S = 5.0
# How long a request waits for keys, and how many wait at once: each holds a thread.
PATIENCE_S = 2.0
MOST_WAITING = 4
# A key is a kilobyte.
LONGEST_BYTES = 1 << 20
# No symmetric algorithm: with one, the holder of a public key could sign.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def source_fault(source: str) -> str:
    """Return what is wrong with the source of the keys; empty if it is valid."""
    try:
        url = urlsplit(source)
        httpx.URL(source)
    except (ValueError, httpx.InvalidURL):
        return "has a host or a port that cannot be read"
    if not url.scheme or len(url.scheme) == 1:
        return "" if Path(source).is_file() else f"is not a file: {source!r}"
    if url.scheme not in ("https", "http") or not url.hostname:
        return "is neither a file nor an https address"
    if url.scheme == "http" and url.hostname not in LOOPBACK:
        return "is not https: an attacker on the network could replace the keys"
    return ""


class _Read:
    """A read of the keys in a thread of its own."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.ended = threading.Event()
        # True once a caller has waited for it for `PATIENCE_S`.
        self.is_late = False
        self.client: httpx.Client | None = None

    def abandon(self) -> None:
        """Make the read fail at its next byte."""
        self.ended.set()
        if self.client is not None:
            self.client.close()


class Jwks:
    """The key set at `source`: a file, or an address that does not redirect; else ConfigurationError.

    One thread reads the keys for all callers. Old keys stay valid meanwhile. For an unknown key a few callers
    wait up to `PATIENCE_S`, and none once one of them has waited in vain.
    """

    def __init__(self, source: str, clock: Clock, transport: httpx.BaseTransport | None = None) -> None:
        fault = source_fault(source)
        if fault:
            # Not the address: it may hold a password.
            raise ConfigurationError(f"IPA_OIDC_JWKS {fault}")
        self._source, self._clock, self._transport = source, clock, transport
        self._lock = threading.Lock()
        self._waiting = Bulkhead(MOST_WAITING, "the OIDC issuer")
        self._keys: Sequence[PyJWK] = ()
        self._read_s: float | None = None
        self._read: _Read | None = None

    def key(self, key_id: str | None) -> PyJWK | None:
        """Return the key of the id, or the only key without an id; None if there is none.

        UnavailableError: the keys could not be read for `STALE_S`.
        """
        with self._lock:
            now_s = self._clock.monotonic_s()
            found = self._find(key_id)
            is_new = self._read_s is not None and now_s - self._read_s <= KEEP_S
            read = None if is_new and found else self._reading(now_s)
            is_usable = self._read_s is not None and now_s - self._read_s <= STALE_S
        if found is not None and is_usable:
            return found
        if read is not None:
            self._wait(read)
        with self._lock:
            if self._read_s is None or self._clock.monotonic_s() - self._read_s > STALE_S:
                raise UnavailableError("the keys of the OIDC issuer cannot be read")
            return self._find(key_id)

    def _find(self, key_id: str | None) -> PyJWK | None:
        if key_id is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.key_id == key_id), None)

    def _reading(self, now_s: float) -> _Read | None:
        """The read under way, started now if the last one is `RETRY_S` ago; None if it ended since."""
        last = self._read
        if last is not None and now_s - last.began_s < RETRY_S:
            return None if last.ended.is_set() else last
        if last is not None:
            last.abandon()
        self._read = read = _Read(now_s)
        threading.Thread(target=self._refresh, args=(read,), name="jwks", daemon=True).start()
        return read

    def _wait(self, read: _Read) -> None:
        """Wait for the read; UnavailableError if it takes too long, or too many wait."""
        with self._waiting.place():
            if read.is_late or not read.ended.wait(PATIENCE_S):
                read.is_late = True
                raise UnavailableError("the OIDC issuer did not send its keys in time")

    def _refresh(self, read: _Read) -> None:
        try:
            keys = _usable(json.loads(self._body(read)))
            with self._lock:
                if self._read is read:
                    self._keys, self._read_s = keys, self._clock.monotonic_s()
        except (OSError, ValueError, RecursionError, RuntimeError, httpx.HTTPError) as error:
            LOG.warning("the keys of the OIDC issuer cannot be read: %s", type(error).__name__)
        finally:
            read.ended.set()

    def _body(self, read: _Read) -> bytes:
        if urlsplit(self._source).scheme not in ("https", "http"):
            return Path(self._source).read_bytes()
        options: dict[str, Any] = {"timeout": TIMEOUT_S, "follow_redirects": False, "trust_env": False}
        with (
            httpx.Client(transport=self._transport, **options) as read.client,
            read.client.stream("GET", self._source) as answer,
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
    """The keys of the set that can verify signatures. ValueError: it is not a key set."""
    from jwt import PyJWK, PyJWTError

    listed = found.get("keys") if isinstance(found, Mapping) else None
    if not isinstance(listed, list):
        raise ValueError("not a key set")
    keys = []
    for each in listed:
        try:
            key = PyJWK.from_dict(each)
        except (PyJWTError, TypeError, ValueError, AttributeError):
            # A set may hold keys of unknown types.
            continue
        if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig"):
            keys.append(key)
    return keys
