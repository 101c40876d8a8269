"""The store of the settings, for commands that administer it or verify its exports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ipa.adapters.store import Access, Store, open_from
from ipa.adapters.store.admin import store_checks
from ipa.adapters.store.copies import back_up, restore
from ipa.adapters.store.signing import Keyring
from ipa.adapters.store.state import Keys
from ipa.control.audit.record import Verifies
from ipa.model.errors import InputError
from ipa.settings import Settings

__all__ = ["Keys", "back_up", "checkpoint_verifier", "opened_store", "restore", "store_checks"]


@contextmanager
def opened_store(settings: Settings, *, writes: bool = True) -> Iterator[Store]:
    """The settings' store, open for one command, beside a service that uses it."""
    with closing(open_from(settings, Access.WRITE if writes else Access.READ)) as store:
        yield store


def checkpoint_verifier(key_file: Path) -> Verifies:
    """The check of signatures with the keys of that PEM file; InputError if it has none."""
    keyring = Keyring(key_file)
    if keyring.is_empty():
        raise InputError(f"there is no key in {key_file}", hint="Name the key file with IPA_STORE_KEY_FILE.")
    return keyring.verifies
