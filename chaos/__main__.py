"""The fault matrix as a command: `python -m chaos --rounds 3 --seed 7`, and `make chaos`.

Runs every fault on the local stack for several rounds, and prints which promises were kept. All random choices come
from the seed, which is printed first. The scheduling of threads and processes is not reproducible.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from chaos.fault import Fault
from chaos.faults import FAULTS
from chaos.lane import Left, played
from chaos.plan import FULL, SHORT, Plan
from chaos.report import NOTES, Played, conclusion, progress, table, table_of_dialects

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    plan = SHORT if options.short else FULL
    plan = replace(plan, load=options.load or plan.load, patience=options.patience or plan.patience)
    faults = [fault for fault in FAULTS if options.faults is None or fault.key in options.faults]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    print(f"seed {options.seed}", flush=True)
    try:
        return play(plan, faults, options.rounds, options.seed, options.lanes)
    except KeyboardInterrupt:
        return INTERRUPTED


def play(plan: Plan, faults: Sequence[type[Fault]], rounds: int, seed: int, lanes: int) -> int:
    """Runs all rounds. Returns the exit status."""
    every: list[Played] = []
    left: list[Left] = []
    for said in played(plan, list(product(range(1, rounds + 1), faults)), lanes, seed):
        if isinstance(said, Left):
            left.append(said)
            continue
        every.append(said)
        print("\n".join([progress(said, rounds), *said.sentences]), flush=True)
    failures = [each.failure for each in left if each.failure]
    order = [fault.title for fault in faults]
    every.sort(key=lambda each: (order.index(each.title), each.number))
    words, status = conclusion(every)
    tables = f"\n{table(every)}\n\n{table_of_dialects(every)}\n\n"
    print(tables + "\n".join([*NOTES, "", *failures, words]), flush=True)
    if status or failures:
        errors = [line for each in left for line in each.errors]
        print("\n".join(["", "What the functions logged as errors:", *(errors or ["nothing"])]))
    return 1 if failures else status


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="The fault matrix on the local stack.")
    parser.add_argument("--rounds", type=_count, default=3, help="how often to run each fault (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="a number; random unless given")
    parser.add_argument("--faults", type=_keys, metavar="A,B", help="only these: " + ", ".join(f.key for f in FAULTS))
    parser.add_argument("--load", type=_count, help="generations at once")
    parser.add_argument("--lanes", type=_count, default=2, help="stages that run rounds in parallel (%(default)s)")
    parser.add_argument("--patience", type=float, help="seconds after a fault until a generation counts as stuck")
    parser.add_argument("--short", action="store_true", help="fewer generations, shorter faults and a shorter lease")
    return parser.parse_args(argv)


def _count(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number above 0")
    return int(given)


def _keys(given: str) -> list[str]:
    keys = given.split(",")
    known = {fault.key for fault in FAULTS}
    if unknown := [key for key in keys if key not in known]:
        raise argparse.ArgumentTypeError(
            f"there is no fault {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return keys


if __name__ == "__main__":
    sys.exit(main())
