"""What can be set for the exporter? Everything comes from the environment (`HABEAS_EXPORTER_…`) or the wiring."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20


class Settings(BaseSettings):
    """Frozen. Keys and addresses come with the wiring."""

    model_config = SettingsConfigDict(env_prefix="HABEAS_EXPORTER_", frozen=True, extra="forbid")

    vault: Path = Field(
        description="Folder in which packages lie, encrypted; every exporter process sees the same one."
    )
    part_bytes: int = Field(default=8 * MIB, ge=MIB, description="Largest part of records.")
    file_bytes: int = Field(default=1024 * MIB, ge=MIB, description="Largest single file.")
    lease_seconds: float = Field(
        default=30, gt=0, description="How long a call that seals or sends a package may be silent before it is dead."
    )
    sealers: int = Field(default=2, ge=1, le=32, description="Packages that one process seals at the same time.")
    page_records: int = Field(default=200, ge=1, le=1000, description="Most records that a handler gets in one page.")
    page_bytes: int = Field(default=4 * MIB, ge=MIB, description="A page of records ends soon after this size.")
    sweep_seconds: float = Field(
        default=60, gt=0, description="How often due packages are destroyed, notices repeated and leftovers removed."
    )
    leftover_seconds: float = Field(
        default=3600, ge=0, description="How old an object without a row must be before it is removed."
    )
