"""LlamaIndex, with its package for servers that are like OpenAI's."""

from collections.abc import AsyncIterator
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

Order = dict[str, Any]


def look_up(text: str) -> str:
    """Looks up."""
    return f"found {len(text)}"


def model(order: Order, **more: Any) -> OpenAILike:
    return OpenAILike(
        model="demo",
        api_base=f"{order['url']}/v1",
        api_key=order["token"],
        is_chat_model=True,
        is_function_calling_model=True,
        default_headers=order["headers"],
        additional_kwargs={"extra_body": {"demo": order["demo"]}, **more},
    )


async def stream(order: Order) -> AsyncIterator[Any]:
    asked = [ChatMessage(role="user", content=order["question"])]
    usage = None
    async for chunk in await model(order, stream_options={"include_usage": True}).astream_chat(asked):
        yield chunk.delta or ""
        usage = chunk.raw.usage or usage
    yield {"output": usage.completion_tokens}


async def loop(order: Order) -> AsyncIterator[str]:
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(look_up)], llm=model(order))
    yield str(await agent.run(order["question"]))
