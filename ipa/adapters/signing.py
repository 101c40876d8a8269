"""The Ed25519 keys that sign the record's checkpoints, in a file beside the store.

The owner of the database can rewrite every row, but without the key cannot sign a valid checkpoint.
"""

from __future__ import annotations

import hashlib
import re
import threading
from base64 import b64decode, b64encode
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ipa.adapters.processes import create_private
from ipa.model.errors import ConfigurationError

BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
HOW_TO_MAKE = "`openssl genpkey -algorithm ed25519` makes one; keep it with the backups of the store."
# The first private key, which signs, and every key by its id.
_Keys = tuple[Ed25519PrivateKey | None, dict[str, Ed25519PublicKey]]


class Keyring:
    """The keys of a file, read at first use: the first private key signs, all keys verify.

    `path` None is an empty keyring. With `may_make` the first signature creates the file, with mode 0600.
    More PEM blocks, private or public, may be added to it.
    """

    def __init__(self, path: Path | None, *, may_make: bool = False) -> None:
        self.path, self._may_make = path, may_make
        self._lock = threading.Lock()
        self._keys: _Keys | None = None

    def is_empty(self) -> bool:
        """True if there is no key to verify with."""
        return not self._read()[1]

    def sign(self, text: str) -> tuple[str, str]:
        """Return the key's id and its signature of the text, both empty if there is no private key.

        ConfigurationError: the file is invalid.
        """
        signing, _ = self._read(make=True)
        if signing is None:
            return "", ""
        return _key_id(signing.public_key()), b64encode(signing.sign(text.encode())).decode()

    def verifies(self, key_id: str, signature: str, text: str) -> bool:
        """True if the key of that id signed the text; False also if the keyring lacks it."""
        key = self._read()[1].get(key_id)
        if key is None:
            return False
        try:
            key.verify(b64decode(signature, validate=True), text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True

    def has(self, key_id: str) -> bool:
        """True if the keyring has the key of that id."""
        return key_id in self._read()[1]

    def reload(self) -> None:
        """Read the file again at the next use."""
        with self._lock:
            self._keys = None

    def _read(self, *, make: bool = False) -> _Keys:
        with self._lock:
            if self._keys is None or (make and self._keys[0] is None):
                self._keys = self._load(make)
            return self._keys

    def _load(self, make: bool) -> _Keys:
        if self.path is None:
            return None, {}
        try:
            if make and self._may_make and not self.path.exists():
                # If two processes do so at once, one file wins, and both read it.
                text = Ed25519PrivateKey.generate().private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                create_private(self.path, text)
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None, {}
        except OSError as error:
            raise _unusable(self.path, str(error.strerror)) from error
        return _keys_in(self.path, data)


def _keys_in(path: Path, data: bytes) -> _Keys:
    signing: Ed25519PrivateKey | None = None
    known: dict[str, Ed25519PublicKey] = {}
    blocks = [match.group(0) for match in BLOCK.finditer(data)]
    if not blocks:
        raise _unusable(path, "it holds no PEM block")
    for block in blocks:
        key: object
        try:
            if b"PUBLIC KEY" in block:
                key = serialization.load_pem_public_key(block)
            else:
                key = serialization.load_pem_private_key(block, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _unusable(path, str(error)) from error
        if isinstance(key, Ed25519PrivateKey):
            signing = signing or key
            key = key.public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise _unusable(path, "it holds a key that is not Ed25519")
        known[_key_id(key)] = key
    return signing, known


def _key_id(key: Ed25519PublicKey) -> str:
    """The first digits of the digest of the key."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"the key file {path} cannot be used: {why}", hint=HOW_TO_MAKE)
