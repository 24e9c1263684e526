"""Turns a deployment of TensorRT engines into one of TensorRT-LLM's LLM API, and says what changes.

migration    spec → the new spec and the list of changes
deployment   the new spec, field by field
changes      what is called otherwise, has another value, or is gone
tables       what becomes of every tensor, parameter and build option
document     the tables of docs/migration.md
"""

from slipstream.migrate.changes import Change
from slipstream.migrate.migration import Migration, migrate, write_migration

__all__ = ["Change", "Migration", "migrate", "write_migration"]
