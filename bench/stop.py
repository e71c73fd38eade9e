"""The time from a user's stop until the answer has stopped and is saved."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.plan import Plan
from bench.question import Question
from bench.stage import Stage
from bench.system import Visit

READ_SECONDS = 1.0
WAIT_SECONDS = 30.0


def measure(plan: Plan, stage: Stage) -> list[dict[str, Any]]:
    """The microseconds from the stop request to its response, and to the end of the viewer's stream, for each stop."""
    found = [asyncio.run(_stop(stage, number)) for number in range(plan.rounds)]
    stage.empty_firestore()
    return found


async def _stop(stage: Stage, number: int) -> dict[str, Any]:
    question = Question(seed=f"stop-{number}", tokens=3_000, rate=50)
    viewer = await stage.holdfast.start(question)
    await viewer.begun
    await asyncio.sleep(READ_SECONDS)
    asked = time.monotonic_ns()
    stopped = await stage.holdfast.stop(question, viewer.header("X-Generation-Id"))
    await asyncio.wait_for(asyncio.gather(stopped.ended, viewer.ended), WAIT_SECONDS)
    end = Visit("", viewer.sent, viewer).end()
    return {
        "status": stopped.status,
        "stopped": (stopped.reads[-1][0] - asked) // 1000,
        "seen": (end - asked) // 1000 if end is not None else None,
    }
