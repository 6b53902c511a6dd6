"""How do the services come together in one process, or each alone? Same code; settings decide (design §1.5)."""

import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from fastapi import FastAPI

import gateway.app
import services.exporter.app
import services.intake.app
import services.locator.app
from gateway.portal import portal_router
from gateway.portal.letters import Letters
from gateway.settings import Settings as GatewaySettings
from habeas.installation import Installation
from habeas.keys import Keys
from services.exporter.settings import Settings as ExporterSettings
from services.intake import webhooks
from services.intake.desk import SendLetter
from services.intake.letters import smtp
from services.intake.settings import Settings as IntakeSettings
from services.locator.settings import Settings as LocatorSettings
from shared.clock import Clock, utc_now
from shared.database import Database
from shared.engine import Engine, QueueRule
from shared.http import EgressClient
from shared.post import BridgePost, HttpPost, Post

ALL = ("gateway", "intake", "locator", "exporter")
KEEP_FINISHED = timedelta(days=7)


class NotConfigured(RuntimeError):
    """Something that has no safe default was not set."""


@dataclass(frozen=True)
class Demo:
    """What the demo replaces: letters are shown instead of sent, and the pages say so."""

    send_letter: SendLetter
    letters: Letters
    person: tuple[str, str]


@dataclass
class Process:
    """One process: the apps it holds, and what starts and stops with them."""

    installation: Installation
    database: Database
    engine: Engine | None
    apps: dict[str, FastAPI] = field(default_factory=dict)
    posts: list[Post] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Enter every app's lifespan, then start the engine; leave in the opposite order."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            for post in self.posts:
                stack.push_async_callback(post.aclose)
            for app in self.apps.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            if self.engine is not None:
                await self.engine.start()
                stack.push_async_callback(self.engine.stop)
            yield


def freeze() -> None:
    """Tell the garbage collector that what start-up made stays: searching it anew costs a tenth of all work."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class ServiceSettings:
    """Each service's own settings; what is None comes from the environment."""

    gateway: GatewaySettings | None = None
    intake: IntakeSettings | None = None
    locator: LocatorSettings | None = None
    exporter: ExporterSettings | None = None


def build(
    installation: Installation,
    names: Sequence[str] = ALL,
    *,
    settings: ServiceSettings | None = None,
    demo: Demo | None = None,
    clock: Clock = utc_now,
) -> Process:
    """Wire the named services. With more than one they call one another over the bridge, alone over HTTP.

    Raises `KeysMissing`, `NotConfigured`, pydantic's `ValidationError` for settings.
    """
    database = Database(installation.url)
    process = Process(installation, database, _engine(installation, names, clock))
    build_one = _Builder(process, settings or ServiceSettings(), demo, clock, bridged=len(names) > 1)
    for name in reversed(names):  # the gateway last: it is what the world reaches
        process.apps[name] = build_one(name)
    return process


def _engine(installation: Installation, names: Sequence[str], clock: Clock) -> Engine | None:
    queues: list[QueueRule] = []
    if "intake" in names:
        queues.append(services.intake.app.QUEUE)
    if "locator" in names:
        queues.append(services.locator.app.QUEUE)
    if "exporter" in names and not queues:
        queues.append(QueueRule("exporter", concurrency=1))  # its sweeps need an engine; it enqueues nothing itself
    if not queues:
        return None
    engine = Engine(installation.url, queues=queues, clock=clock)
    engine.every(3600, "finished", partial(engine.sweep_finished, KEEP_FINISHED))
    return engine


@dataclass
class _Builder:
    process: Process
    settings: ServiceSettings
    demo: Demo | None
    clock: Clock
    bridged: bool

    def __call__(self, name: str) -> FastAPI:
        makers: dict[str, Callable[[Keys, Post], FastAPI]] = {
            "gateway": self.gateway, "intake": self.intake, "locator": self.locator, "exporter": self.exporter,
        }  # fmt: skip
        keys = Keys(name, self.process.installation.keys)
        issuer = keys.issuer()
        post: Post = (
            BridgePost(self.process.apps, issuer) if self.bridged else HttpPost(self.process.installation.urls, issuer)
        )
        self.process.posts.append(post)
        return makers[name](keys, post)

    def gateway(self, keys: Keys, post: Post) -> FastAPI:
        settings = self.settings.gateway or GatewaySettings()
        pages = partial(
            portal_router,
            organisations=self.process.installation.organisations,
            secure=settings.secure,
            demo_letters=self.demo.letters if self.demo else None,
            demo_person=self.demo.person if self.demo else None,
        )
        return gateway.app.create_app(
            settings, database=self.process.database, post=post, issuer=keys.issuer(), clock=self.clock, portal=pages
        )

    def intake(self, keys: Keys, post: Post) -> FastAPI:
        settings = self.settings.intake or IntakeSettings()
        return services.intake.app.create_app(
            settings,
            database=self.process.database,
            engine=self._working_engine(),
            post=post,
            sealer=keys.sealer(),
            verifier=keys.verifier(),
            ledger_key=keys.ledger_key(),
            send_letter=self.demo.send_letter if self.demo else _smtp(settings),
            deliver=partial(webhooks.deliver, EgressClient(webhooks.rule(settings.webhook_networks)), clock=self.clock),
            clock=self.clock,
        )

    def locator(self, keys: Keys, post: Post) -> FastAPI:
        return services.locator.app.create_app(
            self.settings.locator or LocatorSettings(),
            database=self.process.database,
            engine=self._working_engine(),
            post=post,
            sealer=keys.sealer(),
            verifier=keys.verifier(),
            clock=self.clock,
        )

    def exporter(self, keys: Keys, post: Post) -> FastAPI:
        return services.exporter.app.create_app(
            self.settings.exporter or ExporterSettings(),
            database=self.process.database,
            engine=self._working_engine(),
            post=post,
            sealer=keys.sealer(),
            verifier=keys.verifier(),
            clock=self.clock,
        )

    def _working_engine(self) -> Engine:
        assert self.process.engine is not None
        return self.process.engine


def _smtp(settings: IntakeSettings) -> SendLetter:
    if settings.mail_host is None or settings.mail_from is None:
        raise NotConfigured("set HABEAS_INTAKE_MAIL_HOST and HABEAS_INTAKE_MAIL_FROM: letters must be able to leave")
    password = settings.mail_password.get_secret_value() if settings.mail_password else None
    server = smtp.SmtpSettings(
        host=settings.mail_host, port=settings.mail_port, sender=settings.mail_from, username=settings.mail_username,
        password=password, authorities=settings.mail_authorities,
    )  # fmt: skip
    return partial(smtp.send, server)
