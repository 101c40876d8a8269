"""Opening the store that the settings name, to be kept as they say."""

from __future__ import annotations

from typing import Protocol

from ipa.adapters.store.database import Access
from ipa.adapters.store.retention import RetentionSettings, retention_from
from ipa.adapters.store.store import Store, open_store


class StoreSettings(RetentionSettings, Protocol):
    """The settings that say where the store is and how it is kept."""

    @property
    def store_url(self) -> str: ...
    @property
    def store_key_file(self) -> str: ...


def open_from(settings: StoreSettings, access: Access = Access.WRITE) -> Store:
    """The store of the settings. Errors: see `open_engine`."""
    retention = retention_from(settings)
    return open_store(settings.store_url, access, retention=retention, key_file=settings.store_key_file)
