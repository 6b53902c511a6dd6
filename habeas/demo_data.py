"""Whose data does the demo hold? An invented IT provider's 1,000 customers, the same at every start."""

import json
import random
import sqlite3
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

PEOPLE = 1000
DAY_ONE = date(2018, 3, 1)

FIRST = (
    "Anne Asger Birthe Bjørn Caja Christian Ditte Egon Ellen Esben Freja Gudrun Hans Helle Henning Ida Inge Jens Jørgen "
    "Karen Kåre Lærke Lars Lone Maja Mette Mikkel Niels Ole Oliver Per Pernille Rasmus Rikke Signe Søren Sofie "
    "Søs Tove Troels Ulla Vagn Viggo Vibeke Yrsa Åge Åse Ævar"
).split()  # fmt: skip
LAST = (
    "Andersen Bach Bæk Christensen Dahl Degn Eriksen Friis Gørtz Hansen Hedegård Holm Iversen Jensen Jørgensen Kjær Krogh "
    "Larsen Lønborg Madsen Møller Nielsen Nørgård Olsen Østergård Pedersen Poulsen Qvist Rasmussen Ravn Skov Skjødt Sørensen "
    "Thomsen Toft Ulrich Vestergaard Villadsen Winther Åkjær Ågård Ærø"
).split()  # fmt: skip
STREETS = "Havnegade Kirkestræde Strandvejen Ågade Østre Allé Nørrebrogade Søndergade Møllevej Lærkevej Bøgevej".split()
TOWNS = ("9990 Skagen", "8000 Aarhus C", "5000 Odense C", "4200 Slagelse", "6700 Esbjerg", "3700 Rønne", "9000 Aalborg")
PRODUCTS = (("Webhotel Basis", 79), ("Mail og kalender", 49), ("Fjernsupport", 199), ("Backup 500 GB", 129))
SUBJECTS = ("Kan ikke logge ind", "Printer svarer ikke", "Spørgsmål til faktura", "Mail går i spam", "Langsomt netværk")


class Person(NamedTuple):
    """One invented customer."""

    number: int
    name: str
    email: str
    phone: str
    address: str

    @property
    def customer_number(self) -> str:
        return f"K{100000 + self.number}"


HERO = Person(1, "Søren Østergård", "soeren@example.dk", "+4520000001", "Havnegade 12, 9990 Skagen")
"""Whom the demo suggests to ask as. Number 2 is a name-sake; number 3 had the same address before."""


def people() -> Iterator[Person]:
    """Yield the 1,000 people: the suggested one first, then a name-sake, a neighbour, and the rest."""
    dice = random.Random(20180301)  # noqa: S311 - invented people, not secrets
    yield HERO
    yield Person(2, HERO.name, "soren.ostergard@example.dk", "+4520000002", "Ågade 3, 8000 Aarhus C")
    yield Person(3, "Åse Østergård", "aase@example.dk", "+4520000003", HERO.address)
    for number in range(4, PEOPLE + 1):
        first, last = dice.choice(FIRST), dice.choice(LAST)
        address = f"{dice.choice(STREETS)} {dice.randint(1, 120)}, {dice.choice(TOWNS)}"
        yield Person(number, f"{first} {last}", f"{ascii_of(first)}.{ascii_of(last)}{number}@example.dk",
                     f"+45{20000000 + number}", address)  # fmt: skip


def ascii_of(name: str) -> str:
    """Return a name as it stands in an e-mail address."""
    return name.lower().replace("æ", "ae").replace("ø", "oe").replace("å", "aa")


def write(folder: Path) -> None:
    """Write the CRM, the invoices and the tickets into `folder`: two SQLite files and a JSON file."""
    dice = random.Random(20180302)  # noqa: S311 - invented data, not secrets
    everyone = list(people())
    _crm(folder / "crm.sqlite", everyone, dice)
    _invoices(folder / "invoices.sqlite", everyone, dice)
    (folder / "tickets.json").write_text(json.dumps(_tickets(everyone, dice), ensure_ascii=False), encoding="utf-8")


