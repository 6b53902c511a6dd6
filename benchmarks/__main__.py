"""`python -m benchmarks [NAME…]`: measure, and print the table that docs/performance.md shows."""

import argparse
import sys
from collections.abc import Callable

from benchmarks import cases, footprint, intake, person, systems
from benchmarks.figures import Figure, machine, table, write_docs

BENCHMARKS: dict[str, Callable[..., list[Figure]]] = {
    "intake": intake.measure,
    "case": cases.measure_one,
    "queue": cases.measure_queue,
    "person": person.measure,
    "systems": systems.measure,
    "footprint": footprint.measure,
}


def main(arguments: list[str]) -> int:
    """Return 0 if every target was met, or if nobody asked for figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(BENCHMARKS)}")
    parser.add_argument("--short", action="store_true", help="only see that each works; the figures mean nothing")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    figures = run(given.names or list(BENCHMARKS), short=given.short)
    text = f"{table(figures)}\n\n{machine()}"
    print(text)
    if given.write_docs:
        write_docs(text)
    return int(not given.short and any(figure.met is False for figure in figures))


def run(names: list[str], *, short: bool = False) -> list[Figure]:
    """Measure one after the other."""
    figures = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        figures += BENCHMARKS[name](short=short)
    return figures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
