"""Alembic runs this; the connection comes from `Database.migrate`."""

from alembic import context

from everlearn.catalog.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
