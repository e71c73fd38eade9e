"""Google's own Python client for Gemini, with another base URL and a user's token as its key."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from google import genai
from google.cloud import firestore
from google.genai import errors, types

from local.client import Client, question
from local.demo_text import arguments, choice_seed, reasoning_seed, seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.e2e.breaking_proxy import BreakingProxy

WAIT_SECONDS = 60.0
TOOL = {"functionDeclarations": [{"name": "look_up", "description": "Looks up.", "parameters": {"type": "OBJECT"}}]}
Json = dict[str, Any]


def client_of(client: Client, url: str = "", token: str = "") -> genai.Client:
    options = types.HttpOptions(base_url=url or client.url)
    return genai.Client(vertexai=False, api_key=token or id_token(client.user), http_options=options)


@pytest.fixture
def sdk(client: Client) -> Iterator[genai.Client]:
    sdk = client_of(client)
    yield sdk
    sdk.close()


def asked(what: str, tokens: int, headers: dict[str, str] | None = None, **config: Any) -> Json:
    """The arguments of a call. What the SDK does not know goes to the demo upstream."""
    known = set(types.GenerateContentConfig.model_fields)
    demo = {"tokens": tokens, **{name: value for name, value in config.items() if name not in known}}
    more = {name: value for name, value in config.items() if name in known}
    options = types.HttpOptions(extra_body={"demo": demo}, headers=headers)
    return {"model": "demo", "contents": what, "config": types.GenerateContentConfig(http_options=options, **more)}


def seed(what: str) -> str:
    return seed_of(question(what, 1)["messages"])


def generation(response: types.GenerateContentResponse) -> str:
    assert response.sdk_http_response is not None
    headers = {name.lower(): value for name, value in (response.sdk_http_response.headers or {}).items()}
    return headers["x-generation-id"]


def parts(response: types.GenerateContentResponse) -> list[types.Part]:
    content = (response.candidates or [])[0].content
    return list(content.parts or []) if content else []


def test_the_google_client_streams(sdk: genai.Client) -> None:
    *said, last = sdk.models.generate_content_stream(**asked("streamed", 40, rate=200))
    assert "".join(each.text or "" for each in said) == text(seed("streamed"), 40)
    assert last.candidates[0].finish_reason == types.FinishReason.STOP
    assert (last.usage_metadata.prompt_token_count > 0, last.usage_metadata.candidates_token_count) == (True, 40)
    assert last.model_version == "demo"


def test_the_google_client_gets_an_answer_that_is_not_streamed(sdk: genai.Client) -> None:
    whole = sdk.models.generate_content(**asked("whole", 40, rate=0))
    assert (whole.text, whole.candidates[0].finish_reason) == (text(seed("whole"), 40), types.FinishReason.STOP)
    assert whole.usage_metadata.candidates_token_count == 40


def test_the_google_client_s_limit_is_the_upstream_s(sdk: genai.Client) -> None:
    cut = sdk.models.generate_content(**asked("cut", 40, rate=0, max_output_tokens=10))
    assert (cut.text, cut.candidates[0].finish_reason) == (text(seed("cut"), 10), types.FinishReason.MAX_TOKENS)


@pytest.mark.parametrize("kind", ["stream_despite_json", "json_despite_stream"])
def test_an_answer_in_the_other_form_is_given_to_the_google_client_in_the_one_it_asked_for(
    sdk: genai.Client, kind: str
) -> None:
    asking = asked("other", 20, rate=0, fault=kind, tool_calls=2, reasoning=5, tools=[TOOL])
    streamed = [part for each in sdk.models.generate_content_stream(**asking) for part in parts(each)]
    whole = parts(sdk.models.generate_content(**asking))
    assert [part.function_call for part in streamed if part.function_call] == [
        part.function_call for part in whole if part.function_call
    ]
    assert whole[0].thought
    assert whole[0].text == "".join(part.text for part in streamed if part.thought)
    assert [bool(part.thought_signature) for part in whole] == [False, True, False, True]


def test_the_token_may_come_as_a_google_key_or_as_a_bearer_token(client: Client) -> None:
    token = id_token(client.user)
    body = {"contents": [{"parts": [{"text": "keys"}]}], "demo": {"rate": 0, "tokens": 5}}
    url = f"{client.url}/v1beta/models/demo:generateContent"
    for headers in ({"x-goog-api-key": token}, {"Authorization": f"Bearer {token}"}):
        answered = requests.post(url, json=body, headers=headers, timeout=WAIT_SECONDS)
        assert (answered.status_code, answered.json()["candidates"][0]["finishReason"]) == (200, "STOP")


def test_keep_alives_in_a_silence_are_empty_lines_and_all_else_is_data(sdk: genai.Client, client: Client) -> None:
    stall = {"kind": "stall", "at": 20, "seconds": 2}
    said = sdk.models.generate_content_stream(**asked("silence", 40, rate=0, fault=stall))
    assert "".join(each.text or "" for each in said) == text(seed("silence"), 40)
    body = {"contents": [{"parts": [{"text": "silence"}]}], "demo": {"rate": 0, "tokens": 40, "fault": stall}}
    wire = client.request("POST", "/v1beta/models/demo:streamGenerateContent?alt=sse", json=body).text
    lines = wire.split("\n")
    assert {line[:6] for line in lines} == {"", "data: "}
    frames = [line for line in lines if line]
    assert len(lines) - 1 > 2 * len(frames) + 1  # more empty lines than those between the frames
    assert json.loads(frames[-1][6:])["candidates"][0]["finishReason"] == "STOP"


def test_thoughts_and_function_calls_come_with_their_signatures(
    sdk: genai.Client, client: Client, database: firestore.Client
) -> None:
    thinking = types.ThinkingConfig(include_thoughts=True)
    asking = asked("thinks", 12, rate=0, tool_calls=2, tools=[TOOL], thinking_config=thinking)
    responses = list(sdk.models.generate_content_stream(**asking))
    streamed = [part for each in responses for part in parts(each)]
    thoughts = "".join(part.text or "" for part in streamed if part.thought)
    assert thoughts == text(reasoning_seed(seed("thinks")), 20)
    calls = [part for part in streamed if part.function_call]
    assert [(call.function_call.name, call.function_call.args) for call in calls] == [
        ("look_up", json.loads(arguments(seed("thinks"), number, 12))) for number in (0, 1)
    ]
    assert [bool(call.thought_signature) for call in calls] == [True, False]
    its = generation(responses[-1])
    message = database.document(f"users/{client.user}/messages/{its}").get().to_dict()
    assert (message["content"], message["reasoning"], message["finishReason"]) == ("", thoughts, "STOP")
    assert [call["function"]["name"] for call in message["toolCalls"]] == ["look_up", "look_up"]
    assert [json.loads(call["function"]["arguments"]) for call in message["toolCalls"]] == [
        call.function_call.args for call in calls
    ]
    first, second, *_ = [part for part in message["extra"]["content"]["parts"] if "functionCall" in part]
    assert (bool(first["thoughtSignature"]), "thoughtSignature" in second) == (True, False)
    assert message["usage"]["thoughtsTokenCount"] == 20


def test_a_function_loop_goes_on_with_what_the_response_has(sdk: genai.Client) -> None:
    called = sdk.models.generate_content(**asked("loop", 6, rate=0, tool_calls=1, tools=[TOOL]))
    contents = [
        types.UserContent("loop"),
        called.candidates[0].content,
        types.UserContent(types.Part.from_function_response(name="look_up", response={"output": "Found."})),
    ]
    asking = {**asked("loop", 6, rate=0, tool_calls=1, tools=[TOOL]), "contents": contents}
    assert not sdk.models.generate_content(**asking).function_calls


def test_the_google_client_s_own_loop_calls_the_function(sdk: genai.Client) -> None:
    looked: list[str] = []

    def look_up(text: str) -> str:
        """Looks up."""
        looked.append(text)
        return "Found."

    answer = sdk.models.generate_content(**asked("own loop", 6, rate=0, tool_calls=1, tools=[look_up]))
    assert looked == [json.loads(arguments(seed("own loop"), 0, 6))["text"]]
    assert answer.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_blocked_prompt_is_a_complete_answer_without_words(
    sdk: genai.Client, client: Client, database: firestore.Client, stream: bool
) -> None:
    asking = asked("blocked", 5, rate=0, refusal=True)
    if stream:
        (blocked,) = sdk.models.generate_content_stream(**asking)
    else:
        blocked = sdk.models.generate_content(**asking)
    assert (blocked.candidates, blocked.prompt_feedback.block_reason) == (None, types.BlockedReason.PROHIBITED_CONTENT)
    saved = database.document(f"users/{client.user}/messages/{generation(blocked)}").get().to_dict()
    assert (saved["state"], saved["content"], saved["finishReason"]) == ("completed", "", "PROHIBITED_CONTENT")
    assert saved["extra"]["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}


def test_several_candidates_are_told_apart(sdk: genai.Client, client: Client, database: firestore.Client) -> None:
    said: dict[int, str] = {0: "", 1: "", 2: ""}
    for each in sdk.models.generate_content_stream(**asked("several", 20, rate=0, candidate_count=3)):
        for candidate in each.candidates or ():
            for part in candidate.content.parts or ():
                said[candidate.index or 0] += part.text or ""
    expected = [text(choice_seed(seed("several"), number), 20) for number in range(3)]
    assert list(said.values()) == expected
    message = database.document(f"users/{client.user}/messages/{generation(each)}").get().to_dict()
    assert [message["content"], *[other["content"] for other in message["choices"]]] == expected


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("status", "kind", "name"),
    [
        (400, errors.ClientError, "INVALID_ARGUMENT"),
        (404, errors.ClientError, "NOT_FOUND"),
        (429, errors.ClientError, "RESOURCE_EXHAUSTED"),
        (500, errors.ServerError, "INTERNAL"),
        (503, errors.ServerError, "UNAVAILABLE"),
    ],
)
def test_an_upstream_s_refusal_is_the_google_client_s_own_error(
    sdk: genai.Client, status: int, kind: type[errors.APIError], name: str, stream: bool
) -> None:
    asking = asked("refuse", 5, fault={"kind": "refuse", "status": status})
    ask = sdk.models.generate_content_stream if stream else sdk.models.generate_content
    with pytest.raises(kind) as refused:
        list(ask(**asking))
    assert (refused.value.code, refused.value.status) == (status, name)
    assert refused.value.details["error"]["message"] == refused.value.message


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_this_service_s_key_is_no_fault_of_the_google_client_s_user(
    sdk: genai.Client, status: int
) -> None:
    with pytest.raises(errors.ServerError) as refused:
        sdk.models.generate_content(**asked("key", 5, fault={"kind": "refuse", "status": status}))
    assert (refused.value.code, refused.value.status) == (502, "INTERNAL")
    assert refused.value.details["error"]["details"][0]["reason"] == "upstream_key"


def test_a_refusal_of_ours_is_the_google_client_s_own_error(sdk: genai.Client, client: Client) -> None:
    with pytest.raises(errors.ClientError) as wrong:
        sdk.models.generate_content(**asked("wrong", 5, candidate_count=9))
    assert (wrong.value.code, wrong.value.status) == (400, "INVALID_ARGUMENT")
    violation = wrong.value.details["error"]["details"][1]["fieldViolations"][0]
    assert violation["field"] == "generationConfig.candidateCount"
    stranger = client_of(client, token="abc")
    with pytest.raises(errors.ClientError) as nobody:
        stranger.models.generate_content(**asked("nobody", 5))
    assert (nobody.value.code, nobody.value.status) == (401, "UNAUTHENTICATED")
    with pytest.raises(errors.ClientError) as unknown:
        sdk.models.count_tokens(model="demo", contents="Hi")
    assert (unknown.value.code, unknown.value.status) == (404, "NOT_FOUND")
    assert "countTokens" in str(unknown.value.message)


def test_a_stream_that_is_not_asked_for_as_events_is_refused_and_the_field_named(client: Client) -> None:
    body = {"contents": [{"parts": [{"text": "list"}]}]}
    refused = client.request("POST", "/v1beta/models/demo:streamGenerateContent", json=body)
    assert (refused.status_code, refused.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "alt=sse" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"kind": "break", "at": 20}, "upstream_disconnected"), ({"kind": "close", "at": 20}, "upstream_ended_early")],
)
def test_an_answer_that_breaks_off_ends_in_an_error_of_the_google_client(
    sdk: genai.Client, fault: Json, reason: str
) -> None:
    said: list[str] = []
    with pytest.raises(errors.ServerError) as broken:
        said.extend(
            each.text or "" for each in sdk.models.generate_content_stream(**asked("b", 40, rate=0, fault=fault))
        )
    assert broken.value.details["error"]["details"][0]["reason"] == reason


def test_an_error_in_the_middle_of_a_stream_is_passed_on_as_it_came(sdk: genai.Client) -> None:
    fault = {"kind": "error_event", "at": 20}
    said: list[str] = []
    stream = sdk.models.generate_content_stream(**asked("error", 40, rate=0, fault=fault))
    with pytest.raises(errors.ServerError) as broken:
        said.extend(each.text or "" for each in stream)
    assert "".join(said) == text(seed("error"), 20)
    words = "The server had an error while processing your request."
    assert broken.value.details == {"error": {"code": 500, "message": words, "status": "INTERNAL"}}


@pytest.mark.parametrize("kind", ["crlf", "no_space", "multi_line", "comments", "gzip", "split", "big_event"])
def test_an_answer_in_any_valid_form_reaches_the_google_client_whole(sdk: genai.Client, kind: str) -> None:
    said = "".join(
        each.text or "" for each in sdk.models.generate_content_stream(**asked("form", 20, rate=0, fault=kind))
    )
    assert said.replace("x" * 1_000_000, "") == text(seed("form"), 20)


@pytest.mark.parametrize("turn", range(4))
def test_a_google_client_that_leaves_at_any_event_comes_back_for_the_rest(
    sdk: genai.Client, client: Client, turn: int
) -> None:
    what = f"leaves {uuid.uuid4().hex}"
    stream = sdk.models.generate_content_stream(**asked(what, 40, rate=100, reasoning=3))
    events = [each for _, each in zip(range(random.Random(turn).randrange(1, 30)), stream, strict=False)]
    stream.close()
    with client.resume(generation(events[0]), after=len(events)) as rest:
        frames = list(rest.frames())
    assert [frame.id for frame in frames] == list(range(len(events) + 1, len(events) + 1 + len(frames)))
    events += [types.GenerateContentResponse.model_validate_json(frame.data) for frame in frames]
    found = [part for each in events for part in parts(each)]
    assert "".join(part.text or "" for part in found if not part.thought) == text(seed(what), 40)
    assert "".join(part.text or "" for part in found if part.thought) == text(reasoning_seed(seed(what)), 3)
    assert [each.candidates[0].finish_reason for each in events if each.candidates[0].finish_reason] == ["STOP"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_google_client_that_asks_again_with_an_idempotency_key_is_no_second_upstream_call(
    client: Client, stack: Stack, upstream_calls: Callable[[str], list[Json]], stream: bool
) -> None:
    what = uuid.uuid4().hex
    asking = asked(what, 30, rate=0, headers={"Idempotency-Key": "k"})
    with BreakingProxy(stack.ports.api_port, after=0, times=1) as breaking:
        sdk = client_of(client, breaking.url)
        ask = sdk.models.generate_content_stream if stream else sdk.models.generate_content
        with pytest.raises(Exception, match="disconnected"):
            list(ask(**asking))
        assert breaking.broken == 1
        answer = ask(**asking)
        said = "".join(each.text or "" for each in (answer if stream else [answer]))
    assert said == text(seed(what), 30)
    assert len(upstream_calls(what)) == 1


def test_an_answer_is_stopped_and_the_google_client_s_stream_ends(sdk: genai.Client, client: Client) -> None:
    stream = sdk.models.generate_content_stream(**asked("stopped", 4000, rate=50))
    begun = [each for _, each in zip(range(3), stream, strict=False)]
    stopped = client.request("POST", f"/v1/generations/{generation(begun[0])}/stop").json()
    said = "".join(each.text or "" for each in [*begun, *stream])
    assert stopped["state"] == "stopped"
    assert text(seed("stopped"), 4000).startswith(said)


def test_a_callable_client_is_answered_by_what_gemini_s_events_mean(client: Client, stack: Stack) -> None:
    settings = {"UPSTREAM_BASE_URL": f"{stack.upstream_url}/v1beta", "UPSTREAM_SPEAKS": "gemini"}
    url = stack.add_functions("google", settings)
    try:
        contents = [{"role": "user", "parts": [{"text": "called"}]}]
        data = {"model": "demo", "contents": contents, "demo": {"rate": 0, "tokens": 20}}
        result = Client(url, client.user).request("POST", "/", json={"data": data}).json()["result"]
    finally:
        stack.end("google-api", "google-worker")
    assert (result["state"], result["content"]) == ("completed", text(seed("called"), 20))
    assert result["usage"]["candidatesTokenCount"] == 20
