"""Whose tables are there? Every Alembic history of the suite, in the order they are migrated."""

import gateway.tables
import services.exporter.tables
import services.intake.tables
import services.locator.tables
from shared import ledger

OWNERS = (
    ledger.OWNER,
    gateway.tables.OWNER,
    services.intake.tables.OWNER,
    services.locator.tables.OWNER,
    services.exporter.tables.OWNER,
)
