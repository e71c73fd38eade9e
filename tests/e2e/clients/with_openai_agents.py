"""OpenAI's agents."""

from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

Order = dict[str, Any]
set_tracing_disabled(True)  # traces go to OpenAI


@function_tool
def look_up(text: str) -> str:
    """Looks up."""
    return f"found {len(text)}"


def agent(order: Order, **more: Any) -> Agent:
    client = AsyncOpenAI(base_url=f"{order['url']}/v1", api_key=order["token"])
    settings = ModelSettings(
        include_usage=True,
        extra_headers=order["headers"],
        extra_body={"demo": order["demo"]},
    )
    model = OpenAIChatCompletionsModel(model="demo", openai_client=client)
    return Agent(name="one", model=model, model_settings=settings, **more)


async def stream(order: Order) -> AsyncIterator[Any]:
    result = Runner.run_streamed(agent(order), order["question"])
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            yield event.data.delta
    yield {"output": result.context_wrapper.usage.output_tokens}


async def loop(order: Order) -> AsyncIterator[str]:
    yield (await Runner.run(agent(order, tools=[look_up]), order["question"])).final_output
