"""What a start takes: Firestore round trips before the first token, and CPU.

Answers of a few tokens are asked for one after the other. The first token's time grows with the distance of Firestore,
and how much it grows is how many round trips there are, whatever the machine's speed. A start's CPU is compared with
that of the cheapest request with a token: the list of models. They take turns, as a machine's speed may change while
one of them is measured.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.plan import Plan
from bench.question import Question
from bench.response import Response, ask
from bench.stage import Stage
from bench.system import Holdfast, Visit, user
from bench.usage import Spent

WAIT_SECONDS = 60.0
TOKENS = 3
RATE = 1_000.0
SETTLE_SECONDS = 0.3  # until an answer's worker has done what it does after the end


def measure(plan: Plan, stage: Stage) -> dict[str, Any]:
    """`trips` are microseconds to the first tokens for each distance in seconds. `cpu` is seconds of both functions."""
    starts = plan.one_by_one
    warm = min(starts.each, starts.counted)
    with (
        stage.distant(stage.stack.firestore_host, 0.0) as firestore,
        stage.functions("starts", {"FIRESTORE_EMULATOR_HOST": firestore.host}) as holdfast,
    ):
        asyncio.run(_started(holdfast, "warm", warm))
        trips = []
        for number, seconds in enumerate(starts.distances):
            firestore.put(seconds)
            firsts = asyncio.run(_started(holdfast, f"away-{number}", starts.each))
            trips.append({"seconds": seconds, "first": firsts})
    asyncio.run(_started(stage.holdfast, "warm-cpu", warm))
    asyncio.run(_listed(stage.holdfast, warm))
    start = models = 0.0
    for turn in range(starts.turns):
        spent = Spent({"own": stage.holdfast.own})
        asyncio.run(_started(stage.holdfast, f"cpu-{turn}", starts.counted))
        time.sleep(SETTLE_SECONDS)
        start += spent.since()["own"]
        spent = Spent({"own": stage.holdfast.own})
        asyncio.run(_listed(stage.holdfast, starts.models))
        models += spent.since()["own"]
    stage.empty_firestore()
    counts = {"starts": starts.turns * starts.counted, "models": starts.turns * starts.models}
    return {"trips": trips, "cpu": {**counts, "start": start, "list": models}}


async def _started(holdfast: Holdfast, name: str, number: int) -> list[int]:
    """The microseconds from the request to the first token of each answer. Errors: `RuntimeError`, without one."""
    firsts = []
    for start in range(number):
        response = await holdfast.start(Question(seed=f"start-{name}-{start}", tokens=TOKENS, rate=RATE))
        await asyncio.wait_for(response.ended, WAIT_SECONDS)
        first = next(Visit(holdfast.name, response.sent, response).tokens(), None)
        if first is None:
            raise RuntimeError(f"a start was answered with {response.status} and without a token")
        firsts.append((first[0] - response.sent) // 1000)
    return firsts


async def _listed(holdfast: Holdfast, number: int) -> None:
    for _ in range(number):
        response: Response = await ask(f"{holdfast.url}/v1/models", headers=user(Question(seed="l", tokens=1, rate=1)))
        await asyncio.wait_for(response.ended, WAIT_SECONDS)
        if response.status != 200:
            raise RuntimeError(f"the list of models was answered with {response.status}")
