"""Configurations of mace_run_train -> configurations of macejax."""

from macejax.config.migrate.arguments import read_command, read_source
from macejax.config.migrate.flags import Arguments
from macejax.config.migrate.table import FLAGS
from macejax.config.migrate.translate import Migration, migrate, render

__all__ = ["FLAGS", "Arguments", "Migration", "migrate", "read_command", "read_source", "render"]
