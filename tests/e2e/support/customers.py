"""The customer system of the tests: PostgreSQL with 100,000 customers and five linked tables."""

import random
from collections.abc import Iterator

import psycopg

from tests.e2e.support.planted import EVERYONE

CUSTOMERS = 100_000
FIRST_ID = 1000
"""Of the crowd; the planted ones come before."""
MOST = FIRST_ID + CUSTOMERS - len(EVERYONE)
FIRST = "Anne Asger Birthe Bjørn Caja Ditte Egon Esben Freja Gudrun Helle Ida Jørgen Kåre Lærke Mikkel Niels Per Signe Søren Tove Vagn Yrsa Åge".split()  # fmt: skip
LAST = "Andersen Bæk Christensen Dahl Eriksen Friis Gørtz Hansen Iversen Jensen Kjær Larsen Møller Nørgård Olsen Poulsen Ravn Skov Toft Winther Ågård".split()  # fmt: skip

TABLES = """
CREATE UNLOGGED TABLE customers (id int PRIMARY KEY, customer_no text UNIQUE, name text, email text, phone text, cpr text,
    address text, created_at timestamptz, credit_score int, note text);
CREATE UNLOGGED TABLE subscriptions (id int PRIMARY KEY, customer_id int, product text, started_on date, price numeric(10, 2));
CREATE UNLOGGED TABLE invoices (id int PRIMARY KEY, customer_id int, invoice_no text, issued_on date, amount numeric(10, 2));
CREATE UNLOGGED TABLE invoice_lines (id int PRIMARY KEY, invoice_id int, description text, quantity int);
CREATE UNLOGGED TABLE tickets (id int PRIMARY KEY, customer_id int, opened_at timestamptz, subject text);
CREATE UNLOGGED TABLE ticket_messages (id int PRIMARY KEY, ticket_id int, sent_at timestamptz, body text);
"""

LINKED = """
INSERT INTO subscriptions SELECT n, n, 'Fiber 100', date '2018-01-01' + n % 2000, 199 FROM generate_series({first}, {most}) n;
INSERT INTO invoices SELECT n, n, 'F-' || n, date '2023-01-01' + n % 900, 199 FROM generate_series({first}, {most}) n;
INSERT INTO invoice_lines SELECT n, n, 'Fiber 100, en måned', 1 FROM generate_series({first}, {most}) n;
INSERT INTO tickets SELECT n, n, timestamptz '2024-01-01' + n * interval '5 minutes', 'Langsomt net' FROM generate_series({first}, {most}, 2) n;
INSERT INTO ticket_messages SELECT n, n - n % 2, timestamptz '2024-01-01' + n * interval '5 minutes', 'Det er langsomt igen.'
    FROM generate_series({first}, {most}) n;
CREATE INDEX ON customers (lower(email));
CREATE INDEX ON customers (phone);
CREATE INDEX ON subscriptions (customer_id);
CREATE INDEX ON invoices (customer_id);
CREATE INDEX ON invoice_lines (invoice_id);
CREATE INDEX ON tickets (customer_id);
CREATE INDEX ON ticket_messages (ticket_id);
ANALYZE;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader};
"""

READER = "fjordnet_reader"
"""The connector signs in as somebody who can only read."""


def fill(url: str) -> None:
    """Fill an empty database, whose URL is `postgresql://…`."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
        columns = "id, customer_no, name, email, phone, cpr, address, created_at, credit_score, note"
        with connection.cursor().copy(f"COPY customers ({columns}) FROM STDIN") as copy:
            for one in _crowd():
                copy.write_row(one)
        for person in EVERYONE:
            for table, row in person.rows():
                marks = ", ".join(["%s"] * len(row))
                connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", [*row.values()])
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [READER]).fetchone():
            connection.execute(f"CREATE ROLE {READER} LOGIN")
        for statement in LINKED.format(first=FIRST_ID, most=MOST - 1, reader=READER).split(";"):
            if statement.strip():
                connection.execute(statement)


def _crowd() -> Iterator[tuple[object, ...]]:
    dice = random.Random(20261121)
    for number in range(FIRST_ID, MOST):
        name = f"{dice.choice(FIRST)} {dice.choice(LAST)}"
        phone = str(dice.randint(20_000_000, 25_999_999))
        yield (
            number, f"FN{100000 + number}", name, f"kunde{number}@mange.example", phone,
            f"{dice.randint(1, 28):02d}{dice.randint(1, 12):02d}{dice.randint(40, 99)}-{dice.randint(1000, 3999)}",
            f"Mængdevej {number % 400}, 6700 Esbjerg", "2021-06-01 12:00:00+02", dice.randint(400, 800), "",
        )  # fmt: skip
