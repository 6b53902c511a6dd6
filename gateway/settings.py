"""What may an operator set at the door? Nothing here is a secret, and nothing is served to anybody."""

from ipaddress import IPv4Network, IPv6Network
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

KIB = 1024
MIB = 1024 * KIB


class Settings(BaseSettings):
    """Read from the environment with the prefix `HABEAS_GATEWAY_`; frozen."""

    model_config = SettingsConfigDict(env_prefix="HABEAS_GATEWAY_", frozen=True, extra="ignore")

    public_url: str = Field(default="http://127.0.0.1:8000", pattern=r"^https?://[^/\s?#@]+$")
    """The address that people see, without a path. `https` turns on Strict-Transport-Security and secure cookies."""
    hosts: tuple[str, ...] = ()
    """Further host names, without port, under which the door answers; every other Host header is refused."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks whose X-Forwarded-For is believed. Empty: the peer is the client."""
    max_body: int = Field(default=64 * KIB, ge=KIB)
    """Bytes of a JSON or form body."""
    max_upload: int = Field(default=2048 * MIB, ge=KIB)
    """Bytes of one respondent's upload."""
    body_seconds: float = Field(default=20, gt=0)
    """Within how many seconds a JSON or form body must have arrived."""
    open_per_minute: int = Field(default=30, ge=1)
    """Requests that one client may open in a minute; many people may share one address."""
    prove_per_minute: int = Field(default=30, ge=1)
    """Codes that one client may ask for or try in a minute; intake limits tries per case and per address besides."""
    read_per_minute: int = Field(default=240, ge=1)
    """Other calls in a minute by a client that is not signed in, and all calls by one person with a proven request."""
    sign_in_per_minute: int = Field(default=30, ge=1)
    """Sign-ins that one client may try in a minute, right or wrong."""
    system_per_minute: int = Field(default=1200, ge=1)
    """Calls in a minute with one API key."""
    session_idle_minutes: int = Field(default=30, ge=1, le=24 * 60)
    """After how many idle minutes a handler is signed out."""
    session_hours: int = Field(default=12, ge=1, le=24)
    """After how many hours a handler signs in again, idle or not."""
    subject_minutes: int = Field(default=30, ge=1, le=120)
    """How long a person's code opens their request."""
    collect_minutes: int = Field(default=15, ge=1, le=120)
    """How long the collection code opens their answer."""
    sweep_seconds: float = Field(default=600, gt=0)
    """How often expired sessions, lockouts and idempotency keys are deleted."""
    ready_seconds: float = Field(default=2, gt=0)
    """How long `/health/ready` waits for a service."""

    @field_validator("hosts")
    @classmethod
    def _bare_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("*" in host or "/" in host or host != host.strip().lower() or not host for host in value):
            raise ValueError("hosts are lower-case names without wildcard, scheme or path")
        return value

    @property
    def secure(self) -> bool:
        """Whether people reach the door over HTTPS."""
        return self.public_url.startswith("https://")

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Every host name, without port, that the door answers to."""
        return frozenset({(urlsplit(self.public_url).hostname or "").lower(), *self.hosts})
