"""Run by alembic: migrate over the connection that `schema.migrate` hands in, inside its transaction."""

from __future__ import annotations

from alembic import context

# SQLite's DDL is transactional as long as we begin the transaction ourselves (see engine.py); alembic assumes not.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
