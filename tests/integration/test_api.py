"""The public API over HTTP, on the whole stack: what it accepts, how it refuses, and what it saves."""

from __future__ import annotations

import gzip
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import pytest
import requests

from local.client import Client, question
from local.demo_text import arguments, choice_seed, reasoning_seed, seed_of, text
from local.stack import Stack
from local.token import id_token

WAIT_SECONDS = 60.0
LIVE_LIMIT = 60  # what the shared stack is started with
Calls = Callable[[str], list[dict[str, Any]]]


def unique(text: str) -> str:
    return f"{text} {uuid.uuid4().hex[:12]}"


def expected(asked: dict[str, Any]) -> str:
    return text(seed_of(asked["messages"]), asked["max_tokens"])


def message_of(database: Any, client: Client, generation: str) -> dict[str, Any]:
    found: dict[str, Any] = database.document(f"users/{client.user}/messages/{generation}").get().to_dict()
    return found


def refused(answer: requests.Response, status: int, code: str | None = None, param: str | None = None) -> str:
    """Checks that a refusal has OpenAI's shape, and gives its message."""
    error = answer.json()["error"]
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert set(error) == {"message", "type", "code", "param"}
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    message: str = error["message"]
    return message


# Streaming and not


def test_a_stream_has_the_upstreams_events_in_order_each_with_its_number(client: Client, stack: Stack) -> None:
    asked = question(unique("frames"), 30, rate=0, seed="frames")
    direct = requests.post(
        f"{stack.upstream_url}/v1/chat/completions",
        json={"model": "demo", "stream": True, "stream_options": {"include_usage": True}, **asked},
        timeout=WAIT_SECONDS,
    )
    sent = [line.removeprefix("data: ") for line in direct.content.decode().split("\n\n") if line]
    asked["stream_options"] = {"include_usage": True}
    with client.stream(asked) as stream:
        frames = list(stream.frames())
        headers = stream.response.headers
    assert [timeless(frame.data) for frame in frames] == [timeless(each) for each in sent]
    assert [frame.id for frame in frames] == [*range(1, 34), None]
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Location"] == f"/v1/generations/{headers['X-Generation-Id']}"


def timeless(data: str) -> str:
    """A payload without the second it was made in."""
    before, mark, rest = data.partition('"created":')
    return before + mark + rest.lstrip("0123456789")


def test_an_answer_that_is_not_streamed_is_the_upstreams_own_body(client: Client, upstream_calls: Calls) -> None:
    asked = question(unique("whole"), 25, rate=0)
    answer = client.complete(asked)
    completion = answer.json()
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"] == expected(asked)
    assert completion["usage"]["completion_tokens"] == 25
    assert upstream_calls(asked["messages"][0]["content"])[0]["request"] == {"model": "demo", **asked}


def test_the_body_reaches_the_upstream_unchanged_but_that_a_stream_tells_its_usage(
    client: Client, upstream_calls: Calls
) -> None:
    asked = question(unique("unchanged"), 3, rate=0) | {
        "temperature": 0.30000000000000004,
        "metadata": {"ünï": ["☃", None, 1e-7, 12345678901234567]},
        "stream_options": {"include_obfuscation": False},
    }
    with client.stream(asked) as stream:
        assert list(stream.frames())[-1].data == "[DONE]"
    (call,) = upstream_calls(asked["messages"][0]["content"])
    options = {"include_obfuscation": False, "include_usage": True}
    assert call["request"] == {"model": "demo", "stream": True, **asked, "stream_options": options}


def test_usage_is_saved_and_its_chunk_sent_only_where_it_was_asked_for(client: Client, database: Any) -> None:
    asked = question(unique("usage"), 10, rate=0)
    with client.stream(asked) as stream:
        without = list(stream.frames())
    with client.stream({**asked, "stream_options": {"include_usage": True}}) as told:
        with_usage = list(told.frames())
    assert len(with_usage) == len(without) + 1
    assert '"choices":[]' in with_usage[-2].data
    for each in (stream, told):
        assert client.show(each.generation)["usage"]["completion_tokens"] == 10
        assert message_of(database, client, each.generation)["usage"]["completion_tokens"] == 10


