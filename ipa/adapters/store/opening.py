"""Opening a store, by its URL or as the settings say."""

from __future__ import annotations

from typing import Protocol

from ipa.adapters.store.database import Access, open_engine
from ipa.adapters.store.signing import keyring_of
from ipa.adapters.store.store import KEEP, Store
from ipa.control.store_admin import Retention, RetentionSettings, retention_from


class StoreSettings(RetentionSettings, Protocol):
    """The settings that say where the store is and how it is kept."""

    @property
    def store_url(self) -> str: ...
    @property
    def store_key_file(self) -> str: ...


def open_store(
    store_url: str, access: Access = Access.WRITE, *, retention: Retention = KEEP, key_file: str = ""
) -> Store:
    """The store at that SQLAlchemy URL, of the newest schema. Errors: see `open_engine`.

    `key_file` holds the key that checkpoints are signed with; without a name it is beside an SQLite store.
    """
    engine = open_engine(store_url, access)
    return Store(engine, retention=retention, keyring=keyring_of(engine.url, key_file))


def open_from(settings: StoreSettings, access: Access = Access.WRITE) -> Store:
    """The store of the settings. Errors: see `open_engine`."""
    retention = retention_from(settings)
    return open_store(settings.store_url, access, retention=retention, key_file=settings.store_key_file)
