"""Where does this installation keep its things? What every process of it must be told."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine.url import make_url


class Installation(BaseSettings):
    """Environment variables `HABEAS_…`; frozen. Secrets come from files, never from defaults."""

    model_config = SettingsConfigDict(env_prefix="HABEAS_", frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: str = Field(
        description="One database for all: sqlite+aiosqlite:///path (one process) or postgresql+psycopg://user@host/name."
    )
    database_password_file: Path | None = Field(default=None, description="File that holds the database password.")
    keys: Path = Field(description="Folder made by `habeas keys`.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on.")
    intake_url: str = Field(default="http://127.0.0.1:8001", description="Where the others reach intake.")
    locator_url: str = Field(default="http://127.0.0.1:8002", description="Where the others reach the locator.")
    exporter_url: str = Field(default="http://127.0.0.1:8003", description="Where the others reach the exporter.")
    organisations: tuple[str, ...] = Field(
        default=(), description='Ids of the organisations on the public pages, as JSON: ["nordlys"].'
    )

    @property
    def url(self) -> str:
        """The database's URL with its password."""
        if self.database_password_file is None:
            return self.database_url
        password = self.database_password_file.read_text().strip()
        return make_url(self.database_url).set(password=password).render_as_string(hide_password=False)

    @property
    def embedded(self) -> bool:
        """Whether everything runs in one process on one file."""
        return self.database_url.startswith("sqlite")

    @property
    def urls(self) -> dict[str, str]:
        """Where the services are, for one another."""
        return {"intake": self.intake_url, "locator": self.locator_url, "exporter": self.exporter_url}