def test_an_upstream_that_answers_otherwise_than_asked_is_turned_into_what_was_asked(client: Client) -> None:
    asked = question(unique("otherwise"), 12, rate=0, fault="json_despite_stream")
    with client.stream(asked) as stream:
        *frames, done = stream.frames()
    assert "".join(frame.text for frame in frames) == expected(asked)
    assert done.data == "[DONE]"

    asked = question(unique("otherwise"), 12, rate=0, fault="stream_despite_json")
    completion = client.complete(asked).json()
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"] == expected(asked)
    assert completion["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    "fault",
    [
        "null_error",
        "crlf",
        "no_space",
        "multi_line",
        "comments",
        "gzip",
        "no_done",
        "done_in_text",
        {"kind": "split", "bytes": 1},
        {"kind": "split", "bytes": 7},
    ],
    ids=str,
)
def test_a_stream_is_read_whole_however_it_is_written(client: Client, database: Any, fault: Any) -> None:
    asked = question(unique("framing"), 40, rate=0, fault=fault)
    with client.stream(asked) as stream:
        *frames, done = stream.frames()
    assert done.data == "[DONE]"
    said = "".join(frame.text for frame in frames)
    message = message_of(database, client, stream.generation)
    assert (message["state"], message["content"]) == ("completed", said)
    if fault == "done_in_text":
        assert "data: [DONE]" in said
    else:
        assert said == expected(asked)


@pytest.mark.parametrize("incompressible", [False, True])
def test_an_event_of_a_megabyte_passes_whole(client: Client, database: Any, incompressible: bool) -> None:
    fault = {"kind": "big_event", "bytes": 1_000_000, "incompressible": incompressible}
    asked = question(unique("big"), 20, rate=0, fault=fault)
    with client.stream(asked) as stream:
        *frames, _ = stream.frames()
    with client.resume(stream.generation, 0) as again:
        *replayed, _ = again.frames()
    assert replayed == frames
    said = "".join(frame.text for frame in frames)
    assert len(said) > 1_000_000
    message = message_of(database, client, stream.generation)
    path = f"users/{client.user}/messages/{stream.generation}/holdfastParts"
    parts = [database.document(f"{path}/{part}").get().get("text") for part in message["parts"]]
    assert message["content"] + "".join(parts) == said


# The message document


