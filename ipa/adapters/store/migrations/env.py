"""Alembic runs this for every command; the connection comes from `ipa.adapters.store.database`."""

from alembic import context

from ipa.adapters.store.database import VERSION_TABLE
from ipa.adapters.store.schema import StoreTable

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=StoreTable.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters tables by copying them
)
with context.begin_transaction():
    context.run_migrations()
