"""Computes docs/scale.md anew, as a command: `python -m scale`, and `make scale`. Measures nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cost.prices import BadTable
from operations import generated
from scale import table
from scale.demand import World
from scale.measured import ROOT, NotThere
from scale.plot import draw
from scale.scenarios import Outcome, scenarios

DOCS = ROOT / "docs"


def parts(world: World, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """The generated parts of the page."""
    return {"demands": table.demands(world), "breaking": table.breaking(world), "bursts": table.bursts(outcomes)}


def write(docs: Path) -> None:
    """Writes the page's tables and its picture. Errors: `BadTable`, `NotThere`."""
    world = World.read()
    outcomes = [scenario.played(world) for scenario in scenarios(world)]
    for name, text in parts(world, outcomes).items():
        generated.put(docs / "scale.md", name, text)
    draw(outcomes, docs / "scale.svg")


def main() -> int:
    try:
        write(DOCS)
    except (BadTable, NotThere) as fault:
        print(fault, file=sys.stderr)
        return 1
    print(DOCS / "scale.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
