"""The world of the end-to-end tests: target systems full of people, a mail server, and running installations."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.e2e.support import customers, synapse
from tests.e2e.support.mail import MailServer
from tests.e2e.support.planted import EVERYONE
from tests.e2e.support.processes import free_port
from tests.e2e.support.suite import Suite, apart, embedded, prepare

REGISTERS = Path(__file__).parent / "registers"


@dataclass
class World:
    """Where the systems are that Habeas is to search."""

    customers_url: str
    """As the connector gets it: PostgreSQL, by an account that can only read."""
    chat: synapse.Chat

    def registers(self) -> dict[str, str]:
        """Organisation → its register."""
        return {
            "fjordnet": _register("fjordnet", chat_url=self.chat.url),
            "kystnet": _register("kystnet", closed=str(free_port())),
        }

    def secrets(self) -> dict[str, dict[str, str]]:
        """Organisation → name → secret."""
        nowhere = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing"
        return {
            "fjordnet": {"customers_url": self.customers_url, "chat_token": self.chat.token},
            "kystnet": {"customers_url": self.customers_url, "orders_url": nowhere},
        }

    def values(self) -> set[str]:
        """Everything about everybody that may be found nowhere but in their package."""
        return {value for person in EVERYONE for value in person.values() | self.chat.values(person)}


def _register(name: str, **places: str) -> str:
    text = (REGISTERS / f"{name}.yaml").read_text(encoding="utf-8")
    for place, value in places.items():
        text = text.replace("{{" + place + "}}", value)
    return text


@pytest.fixture(scope="session")
def world(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The systems to be searched: 100,000 customers in PostgreSQL, and a chat."""
    name = f"customers_{uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgres_server.replace("/postgres?", f"/{name}?")
    customers.fill(url)
    reader = url.replace("postgresql://postgres:", f"postgresql+psycopg://{customers.READER}:")
    chat = synapse.start(tmp_path_factory.mktemp("chat"))
    yield World(reader, chat)
    chat.program.stop()
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailServer]:
    """A mail server that insists on STARTTLS."""
    server = MailServer(tmp_path_factory.mktemp("mail"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def suite(world: World, mail: MailServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """`habeas up` for two organisations. Whatever the tests did with it, it holds nothing of anybody in clear."""
    folder = tmp_path_factory.mktemp("embedded")
    prepare(folder, world.registers(), world.secrets())
    with embedded(folder, mail, ["fjordnet", "kystnet"]) as running:
        running.planted |= world.values()
        yield running
        running.stop()
        assert not running.leaks()


@pytest.fixture(scope="session")
def four_processes(
    world: World, mail: MailServer, postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Suite]:
    """`habeas serve` four times, on PostgreSQL."""
    folder, name = tmp_path_factory.mktemp("apart"), f"habeas_{uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgres_server.replace("/postgres?", f"/{name}?").replace("postgresql://", "postgresql+psycopg://")
    prepare(folder, world.registers(), world.secrets())
    with apart(folder, mail, ["fjordnet"], url) as running:
        running.planted |= world.values()
        yield running
        running.stop()
        assert not running.leaks()
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
