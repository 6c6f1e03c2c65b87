"""A queue worker: it stamps letters. The queue is a table in SQLite."""
