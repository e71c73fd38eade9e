"""Items of OpenAI's Responses and their ids, by OpenAI's own client: listed, named in a request, and compacted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import openai
import pytest
import requests

from local.demo_text import arguments, text
from local.stack import Stack
from local.token import id_token
from tests.conftest import calls_of
from tests.e2e.four_apis import APIS, RENDERED, TRUSTING, four_apis

WAIT_SECONDS = 60.0
LOOK = {"type": "function", "name": "look_up", "description": "Looks up.", "parameters": {"type": "object"}}
OVER_EACH = pytest.mark.parametrize("api", APIS)
Json = dict[str, Any]
Calls = Callable[[str], list[Json]]


@pytest.fixture(scope="module")
def stack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with four_apis(stack, tmp_path_factory.mktemp("catalog")) as running:
        yield running


def client_of(stack: Stack, user: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=id_token(user), max_retries=0)


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    with client_of(stack, f"user-{uuid.uuid4().hex[:12]}") as client:
        yield client


@pytest.fixture
def stranger(stack: Stack) -> Iterator[openai.OpenAI]:
    with client_of(stack, "stranger") as client:
        yield client


@pytest.fixture
def calls(stack: Stack) -> Calls:
    return partial(calls_of, stack)


def asked(api: str, what: str, tokens: int, **demo: Any) -> Json:
    """A question whose answer is `text(what, tokens)`."""
    demo = {"seed": what, "tokens": tokens, "rate": 0, **demo}
    return {"model": api, "input": what, "extra_body": {"demo": demo}}


def new() -> str:
    return uuid.uuid4().hex


def words(item: Any) -> str:
    return "".join(part.text for part in item.content)


@OVER_EACH
def test_the_input_of_a_conversation_is_listed_with_ids_that_stay(sdk: openai.OpenAI, api: str) -> None:
    what = new()
    first = sdk.responses.create(**asked(api, what, 5))
    second = sdk.responses.create(**{**asked(api, what, 6), "input": "And now?"}, previous_response_id=first.id)
    listed = sdk.responses.input_items.list(second.id)
    assert [(item.type, item.role, words(item)) for item in listed.data] == [
        ("message", "user", "And now?"),
        ("message", "assistant", text(what, 5)),
        ("message", "user", what),
    ]
    assert not listed.has_more
    assert listed.data[1].id == first.output[-1].id
    (own,) = sdk.responses.input_items.list(first.id).data
    assert own == listed.data[2]
    assert len({item.id for item in listed.data}) == 3
    in_order = list(sdk.responses.input_items.list(second.id, order="asc", limit=1))
    assert in_order == listed.data[::-1]
    (page,) = sdk.responses.input_items.list(second.id, limit=1, after=listed.data[0].id).data
    assert page == listed.data[1]


@pytest.mark.parametrize(
    ("words", "parts", "limit"), [("A" * (6 << 20), 1, "MAX_REQUEST_BYTES"), ("A", 6000, "MAX_REQUEST_NODES")]
)
def test_a_conversation_that_is_read_back_from_many_requests_has_the_limits_of_one(
    sdk: openai.OpenAI, words: str, parts: int, limit: str
) -> None:
    turn = [{"role": "user", "content": [{"type": "input_text", "text": words}] * parts}]
    asks = {**asked("responses", new(), 5), "input": turn}
    first = sdk.responses.create(**asks)
    second = sdk.responses.create(**asks, previous_response_id=first.id)
    assert len(sdk.responses.input_items.list(first.id).data) == 1
    for _ in range(2):  # nothing counts as held any longer
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.responses.input_items.list(second.id)
        assert refused.value.code == "conversation_too_large"
        assert limit in refused.value.message
    named = [{"type": "item_reference", "id": sdk.responses.input_items.list(first.id).data[0].id}]
    with pytest.raises(openai.BadRequestError, match=limit):
        sdk.responses.compact(model="responses", input=named, previous_response_id=second.id)


@OVER_EACH
def test_functions_and_their_outputs_are_listed_as_they_are(sdk: openai.OpenAI, api: str) -> None:
    what = new()
    called = sdk.responses.create(**asked(api, what, 12, tool_calls=1), tools=[LOOK])
    use = called.output[-1]
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": what}]},
        use.to_dict(),
        {"type": "function_call_output", "call_id": use.call_id, "output": "Found."},
    ]
    after = sdk.responses.create(**{**asked(api, what, 6), "input": given}, tools=[LOOK])
    message, call, result = sdk.responses.input_items.list(after.id, order="asc").data
    assert (message.role, words(message)) == ("user", what)
    assert (call.type, call.call_id, call.arguments) == ("function_call", use.call_id, arguments(what, 0, 12))
    assert (result.type, result.call_id, result.output) == ("function_call_output", use.call_id, "Found.")
    assert all((message.id, call.id, result.id))


@OVER_EACH
@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order"), ("after=msg_1", "after")]
)
def test_a_wrong_page_is_an_error_that_names_it(
    sdk: openai.OpenAI, stack: Stack, api: str, query: str, param: str
) -> None:
    response = sdk.responses.create(**asked(api, "paged", 3))
    url = f"{stack.url}/v1/responses/{response.id}/input_items?{query}"
    wrong = requests.get(url, headers={"Authorization": f"Bearer {sdk.api_key}"}, timeout=WAIT_SECONDS)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, param)


@OVER_EACH
def test_the_input_of_another_user_s_response_is_not_there(
    sdk: openai.OpenAI, stranger: openai.OpenAI, api: str
) -> None:
    response = sdk.responses.create(**asked(api, "hidden", 3))
    with pytest.raises(openai.NotFoundError) as hidden:
        stranger.responses.input_items.list(response.id)
    assert hidden.value.code == "response_not_found"
    unkept = sdk.responses.create(**asked(api, "unkept", 3), store=False)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.input_items.list(unkept.id)


@OVER_EACH
@pytest.mark.parametrize("form", ["item_reference", "id"])
def test_items_are_named_by_their_ids(sdk: openai.OpenAI, calls: Calls, api: str, form: str) -> None:
    what = new()
    called = sdk.responses.create(**asked(api, what, 12, tool_calls=1, reasoning=2), tools=[LOOK])
    (question,) = sdk.responses.input_items.list(called.id).data
    kind = {"type": "item_reference"} if form == "item_reference" else {}
    items = [{**kind, "id": item.id} for item in (question, *called.output)]
    result = {"type": "function_call_output", "call_id": called.output[-1].call_id, "output": f"Found {what}."}
    after = sdk.responses.create(**{**asked(api, what, 6), "input": [*items, result]}, tools=[LOOK])
    assert after.output_text == text(what, 6)
    listed = sdk.responses.input_items.list(after.id, order="asc").data
    assert [item.id for item in listed[:-1]] == [item["id"] for item in items]
    assert [item.to_dict() for item in listed[1:-1]] == [item.to_dict() for item in called.output]
    sent = calls(f"Found {what}.")[-1]["request"]
    if api == "chat_completions":
        assert [each["role"] for each in sent["messages"]] == ["user", "assistant", "tool"]
        assert sent["messages"][1]["tool_calls"][0]["function"]["arguments"] == arguments(what, 0, 12)
    if api == "responses":
        asked_first, *named, _ = sent["input"]
        assert words_of(asked_first) == what
        assert [each["type"] for each in named] == ["item_reference"] * 2
        assert [each["id"].split("_")[0] for each in named] == ["reasoning", "function"]
        assert called.id.removeprefix("resp_") not in json.dumps(named)


def words_of(item: Json) -> str:
    return "".join(part["text"] for part in item["content"])


def test_an_output_that_is_sent_back_whole_has_the_upstream_s_ids_where_it_needs_them(
    sdk: openai.OpenAI, calls: Calls
) -> None:
    what = new()
    first = sdk.responses.create(**asked("responses", what, 5, reasoning=2))
    given = [{"role": "user", "content": what}, *(item.to_dict() for item in first.output)]
    asking = {**asked("responses", what, 6), "input": [*given, {"role": "user", "content": f"And {what}?"}]}
    assert sdk.responses.create(**asking).output_text == text(what, 6)
    _, reasoning, message, _ = calls(f"And {what}?")[-1]["request"]["input"]
    assert (reasoning["type"], set(reasoning)) == ("item_reference", {"type", "id"})
    assert ("id" in message, words_of(message)) == (False, text(what, 5))


@pytest.mark.parametrize("then", APIS)
def test_an_item_is_named_to_a_model_of_another_api(sdk: openai.OpenAI, calls: Calls, then: str) -> None:
    what = new()
    first = sdk.responses.create(**asked("messages" if then == "responses" else "responses", what, 5))
    given = [{"role": "user", "content": what}, {"type": "item_reference", "id": first.output[-1].id}]
    asking = {**asked(then, what, 6), "input": [*given, {"role": "user", "content": f"And {what}?"}]}
    assert sdk.responses.create(**asking).output_text == text(what, 6)
    assert json.dumps(text(what, 5))[1:-1] in json.dumps(calls(f"And {what}?")[-1]["request"])


@OVER_EACH
def test_no_user_reaches_another_one_s_items(
    sdk: openai.OpenAI, stranger: openai.OpenAI, calls: Calls, api: str
) -> None:
    what = new()
    theirs = sdk.responses.create(**asked(api, new(), 5)).output[-1].id
    own = stranger.responses.create(**asked(api, new(), 5)).output[-1].id
    upstream_s = "msg_0123456789abcdef0123456789abcdef0123456789abcdef"
    beyond = own.rpartition("_")[0] + "_7"
    question = {"role": "user", "content": what}
    for its_id in (theirs, upstream_s, beyond):
        for item in ({"type": "item_reference", "id": its_id}, {"id": its_id}):
            with pytest.raises(openai.NotFoundError) as hidden:
                stranger.responses.create(**{**asked(api, what, 5), "input": [question, item]})
            assert (hidden.value.code, hidden.value.param) == ("item_not_found", "input[1].id")
            assert its_id in hidden.value.message
    assert calls(what) == []


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"type": "reasoning", "id": "rs_1", "summary": []}, "id"),
        ({"type": "image_generation_call", "id": "ig_1"}, "id"),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed"}, "id"),
        ({"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}, "approval_request_id"),
    ],
)
def test_what_an_upstream_would_look_up_by_an_id_of_its_own_is_not_asked_for(
    sdk: openai.OpenAI, calls: Calls, item: Json, name: str
) -> None:
    what = new()
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.responses.create(**{**asked("responses", what, 5), "input": [{"role": "user", "content": what}, item]})
    assert (refused.value.code, refused.value.param) == ("item_not_found", f"input[1].{name}")
    assert calls(what) == []


FILE = {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [FILE]}, "input[0].content[0].file_id"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "tools[0].vector_store_ids"),
        ({"conversation": "conv_1"}, "conversation"),
    ],
)
def test_what_an_upstream_keeps_for_its_account_is_only_named_where_the_catalog_allows_it(
    sdk: openai.OpenAI, calls: Calls, fields: Json, param: str
) -> None:
    what = new()
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.responses.create(**{**asked("responses", what, 5), **fields})
    assert (refused.value.code, refused.value.param) == ("account_id_not_allowed", param)
    assert calls(what) == []
    assert sdk.responses.create(**{**asked(TRUSTING, what, 5), **fields}).output_text == text(what, 5)
    (sent,) = calls(what)
    assert {name: sent["request"][name] for name in fields} == fields


def test_the_callable_names_nothing_that_the_upstream_keeps(stack: Stack, sdk: openai.OpenAI, calls: Calls) -> None:
    what = new()
    reference = [{"role": "user", "content": what}, {"type": "item_reference", "id": "msg_1"}]
    for fields, param in (
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": reference}, "input[1].id"),
        ({"input": [FILE]}, "input[0].content[0].file_id"),
    ):
        data = {"model": "responses", "input": what, "demo": {"seed": what}, **fields}
        headers = {"Authorization": f"Bearer {sdk.api_key}"}
        refused = requests.post(f"{stack.url}/", json={"data": data}, headers=headers, timeout=WAIT_SECONDS)
        assert (refused.status_code, refused.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert f"'{param}'" in refused.json()["error"]["message"]
    assert calls(what) == []


@OVER_EACH
def test_a_conversation_is_compacted_and_gone_on_with(sdk: openai.OpenAI, calls: Calls, api: str) -> None:
    what = new()
    called = sdk.responses.create(**asked(api, what, 12, tool_calls=1), tools=[LOOK])
    result = {"type": "function_call_output", "call_id": called.output[-1].call_id, "output": "Found."}
    asking = {
        "model": api,
        "input": [result],
        "extra_body": {"demo": {"seed": f"short {what}", "tokens": 9, "rate": 0}},
    }
    compacted = sdk.responses.compact(**asking, previous_response_id=called.id)
    assert (compacted.object, compacted.usage.output_tokens) == ("response.compaction", 9)
    question, summary = compacted.output
    assert (question.type, question.role, words(question)) == ("message", "user", what)
    assert summary.type == "compaction"
    given = [item.to_dict(warnings=False) for item in compacted.output]  # it takes a user's message for an answer
    more = [*given, {"role": "user", "content": f"And {what}?"}]
    assert sdk.responses.create(**{**asked(api, what, 6), "input": more}).output_text == text(what, 6)
    assert json.dumps(text(f"short {what}", 9))[1:-1] in json.dumps(calls(f"And {what}?")[-1]["request"])
    if api in RENDERED:
        asked_for = json.dumps(calls(f"short {what}")[-1]["request"])
        assert json.dumps(arguments(what, 0, 12))[1:-1] in asked_for
        assert "The result: Found." in asked_for


@OVER_EACH
def test_what_can_t_be_compacted_is_an_error(sdk: openai.OpenAI, api: str) -> None:
    with pytest.raises(openai.BadRequestError) as nothing:
        sdk.responses.compact(model=api)
    assert nothing.value.param == "input"
    with pytest.raises(openai.RateLimitError):
        sdk.responses.compact(**asked(api, "refused", 5, fault={"kind": "refuse", "status": 429}))
    with pytest.raises(openai.InternalServerError) as cut:
        sdk.responses.compact(model=api, input="cut", extra_body={"max_output_tokens": 3, "demo": {"tokens": 9}})
    assert cut.value.code == "compaction_incomplete"
    changed = {"type": "compaction", "encrypted_content": "holdfast-summary-1.€"}
    with pytest.raises(openai.BadRequestError) as unread:
        sdk.responses.create(**{**asked(api, "changed", 5), "input": [changed]})
    assert unread.value.param == "input[0].encrypted_content"
