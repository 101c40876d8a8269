"""The durable store: decisions, what people said about pipelines, and profiles, over SQLite or PostgreSQL."""

from ipa.adapters.store.database import Access
from ipa.adapters.store.opening import open_from, open_store
from ipa.adapters.store.store import Store

__all__ = ["Access", "Store", "open_from", "open_store"]
