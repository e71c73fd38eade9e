"""What the same answer costs in each model API: the CPU of both functions."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import orjson

from bench.plan import Case, Plan
from bench.question import Question
from bench.response import Response, ask
from bench.stage import Stage
from bench.system import JSON, user
from bench.usage import Spent

Json = dict[str, Any]

MAX_TOKENS = 4_096
_TURN = [{"role": "user", "content": "Hi"}]

# For each API: the path, the request, and the text that an event adds.
DIALECTS: dict[str, tuple[str, Json, Callable[[Json], str]]] = {
    "chat_completions": (
        "/v1/chat/completions",
        {"messages": _TURN, "stream": True},
        lambda event: "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ())),
    ),
    "messages": (
        "/v1/messages",
        {"messages": _TURN, "stream": True, "max_tokens": MAX_TOKENS},
        lambda event: event["delta"].get("text", "") if event["type"] == "content_block_delta" else "",
    ),
    "responses": (
        "/v1/responses",
        {"input": "Hi", "stream": True},
        lambda event: event["delta"] if event["type"] == "response.output_text.delta" else "",
    ),
    "gemini": (
        "/v1beta/models/demo:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
        lambda event: "".join(
            part.get("text", "")
            for candidate in event.get("candidates", ())
            for part in candidate.get("content", {}).get("parts", ())
        ),
    ),
}


def measure(plan: Plan, stage: Stage) -> list[Json]:
    """The CPU seconds of each API's round, with the number of answers that came whole."""
    case = plan.dialects
    rounds = max(case.systems.values())
    found = []
    for number in range(-1, rounds):  # the first one warms up, and is not counted
        for name in DIALECTS:
            print(f"round {number + 1}  {name}", file=sys.stderr, flush=True)
            spent = Spent({"own": stage.holdfast.own})
            whole = asyncio.run(_played(plan, stage, case, name, number))
            if number >= 0:
                found.append({"dialect": name, "whole": whole, "own": spent.since()["own"]})
        stage.empty_firestore()
    return found


async def _played(plan: Plan, stage: Stage, case: Case, name: str, number: int) -> int:
    questions = [Question(seed=f"{name}-{number}-{n}", tokens=case.tokens, rate=case.rate) for n in range(case.streams)]
    responses = await asyncio.gather(*(_asked(stage, name, question) for question in questions))
    await asyncio.wait([response.ended for response in responses], timeout=case.seconds + plan.patience)
    for response in responses:
        response.leave()
    return sum(
        _text(name, response) == "".join(question.answer)
        for response, question in zip(responses, questions, strict=True)
    )


async def _asked(stage: Stage, name: str, question: Question) -> Response:
    path, body, _ = DIALECTS[name]
    request = {**body, "model": "demo", "demo": question.fields["demo"]}
    headers = {**JSON, **user(question)}
    return await ask(f"{stage.holdfast.url}{path}", method="POST", headers=headers, body=orjson.dumps(request))


def _text(name: str, response: Response) -> str:
    said = DIALECTS[name][2]
    return "".join(said(orjson.loads(data)) for _, data in response.events() if data != b"[DONE]")