def test_the_message_is_there_from_the_first_moment_and_grows_into_its_final_form(
    client: Client, database: Any, eventually: Callable[..., None]
) -> None:
    asked = question(unique("message"), 20, rate=100, first_token_delay=0.5)
    database.document(f"users/{client.user}/chats/c1").set({"title": "mine"})
    reference = database.document(f"users/{client.user}/chats/c1/messages/m1")
    seen: list[dict[str, Any]] = []
    listening = threading.Event()

    def on_change(documents: Any, *_: Any) -> None:
        seen.extend(each.to_dict() for each in documents if each.exists)
        listening.set()

    watch = reference.on_snapshot(on_change)
    # A change before a first answer can kill the listener in the emulator, and Google's client then says nothing.
    assert listening.wait(WAIT_SECONDS)
    with client.stream(asked, X_Chat_Id="c1", X_Message_Id="m1") as stream:
        list(stream.frames())
    deadline = time.monotonic() + WAIT_SECONDS
    while not seen or seen[-1]["state"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    watch.unsubscribe()

    states = [each["state"] for each in seen]
    assert states == sorted(states, key=["queued", "streaming", "completed"].index)
    final = reference.get().to_dict()
    assert final["role"] == "assistant"
    assert final["content"] == expected(asked)
    assert final["finishReason"] == "length"
    assert final["model"] == "demo"
    assert final["generationId"] == stream.generation
    assert final["createdAt"] <= final["finishedAt"] == final["updatedAt"]
    assert (final["error"], final["reason"], final["stoppedBy"], final["parts"]) == (None, None, None, [])
    chat = database.document(f"users/{client.user}/chats/c1")
    eventually(lambda: (chat.get().to_dict().get("lastMessageAt") or final["createdAt"]) > final["createdAt"])
    assert chat.get().get("title") == "mine"


def test_a_chat_that_is_not_there_is_not_made(client: Client, database: Any) -> None:
    client.complete(question(unique("no chat"), 3, rate=0), X_Chat_Id="nowhere")
    assert not database.document(f"users/{client.user}/chats/nowhere").get().exists


@pytest.mark.parametrize("streamed", [True, False])
def test_tool_calls_reasoning_refusals_and_choices_are_saved_as_parts(
    client: Client, database: Any, streamed: bool
) -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("look", "leap")]

    def saved(asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if streamed:
            with client.stream(asked) as stream:
                list(stream.frames())
            generation = stream.generation
        else:
            generation = client.complete(asked).headers["X-Generation-Id"]
        return seed_of(asked["messages"]), message_of(database, client, generation)

    seed, message = saved({**question(unique("tools"), 6, rate=0, tool_calls=2), "tools": tools})
    assert [call["function"]["name"] for call in message["toolCalls"]] == ["look", "leap"]
    assert [call["function"]["arguments"] for call in message["toolCalls"]] == [
        arguments(seed, call, 6) for call in range(2)
    ]
    assert message["finishReason"] == "tool_calls"

    seed, message = saved(question(unique("reason"), 6, rate=0, reasoning=9))
    assert (message["reasoning"], message["content"]) == (text(reasoning_seed(seed), 9), text(seed, 6))

    seed, message = saved(question(unique("refuse"), 6, rate=0, refusal=True))
    assert (message["refusal"], message["content"]) == (text(seed, 6), "")

    seed, message = saved({**question(unique("choices"), 6, rate=0), "n": 3})
    assert message["content"] == text(seed, 6)
    assert [(each["index"], each["content"]) for each in message["choices"]] == [
        (choice, text(choice_seed(seed, choice), 6)) for choice in (1, 2)
    ]


def test_a_start_names_its_generation_as_the_request_s_id(client: Client) -> None:
    answer = client.complete(question(unique("id"), 3, rate=0))
    assert answer.headers["X-Request-Id"] == answer.headers["X-Generation-Id"]


def test_a_compressed_body_is_refused_with_the_remedy(client: Client) -> None:
    answer = client.request(
        "POST",
        "/v1/chat/completions",
        data=gzip.compress(b"{}"),
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    assert "Content-Encoding" in refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/v1beta/v1beta/models/demo:generateContent", "/v1beta/models/demo:generateContent"),
        ("/models/demo:generateContent", "/v1/models/demo:generateContent"),
        ("/v1/v1/generations/abc", "/v1/generations/abc"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
    ],
)
def test_a_path_that_is_nearly_right_is_answered_with_the_right_one(client: Client, path: str, meant: str) -> None:
    assert f"Did you mean {meant}?" in refused(client.request("POST", path, json={}), 404, "no_such_route")


def test_a_wrong_method_is_answered_with_the_right_one(client: Client) -> None:
    answer = client.request("GET", "/v1/chat/completions")
    assert "It takes" in refused(answer, 405, "no_such_route")
    assert "POST" in answer.headers["Allow"]


def test_a_model_can_be_asked_for_by_its_name(client: Client) -> None:
    model = client.request("GET", "/v1/models/gpt-any/model:free").json()
    assert (model["id"], model["object"]) == ("gpt-any/model:free", "model")
    assert "There is no model" in refused(client.request("GET", "/v1/models/none"), 404, "model_not_found")


@pytest.mark.parametrize("how", [{"X-Bare-Events": "1"}, {}], ids=["header", "query"])
def test_a_client_that_knows_lines_of_data_alone_gets_no_others(client: Client, how: dict[str, str]) -> None:
    path = "/v1/chat/completions" + ("" if how else "?bare_events=true")
    asked = {"model": "demo", "stream": True, **question(unique("bare"), 5, rate=0)}
    answer = client.request("POST", path, json=asked, headers=how)
    lines = answer.text.split("\n")  # a text may have other line ends, which end no line of a stream
    assert lines[-3:] == ["data: [DONE]", "", ""]
    assert all(line == "" or line.startswith("data: ") for line in lines)


# The same request again


@pytest.mark.parametrize(
    "ids", [{"Idempotency_Key": "k1"}, {"X_Chat_Id": "c", "X_Message_Id": "m"}], ids=["key", "chat and message"]
)
def test_the_same_request_again_attaches_and_makes_no_second_upstream_call(
    client: Client, upstream_calls: Calls, ids: dict[str, str]
) -> None:
    asked = question(unique("again"), 60, rate=100)
    with client.stream(asked, **ids) as first, client.stream(asked, **ids) as second:
        frames = list(first.frames())
        assert list(second.frames()) == frames
    with client.stream(asked, **ids) as late:
        assert list(late.frames()) == frames
    assert first.generation == second.generation == late.generation
    assert len(upstream_calls(asked["messages"][0]["content"])) == 1


def test_another_body_under_the_same_key_is_another_answer(client: Client) -> None:
    first = client.complete(question(unique("step one"), 3, rate=0), Idempotency_Key="k1")
    second = client.complete(question(unique("step two"), 3, rate=0), Idempotency_Key="k1")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.headers["X-Generation-Id"] != second.headers["X-Generation-Id"]


def test_another_body_under_the_same_message_id_is_a_conflict_that_no_retry_mends(client: Client) -> None:
    ids = {"X_Chat_Id": "c", "X_Message_Id": "m"}
    assert client.complete(question(unique("one"), 3, rate=0), **ids).status_code == 200
    other = client.complete(question(unique("other"), 5), **ids)
    assert "another request" in refused(other, 409, "message_exists", "X-Message-Id")
    assert other.headers["X-Should-Retry"] == "false"


def test_the_same_key_in_another_chat_is_a_conflict_that_names_the_header(client: Client) -> None:
    asked = question(unique("place"), 3, rate=0)
    assert client.complete(asked, Idempotency_Key="k1", X_Chat_Id="c").status_code == 200
    elsewhere = client.complete(asked, Idempotency_Key="k1", X_Chat_Id="other")
    refused(elsewhere, 409, "idempotency_conflict", "X-Chat-Id")
    nowhere = client.complete(asked, Idempotency_Key="k1")
    refused(nowhere, 409, "idempotency_conflict", "X-Chat-Id")


def test_a_key_is_its_users_own(client: Client, stack: Stack) -> None:
    asked = question(unique("own"), 3, rate=0)
    other = Client(stack.url, client.user + "-other")
    mine = client.complete(asked, Idempotency_Key="k").headers["X-Generation-Id"]
    assert other.complete(asked, Idempotency_Key="k").headers["X-Generation-Id"] != mine
    refused(other.request("GET", f"/v1/generations/{mine}"), 404, "generation_not_found")


# Generations


def test_a_generations_json_says_what_it_is(client: Client) -> None:
    generation = client.complete(question(unique("json"), 5, rate=0), X_Chat_Id="c", X_Message_Id="m").headers[
        "X-Generation-Id"
    ]
    shown = client.show(generation)
    times = [shown.pop(name) for name in ("createdAt", "startedAt", "finishedAt", "expireAt")]
    assert times == sorted(times)
    assert shown.pop("usage")["completion_tokens"] == 5
    assert shown == {
        "id": generation,
        "object": "generation",
        "state": "completed",
        "reason": None,
        "chatId": "c",
        "messageId": "m",
        "model": "demo",
        "lastSeq": 1,
        "attempt": 1,
        "error": None,
        "turn": None,
        "parent": None,
        "replaces": None,
    }


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_stream_resumes_after_the_cursor(client: Client, how: str) -> None:
    with client.stream(question(unique("resume"), 20, rate=0)) as stream:
        frames = list(stream.frames())
    for after in (0, 1, 13, 21, 22):
        answer = client.request(
            "GET",
            f"/v1/generations/{stream.generation}",
            headers={"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if how == "header" else {}),
            params={"after": after} if how == "query" else {},
            stream=True,
        )
        assert list(type(stream)(answer).frames()) == frames[after:]


@pytest.mark.parametrize("cursor", ["-1", "x", "1.5", "23", "999999999999999999999", "１"])
def test_a_cursor_that_is_none_is_refused(client: Client, cursor: str) -> None:
    with client.stream(question(unique("cursor"), 20, rate=0)) as stream:
        list(stream.frames())
    answer = client.request(
        "GET",
        f"/v1/generations/{stream.generation}",
        headers={"Accept": "text/event-stream"},
        params={"after": cursor},
    )
    assert "from 0 to 22" in refused(answer, 400, "invalid_cursor", "after")


def test_a_list_finds_what_runs_newest_first_and_page_by_page(client: Client) -> None:
    ended = [client.complete(question(unique("list"), 2, rate=0), X_Chat_Id="a") for _ in range(3)]
    with client.stream(question(unique("list"), 500, rate=50), X_Chat_Id="b") as stream:
        running = list(client.list(state="queued,streaming"))
        assert [each["id"] for each in running] == [stream.generation]
        newest_first = [stream.generation, *reversed([each.headers["X-Generation-Id"] for each in ended])]
        assert [each["id"] for each in client.list()] == newest_first
        assert [each["id"] for each in client.list(chat_id="a", state="completed")] == newest_first[1:]

        page = client.request("GET", "/v1/generations", params={"limit": 3}).json()
        assert [each["id"] for each in page["data"]] == newest_first[:3]
        rest = client.request("GET", "/v1/generations", params={"limit": 3, "cursor": page["next"]}).json()
        assert [each["id"] for each in rest["data"]] == newest_first[3:]
        assert rest["next"] is None
        client.request("POST", f"/v1/generations/{stream.generation}/stop")


@pytest.mark.parametrize(
    ("params", "param"),
    [({"limit": "0"}, "limit"), ({"limit": "x"}, "limit"), ({"state": "lost"}, "state"), ({"cursor": "zz"}, "cursor")],
    ids=str,
)
def test_a_list_refuses_what_it_cant_take(client: Client, params: dict[str, str], param: str) -> None:
    refused(client.request("GET", "/v1/generations", params=params), 400, param=param)


# Stop and delete


@pytest.mark.parametrize("silent", [False, True], ids=["speaking", "silent"])
def test_a_stop_saves_what_there_is_and_ends_every_viewers_stream_in_order(
    client: Client, database: Any, upstream_calls: Calls, silent: bool
) -> None:
    what = unique("stop")
    fault = {"fault": {"kind": "stall", "at": 20}} if silent else {}
    asked = question(what, 2000, rate=100, **fault)
    with client.stream(asked) as stream:
        frames = stream.frames()
        first = [next(frames) for _ in range(20)]
        with client.resume(stream.generation, 0) as viewer:
            answer = client.request("POST", f"/v1/generations/{stream.generation}/stop")
            rest, seen = list(frames), list(viewer.frames())
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["reason"]) == ("stopped", "stopped")
    assert first + rest == seen
    assert seen[-1].data == "[DONE]"
    message = message_of(database, client, stream.generation)
    said = "".join(frame.text for frame in seen[:-1])
    assert (message["state"], message["stoppedBy"], message["content"]) == ("stopped", "user", said)
    assert expected(asked).startswith(said)
    deadline = time.monotonic() + WAIT_SECONDS
    while not upstream_calls(what)[0]["client_gone"]:
        assert time.monotonic() < deadline, "the upstream was not told"
        time.sleep(0.05)
    refused(client.request("POST", f"/v1/generations/{stream.generation}/stop"), 409, "generation_ended")


def test_a_stop_while_the_upstream_has_not_answered_yet_takes_effect(client: Client) -> None:
    asked = question(unique("early stop"), 10, first_byte_delay=20)
    answers: list[Any] = []
    # The status line waits for the upstream, so the stop comes from beside.
    reading = Thread(target=lambda: answers.append(list(client.stream(asked, X_Chat_Id="early").frames())))
    reading.start()
    deadline = time.monotonic() + WAIT_SECONDS
    while not (running := list(client.list(chat_id="early", state="streaming"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stopped = client.request("POST", f"/v1/generations/{running[0]['id']}/stop").json()
    reading.join(WAIT_SECONDS)
    assert stopped["state"] == "stopped"
    assert [frame.data for frame in answers[0]] == ["[DONE]"]


def test_there_is_no_stopping_what_is_not_there_or_is_anothers(client: Client, stack: Stack) -> None:
    with client.stream(question(unique("mine"), 300, rate=50)) as stream:
        other = Client(stack.url, client.user + "-other")
        for method, path in (("POST", "/stop"), ("GET", ""), ("DELETE", "")):
            refused(other.request(method, f"/v1/generations/{stream.generation}{path}"), 404, "generation_not_found")
            refused(client.request(method, f"/v1/generations/{'0' * 32}{path}"), 404, "generation_not_found")
        client.request("POST", f"/v1/generations/{stream.generation}/stop")


@pytest.mark.parametrize("running", [False, True], ids=["ended", "running"])
def test_a_deletion_leaves_nothing_of_a_generation(
    client: Client, database: Any, upstream_calls: Calls, running: bool
) -> None:
    what = unique("delete")
    with client.stream(question(what, 1500, rate=200 if running else 0)) as stream:
        frames = stream.frames()
        if running:
            next(frames)
        else:
            list(frames)
        answer = client.request("DELETE", f"/v1/generations/{stream.generation}")
        assert (answer.status_code, answer.content) == (204, b"")
        if running:
            assert '"generation_deleted"' in list(frames)[-1].data
            deadline = time.monotonic() + WAIT_SECONDS
            while not upstream_calls(what)[0]["client_gone"]:
                assert time.monotonic() < deadline, "the upstream was not told"
                time.sleep(0.05)
    path = f"users/{client.user}/messages/{stream.generation}"
    assert not database.document(path).get().exists
    assert not database.document(f"holdfastGenerations/{stream.generation}").get().exists
    assert database.collection(f"{path}/holdfastJournal").get() == []
    refused(client.request("GET", f"/v1/generations/{stream.generation}"), 404)


# Faults of the upstream


@pytest.mark.parametrize(("status", "calls"), [(400, 1), (404, 1), (429, 3), (500, 3), (503, 3)])
@pytest.mark.parametrize("streamed", [True, False])
def test_an_upstreams_refusal_reaches_the_client_as_it_is(
    stack: Stack, client: Client, database: Any, upstream_calls: Calls, status: int, calls: int, streamed: bool
) -> None:
    what = unique("refuse")
    asked = question(what, 5, fault={"kind": "refuse", "status": status}) | {"stream": streamed}
    direct = requests.post(
        f"{stack.upstream_url}/v1/chat/completions",
        json={"model": "demo", **asked, "messages": [{"role": "user", "content": "direct"}]},
        timeout=WAIT_SECONDS,
    )
    answer = client.complete(asked)
    assert (answer.status_code, answer.content) == (direct.status_code, direct.content)
    assert answer.headers["Content-Type"] == direct.headers["Content-Type"]
    assert len(upstream_calls(what)) == calls
    generation = answer.headers["X-Generation-Id"]
    shown = client.show(generation)
    assert (shown["state"], shown["reason"], shown["lastSeq"]) == ("failed", "upstream_status", 0)
    said = direct.json()["error"]
    assert shown["error"] == {
        "message": said["message"],
        "code": said["code"] or said["type"],
        "param": said["param"],
        "status": status,
    }
    message = message_of(database, client, generation)
    assert (message["state"], message["content"], message["error"]["status"]) == ("failed", "", status)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("streamed", [True, False])
def test_an_upstream_that_refuses_this_services_key_is_no_fault_of_the_clients(
    client: Client, database: Any, upstream_calls: Calls, status: int, streamed: bool
) -> None:
    what = unique("key")
    answer = client.complete(question(what, 5, fault={"kind": "refuse", "status": status}) | {"stream": streamed})
    refused(answer, 502, "upstream_key")
    assert b"refused with status" not in answer.content, "the upstream's words are the operator's"
    assert len(upstream_calls(what)) == 1
    shown = client.show(answer.headers["X-Generation-Id"])
    assert (shown["state"], shown["reason"], shown["error"]["status"]) == ("failed", "upstream_key", 502)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "break", "at": 30}, "upstream_disconnected"),
        ({"kind": "close", "at": 30}, "upstream_ended_early"),
        ({"kind": "error_event", "at": 30}, "upstream_error"),
        ({"kind": "malformed_json", "at": 30}, "upstream_malformed"),
        ({"kind": "invalid_utf8", "at": 30}, "upstream_malformed"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_what_was_read_before_an_upstream_broke_off_is_saved_as_incomplete(
    client: Client, database: Any, fault: dict[str, Any], reason: str
) -> None:
    asked = question(unique("break"), 60, rate=0, fault=fault)
    with client.stream(asked) as stream:
        *frames, last = stream.frames()
    said = "".join(frame.text for frame in frames)
    assert said == text(seed_of(asked["messages"]), 30)
    code = "server_error" if reason == "upstream_error" else reason  # the upstream's own, where it has one
    assert f'"code":"{code}"' in last.data
    shown = client.show(stream.generation)
    assert (shown["state"], shown["reason"], shown["lastSeq"]) == ("incomplete", reason, len(frames))
    message = message_of(database, client, stream.generation)
    assert (message["state"], message["reason"], message["content"]) == ("incomplete", reason, said)
    assert message["error"]["message"]


# Refusals


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/generations"),
        ("GET", "/v1/generations/x"),
        ("POST", "/v1/generations/x/stop"),
        ("DELETE", "/v1/generations/x"),
        ("GET", "/v1/models"),
    ],
)
def test_no_public_route_but_health_is_open(stack: Stack, method: str, path: str) -> None:
    def answer(authorization: str | None) -> requests.Response:
        headers = {"Authorization": authorization} if authorization else {}
        return requests.request(method, stack.url + path, headers=headers, json={}, timeout=WAIT_SECONDS)

    refused(answer(None), 401, "missing_token")
    refused(answer("Basic YTpi"), 401, "malformed_token")
    refused(answer("Bearer x"), 401, "malformed_token")
    refused(answer(f"Bearer {id_token('alice', project='another')}"), 401, "wrong_project")
    assert answer(None).headers["WWW-Authenticate"] == "Bearer"
    assert requests.get(f"{stack.url}/health", timeout=WAIT_SECONDS).json() == {"status": "ok"}


def test_the_worker_lets_only_the_queue_in(stack: Stack) -> None:
    worker = stack.own_url("worker")
    for headers in ({}, {"Authorization": f"Bearer {id_token('alice')}"}):
        assert requests.post(worker, json={}, headers=headers, timeout=WAIT_SECONDS).status_code == 401


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ([], None, "JSON object"),
        ({}, "model", "model"),
        ({"model": "demo"}, "messages", "messages"),
        ({"model": "demo", "messages": []}, "messages", "non-empty"),
        ({"model": "demo", "messages": ["hi"]}, "messages[0]", "object"),
        ({"model": "demo", "messages": [{}], "stream": "yes"}, "stream", "true or false"),
        ({"model": "nope", "messages": [{}]}, "model", "demo, gpt-*"),
    ],
    ids=str,
)
def test_a_body_that_is_no_request_is_refused_by_the_name_of_its_field(
    client: Client, body: Any, param: str | None, words: str
) -> None:
    answer = client.request("POST", "/v1/chat/completions", json=body)
    assert words in refused(answer, 400, param=param)


