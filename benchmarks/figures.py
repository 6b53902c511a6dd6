"""What came out? Figures with their targets, as a table for people."""

import operator
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

DOCS = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- begin: make bench -->", "<!-- end: make bench -->"
HEAD = ("figure", "measured", "target", "", "beside it")


@dataclass(frozen=True)
class Figure:
    """One figure. `target` is what it must at least (or at most) be; None where it only explains another."""

    name: str
    value: float
    unit: str
    target: float | None = None
    bound: Literal["≥", "≤"] = "≥"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met, if there is one."""
        if self.target is None:
            return None
        compare = operator.ge if self.bound == "≥" else operator.le
        return bool(compare(self.value, self.target))

    def cells(self) -> tuple[str, ...]:
        """Return a row of the table."""
        target = "" if self.target is None else f"{self.bound} {_number(self.target)} {self.unit}".strip()
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        return self.name, f"{_number(self.value)} {self.unit}".strip(), target, verdict, self.note


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def spread(values: Sequence[float], unit: str) -> str:
    """Return the median's company: how far the runs lie apart."""
    return f"{len(values)} runs: {_number(min(values))} to {_number(max(values))} {unit}"


def machine() -> str:
    """Return what it was measured on, without a name."""
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    load = " ".join(f"{one:.1f}" for one in psutil.getloadavg())
    return (
        f"{psutil.cpu_count()} cores, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}; "
        f"load average when done {load}"
    )


def table(figures: Iterable[Figure]) -> str:
    """Return a Markdown table that is also good to read on a terminal."""
    rows = [HEAD, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write_docs(text: str, path: Path = DOCS) -> None:
    """Put the table between the markers of docs/performance.md."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


__all__ = ["Figure", "machine", "median", "spread", "table", "write_docs"]
