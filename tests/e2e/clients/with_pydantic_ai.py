"""pydantic-ai."""

from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

Order = dict[str, Any]


def agent(order: Order, **more: Any) -> Agent:
    provider = OpenAIProvider(base_url=f"{order['url']}/v1", api_key=order["token"])
    settings = {
        "extra_headers": order["headers"],
        "extra_body": {"demo": order["demo"]},
    }
    return Agent(OpenAIChatModel("demo", provider=provider), model_settings=settings, **more)


def look_up(text: str) -> str:
    """Looks up."""
    return f"found {len(text)}"


async def stream(order: Order) -> AsyncIterator[Any]:
    async with agent(order).run_stream(order["question"]) as result:
        async for piece in result.stream_text(delta=True, debounce_by=None):
            yield piece
        yield {"output": result.usage.output_tokens}


async def loop(order: Order) -> AsyncIterator[str]:
    yield (await agent(order, tools=[look_up]).run(order["question"])).output
