"""OpenAI's own Python client, with another base_url and a user's token as its key."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import openai
import pytest
import requests

from local.client import question
from local.demo_text import seed_of, text
from local.stack import Stack
from local.token import id_token


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    user = f"user-{uuid.uuid4().hex[:12]}"
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=id_token(user), max_retries=0) as client:
        yield client


def asked(tokens: int, **demo: object) -> dict[str, object]:
    body = question("for the SDK", tokens, **demo)
    return {"model": "demo", "messages": body["messages"], "max_tokens": tokens, "extra_body": {"demo": body["demo"]}}


def expected(tokens: int) -> str:
    return text(seed_of(question("for the SDK", tokens)["messages"]), tokens)


def test_the_openai_client_streams(sdk: openai.OpenAI) -> None:
    chunks = list(sdk.chat.completions.create(**asked(40, rate=200), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected(40)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_openai_client_gets_an_answer_that_is_not_streamed(sdk: openai.OpenAI) -> None:
    completion = sdk.chat.completions.create(**asked(40, rate=0))
    assert completion.choices[0].message.content == expected(40)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 40


def test_the_openai_client_takes_an_answer_that_broke_off_for_an_error(sdk: openai.OpenAI) -> None:
    chunks = sdk.chat.completions.create(**asked(40, rate=0, fault={"kind": "break", "at": 20}), stream=True)
    said: list[str] = []
    with pytest.raises(openai.APIError, match="broke off"):
        said.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(said) == expected(20)


def test_keep_alives_in_a_silence_do_not_disturb_the_openai_client(sdk: openai.OpenAI, stack: Stack) -> None:
    silence = {"kind": "stall", "at": 20, "seconds": 2}
    chunks = list(sdk.chat.completions.create(**asked(40, rate=0, fault=silence), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected(40)
    body = {**question("for the SDK", 40, rate=0, fault=silence), "model": "demo", "stream": True}
    headers = {"Authorization": f"Bearer {sdk.api_key}"}
    wire = requests.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=30).content
    assert b"\n\n: keep-alive\n" in wire
    assert b": keep-alive\n\n" not in wire


def test_the_openai_client_lists_the_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["demo", "gpt-*"]
