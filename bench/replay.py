"""The time to replay a finished answer from its beginning."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.plan import Plan
from bench.question import Question
from bench.response import Response
from bench.stage import Stage
from bench.system import Visit

WAIT_SECONDS = 60.0
RATE = 2_000.0


def measure(plan: Plan, stage: Stage) -> dict[str, Any]:
    """Times of each replay, in microseconds from the request, and how much of such an answer the peers can replay.

    For the peers, it is the longest answer that easily fits into Genkit's single document.
    """
    found = asyncio.run(_replay(plan, stage))
    stage.empty_firestore()
    return found


async def _replay(plan: Plan, stage: Stage) -> dict[str, Any]:
    question = Question(seed="replay-holdfast", tokens=plan.replayed, rate=RATE)
    visits: list[Visit] = []
    await asyncio.wait_for(stage.holdfast.visit(question, visits), question.tokens / question.rate + WAIT_SECONDS)
    replays = []
    for _ in range(plan.rounds):
        response = await stage.holdfast.resume(question, visits[0].answer)
        await asyncio.wait_for(response.ended, WAIT_SECONDS)
        replays.append(_replayed(response, question))
    peers = Question(seed="replay-peers", tokens=plan.replayed // 16, rate=100)
    return {
        "tokens": plan.replayed,
        "holdfast": replays,
        "peers": {
            "tokens": peers.tokens,
            "genkit": await _genkit(plan, stage, peers),
            **await _resumable(stage, peers),
        },
    }


async def _genkit(plan: Plan, stage: Stage, question: Question) -> list[dict[str, Any]]:
    visits: list[Visit] = []
    await asyncio.wait_for(stage.genkit.visit(question, visits), question.tokens / question.rate + WAIT_SECONDS)
    replays = []
    for _ in range(plan.rounds):
        response = await stage.genkit.attach(visits[0].answer)
        await asyncio.wait_for(response.ended, WAIT_SECONDS)
        replays.append(_replayed(response, question))
    return replays


async def _resumable(stage: Stage, question: Question) -> dict[str, int]:
    """The status of the response for a finished stream."""
    await asyncio.wait_for(stage.resumable.visit(question, []), question.tokens / question.rate + WAIT_SECONDS)
    response = await stage.resumable.attach(question.seed)
    await asyncio.wait_for(response.ended, WAIT_SECONDS)
    return {"resumable": response.status}


def _replayed(response: Response, question: Question) -> dict[str, Any]:
    visit = Visit("", response.sent, response)
    read = list(visit.tokens())
    return {
        "whole": [said for _, said in read] == question.answer and visit.end() is not None,
        "first": (response.reads[0][0] - response.sent) // 1000,
        "last": (response.reads[-1][0] - response.sent) // 1000,
        "bytes": sum(len(data) for _, data in response.reads),
    }
