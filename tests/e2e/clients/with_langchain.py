"""LangChain, with its package for OpenAI."""

from collections.abc import AsyncIterator
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

Order = dict[str, Any]


@tool
def look_up(text: str) -> str:
    """Looks up."""
    return f"found {len(text)}"


def model(order: Order) -> ChatOpenAI:
    return ChatOpenAI(
        model="demo",
        base_url=f"{order['url']}/v1",
        api_key=order["token"],
        stream_usage=True,
        default_headers=order["headers"],
        extra_body={"demo": order["demo"]},
    )


async def stream(order: Order) -> AsyncIterator[Any]:
    usage = None
    async for chunk in model(order).astream(order["question"]):
        yield chunk.text
        usage = chunk.usage_metadata or usage
    yield {"output": usage["output_tokens"]}


async def loop(order: Order) -> AsyncIterator[str]:
    able = model(order).bind_tools([look_up])
    messages = [HumanMessage(order["question"])]
    while True:
        messages.append(await able.ainvoke(messages))
        if not messages[-1].tool_calls:
            break
        messages += [await look_up.ainvoke(call) for call in messages[-1].tool_calls]
    yield messages[-1].text
