"""What can be set for the locator? Everything comes from the environment (`HABEAS_LOCATOR_…`) or the wiring."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.locator.backoff import BackOff
from services.locator.rounds import Limits

MIB = 1 << 20


class Settings(BaseSettings):
    """Frozen. Registers name secrets; their values come from `secrets` or from files, by organisation."""

    model_config = SettingsConfigDict(env_prefix="HABEAS_LOCATOR_", frozen=True, extra="forbid")

    secrets: dict[str, dict[str, SecretStr]] = Field(
        default_factory=dict, description="Organisation → name → secret (a database URL, a token), as JSON."
    )
    secrets_dir: Path | None = Field(
        default=None,
        description="Folder with one file a secret: <organisation>/<name>, as Docker and systemd give them.",
    )
    lease_seconds: float = Field(default=60, gt=0, description="How long an attempt may be silent before it is dead.")
    patience_seconds: float = Field(default=900, gt=0, description="How long a queued attempt may wait for its start.")
    most_attempts: int = Field(
        default=40, ge=1, description="Attempts at a task before a person gets it, whatever failed."
    )
    sweep_seconds: float = Field(
        default=1, gt=0, description="How often retries, dead attempts and receipts are seen to."
    )
    first_retry_seconds: float = Field(default=2, gt=0, description="Delay after the first failure; doubles each time.")
    longest_retry_seconds: float = Field(default=900, gt=0, description="Longest delay between two tries.")
    rounds: int = Field(default=5, ge=1, description="Hops from what a person proved; beyond them a person looks.")
    identifiers: int = Field(default=200, ge=1, description="Identifiers of one order; beyond them a person looks.")
    part_bytes: int = Field(default=MIB, ge=1024, description="Size at which a part of records is sent off.")
    part_records: int = Field(default=2000, ge=1, description="Records at which a part is sent off.")
    upload_bytes: int = Field(
        default=512 * MIB, ge=1024, description="Largest file that a person may attach to a task."
    )
    uploads: int = Field(default=500, ge=1, description="Files that a person may attach to one task.")

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def patience(self) -> timedelta:
        return timedelta(seconds=self.patience_seconds)

    @property
    def backoff(self) -> BackOff:
        return BackOff(timedelta(seconds=self.first_retry_seconds), timedelta(seconds=self.longest_retry_seconds))

    @property
    def limits(self) -> Limits:
        return Limits(self.rounds, self.identifiers)
