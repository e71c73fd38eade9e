"""Many viewers over few streams, with a proxy in front of Firestore that limits streams per connection as Google does.

Each viewer watches its own generation, all on one api process. Meanwhile more answers are started, whose commits use
the same connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bench.plan import Plan
from bench.question import Question
from bench.response import Response
from bench.stage import MULTIPLEXED, Stage, program
from bench.system import Holdfast, Visit
from local.ports import HOST, free_port

LATE_SECONDS = 10.0  # after the upstream's end; an answer that takes longer counts as stuck
STARTS_A_SECOND = 30  # of viewers
_BETWEEN_SECONDS = 0.4  # between two additional starts


def measure(plan: Plan, stage: Stage) -> list[dict[str, Any]]:
    """Measures with one document per listen stream, as the emulator needs it, and with as many as when deployed."""
    found = [_capped(plan, stage, "one", {}), _capped(plan, stage, "deployed", MULTIPLEXED)]
    stage.empty_firestore()
    return found


def _capped(plan: Plan, stage: Stage, how: str, settings: Mapping[str, str]) -> dict[str, Any]:
    port = free_port()
    _, _, emulator = stage.stack.firestore_host.partition(":")
    command = [
        program("nghttpx"),
        "--conf=/dev/null",
        "--single-process",
        "--workers=1",
        f"--frontend={HOST},{port};no-tls",
        f"--backend={HOST},{emulator};;proto=h2",
        f"--frontend-http2-max-concurrent-streams={plan.streams}",
        "--accesslog-file=/dev/null",
    ]
    with (
        stage.part("nghttpx", command, "Listening on"),
        stage.functions(how, {**settings, "FIRESTORE_EMULATOR_HOST": f"{HOST}:{port}"}) as holdfast,
    ):
        return {"how": how, "streams": plan.streams, **asyncio.run(_measured(plan, holdfast, how))}


async def _measured(plan: Plan, holdfast: Holdfast, how: str) -> dict[str, Any]:
    """Microseconds from a start to its first token, without viewers and with them. None if it is stuck."""
    before = await _starts(holdfast, f"{how}-before", plan.starts)
    questions = [
        Question(seed=f"{how}-{number}", tokens=plan.capped_tokens, rate=plan.capped_rate)
        for number in range(plan.capped)
    ]
    watching = [
        asyncio.create_task(_watch(holdfast, question, number / STARTS_A_SECOND))
        for number, question in enumerate(questions)
    ]
    await asyncio.sleep(plan.capped / STARTS_A_SECOND)
    during = await _starts(holdfast, f"{how}-during", plan.starts)
    visits = await asyncio.gather(*watching)
    whole = sum(
        visit.end() is not None and [said for _, said in visit.tokens()] == question.answer
        for visit, question in zip(visits, questions, strict=True)
    )
    return {"viewers": plan.capped, "whole": whole, "before": before, "during": during}


async def _watch(holdfast: Holdfast, question: Question, after: float) -> Visit:
    await asyncio.sleep(after)
    response = await holdfast.start(question)
    await _ended(response, question.tokens / question.rate + LATE_SECONDS)
    return Visit(holdfast.name, response.sent, response)


async def _starts(holdfast: Holdfast, name: str, number: int) -> list[int | None]:
    questions = [Question(seed=f"{name}-{start}", tokens=1, rate=50) for start in range(number)]
    visits = await asyncio.gather(
        *(_watch(holdfast, question, start * _BETWEEN_SECONDS) for start, question in enumerate(questions))
    )
    firsts = [next(visit.tokens(), None) for visit in visits]
    return [(first[0] - visit.asked) // 1000 if first else None for first, visit in zip(firsts, visits, strict=True)]


async def _ended(response: Response, seconds: float) -> None:
    await asyncio.wait([response.ended], timeout=seconds)
    response.leave()