def test_a_body_that_is_no_json_is_refused_with_the_place(client: Client) -> None:
    def post(body: bytes, kind: str = "application/json") -> requests.Response:
        return client.request("POST", "/v1/chat/completions", data=body, headers={"Content-Type": kind})

    assert "line 2, column 11" in refused(post(b'{\n "model": x}'), 400, "invalid_json")
    refused(post(b""), 400, "invalid_json")
    refused(post(b"\xff"), 400, "invalid_json")
    refused(post(b"{}", "text/plain"), 415, "unsupported_media_type")
    assert "10485760" in refused(post(b" " * (10 << 20) + b"{}"), 413, "request_too_large")


@pytest.mark.parametrize("header", ["X-Chat-Id", "X-Message-Id", "Idempotency-Key"])
@pytest.mark.parametrize("value", ["a/b", "..", ".", "__a__", "x" * 201, "", "\x07"], ids=repr)
def test_an_id_that_firestore_or_a_path_cant_take_is_refused(client: Client, header: str, value: str) -> None:
    headers = {"X-Chat-Id": "c", header: value}
    answer = client.request("POST", "/v1/chat/completions", json={"model": "demo", **question("x", 1)}, headers=headers)
    if value == "\x07":
        assert answer.status_code == 400  # the server refuses such a header before it reaches the function
    else:
        refused(answer, 400, "invalid_id", header)


