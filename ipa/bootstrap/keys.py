"""The check of signatures, for commands that verify what a store exported and open none."""

from __future__ import annotations

from pathlib import Path

from ipa.adapters.signing import Keyring
from ipa.control.audit.record import Verifies
from ipa.model.errors import InputError


def signature_verifier(key_file: Path) -> Verifies:
    """The check of signatures with the keys of that PEM file; InputError if it has none."""
    keyring = Keyring(key_file)
    if keyring.is_empty():
        raise InputError(f"there is no key in {key_file}", hint="Name the key file with IPA_STORE_KEY_FILE.")
    return keyring.verifies
