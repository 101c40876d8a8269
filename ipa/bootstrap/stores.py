"""The store of the settings, for commands that administer it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from ipa.adapters.store import Access, Store, open_from
from ipa.adapters.store.admin import store_checks
from ipa.adapters.store.copies import back_up, restore
from ipa.adapters.store.state import Keys
from ipa.settings import Settings

__all__ = ["Keys", "back_up", "opened_store", "restore", "store_checks"]


@contextmanager
def opened_store(settings: Settings, *, writes: bool = True) -> Iterator[Store]:
    """The settings' store, open for one command, beside a service that uses it."""
    with closing(open_from(settings, Access.WRITE if writes else Access.READ)) as store:
        yield store
