"""Who is planted in the target systems, and which of their values may be found nowhere but in their own package?"""

from collections.abc import Iterator
from typing import Any, NamedTuple

Row = dict[str, Any]


class Someone(NamedTuple):
    """One person as the target systems hold them."""

    number: int
    name: str
    email: str
    phone: str
    cpr: str
    address: str
    word: str
    """Stands in everything that is written about this person, and in nothing else."""

    @property
    def customer_no(self) -> str:
        return f"FN{700000 + self.number * 7919:06d}"

    @property
    def chat_name(self) -> str:
        return f"{self.word}.{self.number}"

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield (table, row): the customer record and what hangs under it in the five linked tables."""
        n, word = self.number, self.word
        yield "customers", {
            "id": n, "customer_no": self.customer_no, "name": self.name, "email": self.email, "phone": self.phone,
            "cpr": self.cpr, "address": self.address, "created_at": f"2019-03-{n:02d} 08:15:00+01", "credit_score": 610 + n,
            "note": f"Ringer altid om {word}; talte også med naboen.",
        }  # fmt: skip
        for k in (1, 2):
            yield "subscriptions", {"id": n * 10 + k, "customer_id": n, "product": f"Fiber {k}00 til {word}", "started_on": f"2020-0{k}-01", "price": 199 + k}  # fmt: skip
            yield "invoices", {"id": n * 10 + k, "customer_id": n, "invoice_no": f"F-{word}-{k}", "issued_on": f"2024-0{k}-15", "amount": 199 + k}  # fmt: skip
        for k in (1, 2, 3):
            yield "invoice_lines", {"id": n * 10 + k, "invoice_id": n * 10 + min(k, 2), "description": f"=Montering ved {word}", "quantity": k}  # fmt: skip
        yield "tickets", {"id": n * 10, "customer_id": n, "opened_at": f"2025-05-{n:02d} 10:00:00+02", "subject": f"Intet net ved {word}"}  # fmt: skip
        for k in (1, 2):
            yield "ticket_messages", {"id": n * 10 + k, "ticket_id": n * 10, "sent_at": f"2025-05-{n:02d} 10:0{k}:00+02", "body": f"Hej, min {word} driller, og Bodil siger det samme."}  # fmt: skip

    def values(self) -> set[str]:
        """What must not be found outside the target systems, the letters and this person's package."""
        digits = "".join(char for char in self.phone if char.isdigit())[-8:]
        street = self.address.partition(",")[0]
        return {
            self.name, self.name.rpartition(" ")[2], self.email, self.email.partition("@")[0], self.phone, digits,
            self.cpr, self.cpr.replace("-", ""), street, self.customer_no, self.word, self.chat_name,
        }  # fmt: skip


HERO = Someone(
    1, "Åse Kjærgård Øllgaard", "Aase.Oellgaard@Blaavand.example", "26 41 87 53", "150684-4286",
    "Klitrosevænget 17, 6857 Blåvand", "hoftebrud",
)  # fmt: skip
"""Asks for access."""
NAMESAKE = Someone(
    2, HERO.name, "aakjoe@ribemarsk.example", "+45 31506207", "020391-1774", "Sønderportsgade 4, 6760 Ribe", "ridelejren"
)  # fmt: skip
"""Has the same name, and nothing else in common."""
NEIGHBOUR = Someone(
    3, "Tormod Øllgaard", "tormod@vesterhavet.example", "+4526418753", "111179-3925", HERO.address, "kajakhotel"
)  # fmt: skip
"""Lives at the same address and shares its telephone."""
PREVIOUS = Someone(
    4, "Gurli Thorsbjerg", HERO.email.lower(), "40 77 19 26", "240855-2618", "Mejerivænget 9, 6900 Skjern", "jordbærplukker"
)  # fmt: skip
"""Had the e-mail address before the provider gave it to somebody else."""
PORTER = Someone(
    5, "Kresten Bjerregaard", "kresten@bjerregaarden.example", "51 62 73 84", "300590-1129", "Lyngbakken 2, 6840 Oksbøl", "drivhuset"
)  # fmt: skip
"""Wants to take along what they provided."""
ERASER = Someone(
    6, "Sidsel Ravnsborg", "sidsel@ravnsborgen.example", "28 39 40 51", "090977-5544", "Tranebærmosen 31, 6830 Nørre Nebel", "bogbinderi"
)  # fmt: skip
"""Wants to be forgotten."""
VIBEKE = Someone(
    7, "Vibeke Qvortrup", "vq@strandhuset.example", "60 11 22 93", "121265-3316", "Hvidbjergvej 88, 6857 Blåvand", "tangfarveri"
)  # fmt: skip
"""Has an e-mail address under which the chat still holds its previous owner."""
ORLA = Someone(
    8, "Orla Pipstrup", "orla@pipstruperne.example", "71 82 93 14", "010248-2217", "Fyrstien 1, 6960 Hvide Sande", "kvasefarten"
)  # fmt: skip
"""Owned that address before."""

EVERYONE = (HERO, NAMESAKE, NEIGHBOUR, PREVIOUS, PORTER, ERASER, VIBEKE, ORLA)

ENTITIES = {
    "customers": "customer", "subscriptions": "subscription", "invoices": "invoice", "invoice_lines": "invoice_line",
    "tickets": "ticket", "ticket_messages": "ticket_message",
}  # fmt: skip
"""Table → the register's entity."""


def held(person: Someone) -> dict[tuple[str, str], dict[str, Row]]:
    """Return (system, entity) → key → row: what the customer system holds on somebody."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for table, row in person.rows():
        found.setdefault(("customers", ENTITIES[table]), {})[str(row["id"])] = row
    return found
