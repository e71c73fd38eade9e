"""The memory of a live generation and of an idle viewer, in addition to that of a warm process.

It is measured with one document a listen stream, as the emulator needs it, and with as many as when deployed: a stream
takes memory, too.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bench.plan import Plan
from bench.question import Question
from bench.response import Response
from bench.stage import MULTIPLEXED, Stage
from bench.system import Holdfast
from bench.usage import resident

WARM = 5
QUIET = 0.2  # tokens a second
SETTLE_SECONDS = 3.0
SPARE_THREADS = 50
AT_ONCE = 50  # viewers that come together
WAIT_SECONDS = 60.0


def measure(plan: Plan, stage: Stage) -> dict[str, dict[str, Any]]:
    """The bytes of both functions when warm, and with many live generations and idle viewers.

    By how many documents a listen stream has: `one`, or as `deployed`.
    """
    threads = {"THREADS": str(plan.generations + plan.crowd + SPARE_THREADS)}
    found = {}
    for how, settings in (("one", {}), ("deployed", MULTIPLEXED)):
        with stage.functions(f"fresh-{how}", {**settings, **threads}) as holdfast:
            found[how] = asyncio.run(_memory(plan, holdfast))
        stage.empty_firestore()
    return found


async def _memory(plan: Plan, holdfast: Holdfast) -> dict[str, Any]:
    api, worker = holdfast.own
    await asyncio.gather(*(_answered(holdfast, number) for number in range(WARM)))
    await asyncio.sleep(SETTLE_SECONDS)
    warm = {"api": resident(api), "worker": resident(worker)}
    started = await asyncio.gather(*(_started(holdfast, f"live-{number}") for number in range(plan.generations)))
    await asyncio.sleep(SETTLE_SECONDS)
    live = {"api": resident(api), "worker": resident(worker)}
    generation = started[0].header("X-Generation-Id")
    question = _quiet("live-0")
    viewers: list[Response] = []
    watched = []
    for number in (plan.viewers, plan.crowd):
        while len(viewers) < number:
            more = min(AT_ONCE, number - len(viewers))
            viewers += await asyncio.gather(*(holdfast.resume(question, generation) for _ in range(more)))
            async with asyncio.timeout(WAIT_SECONDS):
                await asyncio.gather(*(viewer.begun for viewer in viewers[-more:]))
        await asyncio.sleep(SETTLE_SECONDS)
        watched.append({"viewers": number, "api": resident(api), "worker": resident(worker)})
    for response in [*started, *viewers]:
        response.leave()
    return {"generations": plan.generations, "warm": warm, "live": live, "watched": watched}


def _quiet(seed: str) -> Question:
    return Question(seed=seed, tokens=1_000, rate=QUIET)


async def _started(holdfast: Holdfast, seed: str) -> Response:
    response = await holdfast.start(_quiet(seed))
    await asyncio.wait_for(response.begun, WAIT_SECONDS)
    return response


async def _answered(holdfast: Holdfast, number: int) -> None:
    await asyncio.wait_for(holdfast.visit(Question(seed=f"memory-{number}", tokens=50, rate=100), []), WAIT_SECONDS)