def _crm(path: Path, everyone: list[Person], dice: random.Random) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, customer_number TEXT, name TEXT, email TEXT, phone TEXT,"
            " address TEXT, created_at TEXT, newsletter BOOLEAN, note TEXT);"
            "CREATE TABLE contracts (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), product TEXT,"
            " started_on TEXT, ended_on TEXT, monthly_price REAL);"
            "CREATE INDEX customers_email ON customers(email); CREATE INDEX customers_phone ON customers(phone);"
            "CREATE INDEX customers_number ON customers(customer_number);"
            "CREATE INDEX contracts_customer ON contracts(customer_id);"
        )
        notes = ("", "", "Ringede om opgradering.", "Ønsker helst opkald om formiddagen.")
        for person in everyone:
            began = DAY_ONE + timedelta(days=dice.randrange(2800))
            note = "Kender naboen Åse, som også er kunde." if person is HERO else dice.choice(notes)
            db.execute(
                "INSERT INTO customers VALUES (?,?,?,?,?,?,?,?,?)",
                (person.number, person.customer_number, person.name, person.email, person.phone, person.address,
                 began.isoformat(), dice.random() < 0.4, note or None),
            )  # fmt: skip
            for product, price in dice.sample(PRODUCTS, dice.randint(1, 3)):
                db.execute(
                    "INSERT INTO contracts (customer_id, product, started_on, ended_on, monthly_price) VALUES (?,?,?,?,?)",
                    (person.number, product, began.isoformat(), None, price),
                )


def _invoices(path: Path, everyone: list[Person], dice: random.Random) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(
            "CREATE TABLE invoices (id INTEGER PRIMARY KEY, customer_number TEXT, invoice_no TEXT, issued_on TEXT,"
            " amount REAL, currency TEXT);"
            "CREATE TABLE invoice_lines (id INTEGER PRIMARY KEY, invoice_id INTEGER REFERENCES invoices(id),"
            " description TEXT, quantity INTEGER, unit_price REAL);"
            "CREATE INDEX invoices_customer ON invoices(customer_number);"
            "CREATE INDEX lines_invoice ON invoice_lines(invoice_id);"
        )
        number = 0
        for person in everyone:
            for quarter in range(dice.randint(2, 6)):
                number += 1
                product, price = dice.choice(PRODUCTS)
                issued = date(2025, 1, 15) + timedelta(days=91 * quarter)
                db.execute(
                    "INSERT INTO invoices VALUES (?,?,?,?,?,?)",
                    (number, person.customer_number, f"F{20250000 + number}", issued.isoformat(), price * 3, "DKK"),
                )
                db.execute(
                    "INSERT INTO invoice_lines (invoice_id, description, quantity, unit_price) VALUES (?,?,?,?)",
                    (number, product, 3, price),
                )


def _tickets(everyone: list[Person], dice: random.Random) -> dict[str, list[dict[str, object]]]:
    tickets: list[dict[str, object]] = []
    messages: list[dict[str, object]] = []
    for person in everyone:
        for _ in range(2 if person is HERO else dice.randint(0, 2)):
            number, opened = len(tickets) + 1, date(2026, 1, 1) + timedelta(days=dice.randrange(300))
            subject = dice.choice(SUBJECTS)
            tickets.append({
                "id": number, "requester": {"email": person.email, "name": person.name}, "subject": subject,
                "status": "closed", "opened_at": f"{opened}T09:00:00Z", "closed_at": f"{opened}T15:00:00Z",
            })  # fmt: skip
            messages.append({
                "id": len(messages) + 1, "ticket_id": number, "requester_email": person.email,
                "sent_at": f"{opened}T09:00:00Z", "direction": "in", "body": f"Hej Nordlys. {subject}. Venlig hilsen {person.name}",
            })  # fmt: skip
    return {"tickets": tickets, "messages": messages}
