"""Administration of the store that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ipa.adapters.store import copies
from ipa.adapters.store.database import Access
from ipa.adapters.store.keys import Keys
from ipa.adapters.store.store import open_from
from ipa.control.store_admin import Backup, CopyStep, PruneReport, Restored, StoreStats
from ipa.settings import Settings


class DatabaseAdmin:
    """The `StoreAdmin` port over SQLite and PostgreSQL."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def back_up(self, file: Path, step: CopyStep) -> Backup:
        return copies.back_up(self._settings.store_url, file, step, self._settings.store_key_file)

    def restore(self, file: Path, step: CopyStep, *, force: bool = False) -> Restored:
        url, key_file = self._settings.store_url, self._settings.store_key_file
        return copies.restore(url, file, step, force=force, key_file=key_file)

    def prune(self, within_s: float | None = None) -> PruneReport:
        with closing(open_from(self._settings)) as store:
            return store.prune(within_s=within_s)

    def stats(self) -> StoreStats:
        with closing(open_from(self._settings, Access.READ)) as store:
            return store.stats()

    @contextmanager
    def keys(self, *, writes: bool) -> Iterator[Keys]:
        with closing(open_from(self._settings, Access.WRITE if writes else Access.READ)) as store:
            yield store.keys