def test_an_id_may_be_in_any_script(client: Client, database: Any) -> None:
    answer = client.complete(
        question(unique("ids"), 2, rate=0), X_Chat_Id="Räume 漢字".encode(), X_Message_Id="ü".encode()
    )
    assert answer.status_code == 200
    assert database.document(f"users/{client.user}/chats/Räume 漢字/messages/ü").get().exists


def test_a_request_too_large_for_one_document_is_sent_upstream_whole(client: Client, upstream_calls: Calls) -> None:
    what = unique("large") + "é漢" * 600_000
    answer = client.complete(question(what, 3, rate=0))
    assert answer.status_code == 200
    assert len(upstream_calls(what)) == 1


def test_a_user_has_no_more_than_so_many_answers_at_once(client: Client) -> None:
    def start(n: int) -> str:
        stalled = question(unique(f"limit {n}"), 50, rate=100, fault={"kind": "stall", "at": 5})
        own = Client(client.url, client.user)
        with own.session, own.stream(stalled) as stream:
            return stream.generation

    with ThreadPoolExecutor(8) as pool:  # one after the other, the first might have stalled for too long at the end
        running = list(pool.map(start, range(LIVE_LIMIT)))
    asked = question(unique("one more"), 5, rate=0)
    answer = client.complete(asked)
    assert str(LIVE_LIMIT) in refused(answer, 429, "too_many_generations")
    assert int(answer.headers["Retry-After"]) > 0

    client.request("POST", f"/v1/generations/{running[0]}/stop")
    assert client.complete(asked).status_code == 200
    for generation in running[1:]:
        client.request("DELETE", f"/v1/generations/{generation}")


def test_the_models_are_listed_and_patterns_left_out(client: Client) -> None:
    models = client.request("GET", "/v1/models").json()
    assert models["object"] == "list"
    assert [model["id"] for model in models["data"]] == ["demo"]


def test_an_unknown_route_or_method_is_refused_as_json(client: Client) -> None:
    refused(client.request("GET", "/v1/nothing"), 404, "no_such_route")
    answer = client.request("PUT", "/v1/models")
    refused(answer, 405)
    assert "GET" in answer.headers["Allow"]
