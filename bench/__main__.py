"""The bench as a command: `python -m bench`, and `make bench`.

A full run writes `bench/results.md`, its plots and the README's numbers. A quick or partial run writes the same page to
`build/bench`. The raw results are always saved in `build/bench`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from bench import cap, cold, cost, dialects, far, lag, memory, plots, readme, replay, report, starts, stop
from bench.machine import machine
from bench.plan import QUICK, ROUNDS, Plan, full
from bench.stage import Missing, Stage
from local.firestore_emulator import EmulatorMissing
from local.ports import PortFault
from local.process import ProcessFault
from local.stack import ROOT

INTERRUPTED = 130
PARTS = {
    "cold": cold.measure,
    "lag": lag.measure,
    "far": far.measure,
    "starts": starts.measure,
    "dialects": dialects.measure,
    "stop": stop.measure,
    "replay": replay.measure,
    "memory": memory.measure,
    "cap": cap.measure,
    "cost": cost.measure,
}


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # deployed functions do not compile at import
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(INTERRUPTED))
    whole = not options.quick and options.only is None
    kept = ROOT / "build" / "bench" / ("quick" if options.quick else "")
    try:
        raw = run(QUICK if options.quick else full(options.rounds), options.only or list(PARTS), kept, whole)
    except (EmulatorMissing, Missing, PortFault, ProcessFault) as fault:
        print(fault, file=sys.stderr)
        return 1
    print(write(raw, ROOT / "bench" if whole else kept))
    return 0


def run(plan: Plan, parts: Sequence[str], kept: Path, whole: bool) -> dict[str, Any]:
    """Measures these parts, and saves the results after each one. `whole`: the run is to be published."""
    kept.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        "full": whole,
        "machine": machine(plan.alone),
        "patience": plan.patience,
        "cases": {case.name: case.described() for case in plan.cases},
        "dialect_case": plan.dialects.described(),
        "seconds": {},
    }
    with Stage() as stage:
        for part in parts:
            print(f"measuring {part}", file=sys.stderr, flush=True)
            began = time.monotonic()
            raw[part] = PARTS[part](plan, stage)
            raw["seconds"][part] = time.monotonic() - began
            (kept / "measured.json").write_bytes(orjson.dumps(raw))
    return raw


def write(raw: dict[str, Any], folder: Path) -> Path:
    """Writes the page and its plots, and for a run to be published the README's numbers. Returns the page's path."""
    results = folder / "results.md"
    page = report.page(raw, plots.draw(raw, folder))
    results.write_text(page, encoding="utf-8")
    if raw["full"]:
        readme.update(ROOT / "README.md", page)
    return results


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Holdfast and its peers, side by side.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that the harness works")
    parser.add_argument("--only", type=_parts, metavar="A,B", help="only these parts: " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=_count, default=ROUNDS, help="how often to run each case (%(default)s)")
    return parser.parse_args(argv)


def _count(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number above 0")
    return int(given)


def _parts(given: str) -> list[str]:
    parts = given.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    sys.exit(main())
