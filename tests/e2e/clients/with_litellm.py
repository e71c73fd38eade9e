"""LiteLLM."""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it is fetched from the Internet

import litellm

Order = dict[str, Any]
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}},
}


def asked(order: Order, **more: Any) -> dict[str, Any]:
    return {
        "model": "openai/demo",
        "api_base": f"{order['url']}/v1",
        "api_key": order["token"],
        "messages": [{"role": "user", "content": order["question"]}],
        "extra_headers": order["headers"],
        "extra_body": {"demo": order["demo"]},
        **more,
    }


async def stream(order: Order) -> AsyncIterator[Any]:
    usage = None
    async for chunk in await litellm.acompletion(**asked(order, stream=True, stream_options={"include_usage": True})):
        for choice in chunk.choices:
            yield choice.delta.content or ""
        usage = getattr(chunk, "usage", None) or usage
    yield {"output": usage.completion_tokens}


async def loop(order: Order) -> AsyncIterator[str]:
    request = asked(order, tools=[TOOL])
    messages = request["messages"]
    while True:
        completion = await litellm.acompletion(**request)
        said = completion.choices[0].message
        if not said.tool_calls:
            break
        messages.append(said)
        for call in said.tool_calls:
            found = f"found {len(json.loads(call.function.arguments)['text'])}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": found})
    yield said.content
