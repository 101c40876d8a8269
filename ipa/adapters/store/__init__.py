"""The durable store of decisions, controls, profiles and plans, over SQLite or PostgreSQL."""

from ipa.adapters.store.database import Access
from ipa.adapters.store.store import Store, open_from, open_store

__all__ = ["Access", "Store", "open_from", "open_store"]
