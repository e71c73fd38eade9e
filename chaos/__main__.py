"""The fault matrix as a command: `python -m chaos --rounds 3 --seed 7`, and `make chaos`.

Plays every fault on one local stack, round after round, and prints what became of what was promised. What is random
comes from the seed, which is printed first; when threads and processes get their turns does not.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from chaos.faults import FAULTS, Fault
from chaos.plan import FULL, SHORT, Plan
from chaos.report import NOTES, Played, conclusion, progress, table
from chaos.round import Round
from chaos.stage import Stage
from local.firestore_emulator import EmulatorMissing
from local.ports import PortFault
from local.process import ProcessFault

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    plan = SHORT if options.short else FULL
    plan = replace(plan, load=options.load or plan.load, patience=options.patience or plan.patience)
    faults = [fault() for fault in FAULTS if options.faults is None or fault.key in options.faults]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    print(f"seed {options.seed}", flush=True)
    try:
        return play(plan, faults, options.rounds, options.seed)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (EmulatorMissing, PortFault, ProcessFault) as fault:
        print(fault, file=sys.stderr)
        return 1


def play(plan: Plan, faults: Sequence[Fault], rounds: int, seed: int) -> int:
    """All rounds on one stack; gives the exit status."""
    every: list[Played] = []
    with Stage(plan) as stage:
        for number, fault in product(range(1, rounds + 1), faults):
            every.append(_played(stage, fault, number, seed))
            print("\n".join([progress(every[-1], rounds), *every[-1].sentences]), flush=True)
            if stage.stack.dead() is not None:
                break
        words, status = conclusion(every)
        print(f"\n{table(every)}\n\n" + "\n".join(NOTES) + f"\n\n{words}", flush=True)
        if status:
            print("\n".join(["", "What the functions logged as errors:", *(stage.errors() or ["nothing"])]))
    return status


def _played(stage: Stage, fault: Fault, number: int, seed: int) -> Played:
    began = time.monotonic()
    turn = Round(stage, fault, number, seed)
    verdicts = turn.play()
    if (dead := stage.stack.dead()) is not None:
        turn.broken.append(f"expected every part to run on, {dead.name} ended by itself. {dead.said()}")
    return Played(
        title=fault.title,
        recovery=fault.recovery,
        number=number,
        seconds=time.monotonic() - began,
        verdicts=tuple(verdicts),
        broken=tuple(turn.broken),
    )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="The fault matrix on the local stack.")
    parser.add_argument("--rounds", type=_count, default=3, help="how often each fault is played (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="a number; random unless given")
    parser.add_argument("--faults", type=_keys, metavar="A,B", help="only these: " + ", ".join(f.key for f in FAULTS))
    parser.add_argument("--load", type=_count, help="generations at once")
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
