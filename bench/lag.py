"""The time from the upstream's write of a token to the reader's read, for each system and load."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from bench.machine import pace
from bench.plan import GENKIT, Case, Plan
from bench.question import Question
from bench.stage import Stage
from bench.system import System, Visit
from bench.usage import Spent

SETTLE_SECONDS = 0.4


@dataclass(kw_only=True)
class Shown:
    """What readers of one path saw in a round. Times are in microseconds.

    `lags` has a list for each answer, in the order of its tokens. `ttft` is from the request to the first token, and
    `end` from the upstream's last token to the reader's end. None means that it did not arrive. `pace` is the machine's
    speed before the round, in seconds.
    """

    case: str
    path: str
    round: int
    pace: float
    whole: int = 0
    lost: int = 0
    disordered: int = 0
    ttft: list[int | None] = field(default_factory=list)
    end: list[int | None] = field(default_factory=list)
    lags: list[list[int | None]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)

    def add(self, question: Question, visit: Visit, written: Sequence[int]) -> None:
        place = {said: k for k, said in enumerate(question.answer)}
        read: dict[int, int] = {}
        last, disordered = -1, 0
        for at, said in visit.tokens():
            k = place.get(said, -1)
            disordered += k <= last or k in read
            last = k
            read[k] = at
        ended = visit.end()
        lost = sum(k not in read for k in range(question.tokens))
        self.lost += lost
        self.disordered += disordered
        self.whole += lost == disordered == 0 and ended is not None
        self.ttft.append((min(read.values()) - visit.asked) // 1000 if read else None)
        self.end.append((ended - written[-1]) // 1000 if ended is not None and written else None)
        self.lags.append([(read[k] - written[k]) // 1000 if k in read else None for k in range(question.tokens)])


def measure(plan: Plan, stage: Stage) -> list[dict[str, object]]:
    """Measures every case for several rounds, with the systems in a different order each time.

    Firestore is replaced after each round, because the documents of a round would be load for the next one.
    """
    found: list[Shown] = []
    for number in range(max(max(case.systems.values()) for case in plan.cases)):
        for system in _systems(stage).values():
            asyncio.run(play(stage, system, plan.warm, number, plan.patience))
        for case in plan.cases:
            playing = [name for name, rounds in case.systems.items() if number < rounds]
            turn = number % len(playing) if playing else 0
            for name in playing[turn:] + playing[:turn]:
                print(f"round {number + 1}  {case}  {name}", file=sys.stderr, flush=True)
                found += asyncio.run(play(stage, _systems(stage)[name], case, number, plan.patience))
                if name == GENKIT and found[-1].lost:
                    stage.restart_genkit()  # else its pending writes would be load for the next round
                    asyncio.run(play(stage, stage.genkit, plan.warm, number, plan.patience))
                stage.empty_firestore()
        stage.renew_firestore()
    return [asdict(shown) for shown in found]


def _systems(stage: Stage) -> dict[str, System]:
    systems: list[System] = [stage.direct, stage.holdfast, stage.instant, stage.genkit, stage.resumable]
    return {system.name: system for system in systems}


async def play(stage: Stage, system: System, case: Case, number: int, patience: float) -> list[Shown]:
    """Runs one round of a case. Returns what the readers saw. Readers that take too long are cut off."""
    questions = [
        Question(
            seed=f"{case.name}-{system.name}-{number}-{n}",
            tokens=case.tokens,
            rate=case.rate,
            token_bytes=case.token_bytes,
        )
        for n in range(case.streams)
    ]
    visits: list[list[Visit]] = [[] for _ in questions]
    before = pace()
    gc.disable()
    spent = Spent({"own": system.own, "queue": system.queue, "store": system.store, "upstream": [stage.upstream]})
    try:
        async with asyncio.timeout(case.seconds + patience):
            await asyncio.gather(*map(system.visit, questions, visits))
    except TimeoutError:
        pass
    finally:
        gc.enable()
    used = spent.since()
    for visit in (each for visited in visits for each in visited):
        visit.response.leave()
    await asyncio.sleep(SETTLE_SECONDS)
    paths: dict[str, Shown] = {}
    for question, visited in zip(questions, visits, strict=True):
        written = await asyncio.to_thread(stage.written, question.seed)
        for visit in visited:
            first = Shown(case=case.name, path=visit.path, round=number, pace=before, spent=used)
            shown = paths.setdefault(visit.path, first)
            shown.add(question, visit, written)
    for shown in paths.values():
        shown.lost += case.tokens * (case.streams - len(shown.lags))  # of readers that never started to read
    return list(paths.values())
