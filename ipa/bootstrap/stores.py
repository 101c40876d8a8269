"""The store of the settings, for those who administer it or check its exports."""

from __future__ import annotations

from pathlib import Path

from ipa.adapters.store import admin
from ipa.adapters.store.signing import Keyring
from ipa.control.audit.checkpoints import Verifies
from ipa.control.store_admin import StoreAdmin
from ipa.model.errors import InputError
from ipa.model.findings import DoctorCheck
from ipa.settings import Settings


def store_admin(settings: Settings) -> StoreAdmin:
    """Administration of the settings' store, which is opened by each call."""
    return admin.DatabaseAdmin(settings)


def checkpoint_verifier(key_file: Path) -> Verifies:
    """The check of signatures with the keys of that PEM file; InputError if it has none."""
    keyring = Keyring(key_file)
    if keyring.is_empty():
        raise InputError(
            f"there is no key in {key_file}", hint="It is beside the store, or IPA_STORE_KEY_FILE."
        )
    return keyring.verifies


def store_checks(settings: Settings) -> list[DoctorCheck]:
    """Every check of the settings' store that does not write it: pages, record, disk and rights."""
    return admin.store_checks(settings)
