"""Several stages at once, each in a process of its own, which share the rounds: most of a round is waiting."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from chaos.faults import Fault
from chaos.plan import Plan
from chaos.report import Played
from chaos.round import Round
from chaos.stage import Stage

END_SECONDS = 60.0

Turn = tuple[int, type[Fault]]  # a round's number, and what is played in it


@dataclass(frozen=True, slots=True)
class Left:
    """A lane's last word: the errors its functions logged, and what it failed by, if it did."""

    errors: tuple[str, ...] = ()
    failure: str | None = None


def played(plan: Plan, turns: Sequence[Turn], lanes: int, seed: int) -> Iterator[Played | Left]:
    """Every turn as it was played, and a last word of each lane. Leaves nothing behind, however it ends."""
    context = multiprocessing.get_context("spawn")
    processes = []
    reading: list[Any] = []
    for lane in range(lanes):
        # Moved on by one each round, so that no lane has the same faults all the time.
        mine = [turn for place, turn in enumerate(turns) if (place + turn[0]) % lanes == lane]
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_play, args=(plan, mine, seed, sender))
        process.start()
        sender.close()
        processes.append(process)
        reading.append(receiver)
    try:
        while reading:
            ready: list[Any] = wait(reading)
            for receiver in ready:
                try:
                    said = receiver.recv()
                except EOFError:
                    said = Left(failure="a lane was ended from outside")
                if isinstance(said, Left):
                    reading.remove(receiver)
                yield said
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(END_SECONDS)


def _play(plan: Plan, turns: Sequence[Turn], seed: int, out: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has started the lanes ends them
    try:
        with Stage(plan) as stage:
            for number, fault in turns:
                out.send(_turn(stage, fault(), number, seed))
                if stage.stack.dead() is not None:
                    break
            out.send(Left(errors=tuple(stage.errors())))
    except Exception as error:
        out.send(Left(failure=f"{type(error).__name__}: {error}"))
        raise


def _turn(stage: Stage, fault: Fault, number: int, seed: int) -> Played:
    began = time.monotonic()
    turn = Round(stage, fault, number, seed)
    verdicts = turn.play()
    if (dead := stage.stack.dead()) is not None:
        turn.broken.append(f"expected every part to run on, {dead.name} ended unexpectedly. {dead.said()}")
    return Played(
        title=fault.title,
        recovery=fault.recovery,
        number=number,
        seconds=time.monotonic() - began,
        verdicts=tuple(verdicts),
        broken=tuple(turn.broken),
    )
