"""What an answer costs in Firestore: documents written and read, and their bytes, counted in a proxy.

A separate pass, in which no times are measured, because counting slows everything down.
"""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import asdict, dataclass

from bench.meter import Count
from bench.plan import HOLDFAST, Plan
from bench.question import Question
from bench.stage import Stage, text_of
from bench.system import Genkit, Holdfast, System, Visit

UNWATCHED, WATCHED, REPLAYED = "nobody watching", "one viewer", "replayed"
PEERS_AT_ONCE = 2
LATE_SECONDS = 60.0  # how long to wait for an answer after the upstream's end
SAVED_SECONDS = 3.0  # how long an unwatched answer takes to be saved after the upstream's end


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one answer. `whole`: its reader got all of it, or it had no reader."""

    system: str
    how: str
    tokens: int
    rate: float
    whole: bool
    commits: int
    writes: int
    written: int
    reads: int
    read: int


class _Books:
    """The counts so far."""

    def __init__(self, url: str):
        self._url = url

    def of(self, *names: str) -> Count:
        """The counts of everything that mentions one of the names: an answer's, its user's or its stream's."""
        total = Count()
        for path, counted in text_of(f"{self._url}/counts").items():
            if any(name in path for name in names):
                for name, number in counted.items():
                    setattr(total, name, getattr(total, name) + number)
        return total


def measure(plan: Plan, stage: Stage) -> list[dict[str, object]]:
    """Measures all Holdfast's answers but one in parallel, and a few of Genkit's at a time, longest first."""
    command = [sys.executable, "-m", "bench.meter", "--target", stage.stack.firestore_host]
    with stage.part("meter", command, "ready") as meter:
        host, url = (re.search(rf"{what}=(\S+)", meter.printed) for what in ("grpc", "http"))
        assert host is not None
        assert url is not None
        settings = {"FIRESTORE_EMULATOR_HOST": host[1]}
        with stage.functions("metered", settings) as holdfast, stage.other_genkit(host[1]) as genkit:
            found = asyncio.run(_count(plan, _Books(url[1]), holdfast, genkit))
    stage.empty_firestore()
    return [asdict(cost) for cost in found]


async def _count(plan: Plan, books: _Books, holdfast: Holdfast, genkit: Genkit) -> list[Cost]:
    """Measures the shortest answer alone, like its lag, because the commit interval is longer with many answers."""
    shortest, *longer = [
        _question("holdfast", tokens, growth.rate) for growth in plan.growth for tokens in growth.tokens
    ]
    alone = await _watched(books, holdfast, shortest)
    watched = [_watched(books, holdfast, question) for question in longer]
    room = asyncio.Semaphore(PEERS_AT_ONCE)
    peers = [
        _genkit(books, genkit, _question("genkit", tokens, growth.rate), room)
        for growth in plan.growth
        for tokens in sorted(growth.genkit, reverse=True)
    ]
    unwatched = _question("unwatched", plan.unwatched, plan.growth[0].rate)
    several = await asyncio.gather(_unwatched(books, holdfast, unwatched), *watched, *peers)
    return [*alone, *(cost for costs in several for cost in costs)]


def _question(who: str, tokens: int, rate: float) -> Question:
    return Question(seed=f"cost-{who}-{tokens}-tokens", tokens=tokens, rate=rate)


async def _watched(books: _Books, holdfast: Holdfast, question: Question) -> list[Cost]:
    visits = await _visited(holdfast, question)
    count = await asyncio.to_thread(books.of, visits[0].answer, question.seed)
    return [_cost(HOLDFAST, WATCHED, question, visits[0], count)]


async def _unwatched(books: _Books, holdfast: Holdfast, question: Question) -> list[Cost]:
    """An answer whose client leaves at once, and a reader who comes after its end and reads it all."""
    started = await holdfast.start(question)
    await started.begun
    generation = started.header("X-Generation-Id")
    started.leave()
    await asyncio.sleep(question.tokens / question.rate + SAVED_SECONDS)
    before = await asyncio.to_thread(books.of, generation, question.seed)
    replay = await holdfast.resume(question, generation)
    await asyncio.wait_for(replay.ended, LATE_SECONDS)
    after = await asyncio.to_thread(books.of, generation, question.seed)
    visit = Visit(holdfast.name, replay.sent, replay)
    return [
        _cost(HOLDFAST, UNWATCHED, question, visit, before),
        _cost(HOLDFAST, REPLAYED, question, visit, _less(after, before)),
    ]


async def _genkit(books: _Books, genkit: Genkit, question: Question, room: asyncio.Semaphore) -> list[Cost]:
    async with room:
        live, subscriber = await _visited(genkit, question)
        watched = await asyncio.to_thread(books.of, live.answer)
        replay = await genkit.attach(live.answer)
        await asyncio.wait([replay.ended], timeout=LATE_SECONDS)
        replayed = _less(await asyncio.to_thread(books.of, live.answer), watched)
    return [
        _cost(genkit.name, WATCHED, question, subscriber, watched),
        _cost(genkit.name, REPLAYED, question, Visit(subscriber.path, replay.sent, replay), replayed),
    ]


async def _visited(system: System, question: Question) -> list[Visit]:
    """The visits, after everything is read or the time is over."""
    visits: list[Visit] = []
    try:
        async with asyncio.timeout(question.tokens / question.rate + LATE_SECONDS):
            await system.visit(question, visits)
    except TimeoutError:
        pass
    for visit in visits:
        visit.response.leave()
    return visits


def _cost(system: str, how: str, question: Question, visit: Visit, count: Count) -> Cost:
    whole = visit.end() is not None and [said for _, said in visit.tokens()] == question.answer
    return Cost(system=system, how=how, tokens=question.tokens, rate=question.rate, whole=whole, **asdict(count))


def _less(after: Count, before: Count) -> Count:
    return Count(**{name: number - getattr(before, name) for name, number in asdict(after).items()})
