"""Runs rounds on several stages in parallel, each in its own process, because most of a round is waiting."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from chaos.fault import Fault
from chaos.plan import Plan
from chaos.report import Played
from chaos.round import Round
from chaos.stage import Stage

END_SECONDS = 60.0

Turn = tuple[int, type[Fault]]  # a round's number, and its fault


@dataclass(frozen=True, slots=True)
class Left:
    """A lane's last message: the errors that its functions logged, and its own failure, if any."""

    errors: tuple[str, ...] = ()
    failure: str | None = None


def played(plan: Plan, turns: Sequence[Turn], lanes: int, seed: int) -> Iterator[Played | Left]:
    """Runs all turns. Yields every finished round, and a last message of each lane. Always cleans up."""
    context = multiprocessing.get_context("spawn")
    processes = []
    reading: list[Any] = []
    for lane in range(lanes):
        # Shifted by one each round, so that a lane does not always get the same faults.
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends the lanes
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
