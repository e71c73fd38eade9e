"""What an answer costs, as a command: `python -m cost`, and `make cost`.

Counts on its own local stack, prints the tables, and updates docs/cost.md and docs/cost.svg.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cost.answers import Miscounted, Plan, count
from cost.plot import draw
from cost.prices import TABLE, BadTable, Prices
from cost.table import tables
from lib.runtime.settings import Settings
from local.firestore_emulator import EmulatorMissing
from local.ports import PortFault
from local.process import ProcessFault
from operations import generated

DOCS = Path(__file__).resolve().parents[1] / "docs"
FULL = ((100, 1_000, 4_000, 16_000), (0, 1, 3), 4_000)
SHORT = ((20, 60), (0, 1, 2), 20)
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    lengths, viewers, together = SHORT if options.short else FULL
    plan = Plan.of(lengths, viewers, options.rate, together)
    days = Settings.default("retention").days
    try:
        prices = Prices.read(options.prices)
        seconds = max(lengths) / options.rate
        print(f"{len(plan.answers)} answers, the longest of {seconds:.0f} s", flush=True)
        counted = count(plan)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BadTable, Miscounted, EmulatorMissing, PortFault, ProcessFault) as fault:
        print(fault, file=sys.stderr)
        return 1
    said = tables(counted, prices, days)
    print(f"\n{said}", flush=True)
    if options.docs:
        generated.put(options.docs / "cost.md", "counted", said)
        draw(counted, prices, days, options.docs / "cost.svg")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cost", description="What an answer costs, counted and priced.")
    parser.add_argument("--rate", type=_rate, default=50.0, help="tokens a second (%(default)g)")
    parser.add_argument("--prices", type=Path, default=TABLE, help="the price table (cost/prices.toml)")
    parser.add_argument("--docs", type=Path, help="the folder of cost.md and cost.svg (docs; with --short, none)")
    parser.add_argument("--short", action="store_true", help="short answers: to see that it works")
    options = parser.parse_args(argv)
    options.docs = options.docs or (None if options.short else DOCS)
    return options


def _rate(given: str) -> float:
    try:
        rate = float(given)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number of tokens a second, above 0 and at most 1000")
    return rate


if __name__ == "__main__":
    sys.exit(main())
