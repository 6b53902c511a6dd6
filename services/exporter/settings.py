"""What may an operator choose about the exporter?"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20


class Settings(BaseSettings):
    """Environment variables `HABEAS_EXPORTER_…`. Keys and addresses come with the wiring, not from here."""

    model_config = SettingsConfigDict(env_prefix="HABEAS_EXPORTER_", frozen=True, extra="ignore")

    vault: Path
    """Folder in which packages lie, encrypted. Every exporter process of an installation sees the same one."""
    part_bytes: int = Field(default=8 * MIB, ge=MIB)
    """Largest part of records."""
    file_bytes: int = Field(default=1024 * MIB, ge=MIB)
    """Largest single file."""
    lease_seconds: float = Field(default=30, gt=0)
    """How long a call that seals or sends a package may be silent before another may take over."""
    page_records: int = Field(default=200, ge=1, le=1000)
    """Most records that a reviewer gets in one page."""
    page_bytes: int = Field(default=4 * MIB, ge=MIB)
    """Records of one page stop soon after this size."""
    sweep_seconds: float = Field(default=60, gt=0)
    """How often due packages are destroyed, notices repeated and leftovers removed."""
    leftover_seconds: float = Field(default=3600, ge=0)
    """How old an object without a row must be before it is removed: longer than any part takes to arrive."""
