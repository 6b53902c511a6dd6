"""What can be set for intake? Everything comes from the environment (`HABEAS_INTAKE_…`) or the command line."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Frozen. Secrets have no defaults: without a mail server no letters go out, so outside the demo one is needed."""

    model_config = SettingsConfigDict(env_prefix="HABEAS_INTAKE_", frozen=True, extra="forbid", env_ignore_empty=True)

    registers: Path = Field(description="Folder of registers, one YAML file an organisation.")
    public_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+$")] = Field(
        description="Where people reach the gateway, such as https://rights.example.dk; stands in letters."
    )
    mail_host: str | None = Field(default=None, description="SMTP server; STARTTLS is required outside the demo.")
    mail_port: int = Field(default=587, description="Port of the SMTP server.")
    mail_username: str | None = Field(default=None, description="Account at the SMTP server, if it wants one.")
    mail_password: SecretStr | None = Field(default=None, description="Its password.")
    mail_from: str | None = Field(default=None, description="Sender address of letters.")
    mail_authorities: Path | None = Field(
        default=None, description="Certificate authorities (PEM) of the mail server, if not the system's."
    )
    webhook_networks: tuple[str, ...] = Field(
        default=(),
        description='Private networks (CIDR) that webhooks may go to, as JSON: ["10.0.0.0/8"]. Default: none.',
    )

    @property
    def mail_domain(self) -> str:
        """The right-hand side of Message-IDs."""
        return self.mail_from.rpartition("@")[2] if self.mail_from else "habeas.invalid"
