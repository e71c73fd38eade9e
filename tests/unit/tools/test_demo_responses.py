"""The demo upstream's answers in Responses say the same as those in chat completions, also in the background."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import openai
import pytest
import requests

from local.demo_text import arguments, reasoning_seed, seed_of, text
from local.demo_upstream import DemoUpstream

WAIT_SECONDS = 20.0
ASKED = {"model": "demo", "input": "Hi"}
SEED = seed_of([{"role": "user", "content": "Hi"}])
TOOLS = {"tools": [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}]}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def running() -> Iterator[DemoUpstream]:
    with DemoUpstream() as running:
        yield running


@pytest.fixture
def upstream(running: DemoUpstream) -> DemoUpstream:
    running.clear()
    return running


def ask(upstream: DemoUpstream, **more: Any) -> requests.Response:
    demo = {"rate": 0, **more.pop("demo", {})}
    return requests.post(f"{upstream.base_url}/responses", json={**ASKED, **more, "demo": demo}, timeout=WAIT_SECONDS)


def about(upstream: DemoUpstream, method: str, name: str, **query: Any) -> requests.Response:
    return requests.request(method, f"{upstream.base_url}/responses/{name}", params=query, timeout=WAIT_SECONDS)


def events(response: requests.Response) -> list[Json]:
    """The events of a stream. Each has its type as its name."""
    return frames(response.content)


def frames(raw: bytes) -> list[Json]:
    found = []
    for frame in raw.decode().removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def kinds(found: list[Json]) -> list[str]:
    return [each["type"].removeprefix("response.") for each in found]


def test_a_stream_begins_has_one_event_a_token_and_ends(upstream: DemoUpstream) -> None:
    found = events(ask(upstream, stream=True, demo={"tokens": 20}))
    first, second, item, part, *deltas, told, part_done, item_done, last = found
    assert kinds([first, second, item, part]) == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds([told, part_done, item_done, last]) == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert (len(deltas), {each["type"] for each in deltas}) == (20, {"response.output_text.delta"})
    assert "".join(each["delta"] for each in deltas) == told["text"] == text(SEED, 20)
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    assert (last["response"]["usage"]["output_tokens"], last["response"]["output"]) == (20, [item_done["item"]])


def test_a_body_is_what_the_stream_ends_with(upstream: DemoUpstream) -> None:
    more = {"demo": {"tokens": 5, "reasoning": 2, "seed": "s"}}
    whole, streamed = ask(upstream, **more).json(), events(ask(upstream, stream=True, **more))[-1]["response"]
    same = ("object", "status", "model", "usage", "error")
    assert {name: whole[name] for name in same} == {name: streamed[name] for name in same}
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    assert whole["output"][0]["summary"][0]["text"] == text(reasoning_seed("s"), 2)
    assert whole["output"][1]["content"] == streamed["output"][1]["content"]


def test_the_limit_only_limits(upstream: DemoUpstream) -> None:
    short = ask(upstream, max_output_tokens=5, demo={"tokens": 20}).json()
    assert (short["status"], short["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert ask(upstream, max_output_tokens=20, demo={"tokens": 20}).json()["status"] == "completed"


def test_tools_are_called_until_their_results_are_there(upstream: DemoUpstream) -> None:
    one, other = ask(upstream, **TOOLS, demo={"tokens": 3, "tool_calls": 2}).json()["output"]
    assert (one["type"], one["name"], one["arguments"]) == ("function_call", "look_up", arguments(SEED, 0, 3))
    found = events(ask(upstream, **TOOLS, stream=True, demo={"tokens": 3, "tool_calls": 2, "seed": SEED}))
    deltas = [each["delta"] for each in found if each["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas) == one["arguments"] + other["arguments"]
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        one,
        {"type": "function_call_output", "call_id": one["call_id"], "output": "7"},
    ]
    (said,) = ask(upstream, **TOOLS, input=given, demo={"tool_calls": 1}).json()["output"]
    assert said["type"] == "message"


def test_a_refusal_is_a_part_of_its_own(upstream: DemoUpstream) -> None:
    (item,) = ask(upstream, demo={"refusal": True, "tokens": 2}).json()["output"]
    assert item["content"] == [{"type": "refusal", "refusal": text(SEED, 2)}]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": ""}, "messages"),
        ({"background": "yes"}, "background"),
        ({"background": True, "store": False}, "store"),
        ({"background": True, "demo": {"fault": "malformed_json"}}, "demo.fault"),
        ({"demo": {"resume": "typo"}}, "demo.fault"),
    ],
)
def test_a_wrong_request_is_refused(upstream: DemoUpstream, more: Json, param: str) -> None:
    refused = ask(upstream, **more)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_an_error_in_the_middle_is_an_event_of_that_name(upstream: DemoUpstream) -> None:
    *_, last = events(ask(upstream, stream=True, demo={"fault": {"kind": "error_event", "at": 3}}))
    assert (last["type"], last["error"]["code"]) == ("error", "server_error")


def test_a_malformed_event_is_no_json(upstream: DemoUpstream) -> None:
    with pytest.raises(json.JSONDecodeError):
        events(ask(upstream, stream=True, demo={"fault": "malformed_json"}))


def test_a_stream_may_lack_its_end_or_the_names_of_its_events(upstream: DemoUpstream) -> None:
    assert kinds(events(ask(upstream, stream=True, demo={"fault": "no_done"})))[-1] == "output_item.done"
    assert b"event:" not in ask(upstream, stream=True, demo={"fault": "unnamed"}).content


def test_a_response_in_the_background_is_read_from_any_place(
    upstream: DemoUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = count(1_700_000_000)
    monkeypatch.setattr("local.demo_responses.time.time", lambda: next(seconds))  # each look at the clock is one later
    found = events(ask(upstream, stream=True, background=True, demo={"tokens": 12}))
    assert kinds(found)[:3] == ["created", "queued", "in_progress"]
    name = found[0]["response"]["id"]
    for after in (0, 5, len(found) - 2):
        rest = events(about(upstream, "GET", name, stream="true", starting_after=after))
        assert rest == found[after + 1 :]
    assert events(about(upstream, "GET", name, stream="true")) == found
    assert about(upstream, "GET", name).json() == found[-1]["response"]
    begun, *others = upstream.calls()
    assert (begun["method"], begun["path"], begun["seed"]) == ("POST", "/v1/responses", SEED)
    assert others[0]["path"] == f"/v1/responses/{name}?stream=true&starting_after=0"
    assert {each["method"] for each in others} == {"GET"}


def test_a_response_in_the_background_goes_on_without_its_connection(upstream: DemoUpstream) -> None:
    demo = {"tokens": 12, "fault": {"kind": "break", "at": 5}}
    first = ask_broken(upstream, background=True, demo=demo)
    name, last = first[0]["response"]["id"], first[-1]["sequence_number"]
    second = frames_of_break(about_broken(upstream, name, last))
    third = events(about(upstream, "GET", name, stream="true", starting_after=second[-1]["sequence_number"]))
    found = [*first, *second, *third]
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    assert "".join(each["delta"] for each in found if each["type"].endswith("text.delta")) == text(SEED, 12)
    assert about(upstream, "GET", name).json()["status"] == "completed"


def ask_broken(upstream: DemoUpstream, **more: Any) -> list[Json]:
    demo = {"rate": 0, **more.pop("demo", {})}
    body = {**ASKED, **more, "stream": True, "demo": demo}
    return frames_of_break(
        requests.post(f"{upstream.base_url}/responses", json=body, stream=True, timeout=WAIT_SECONDS)
    )


def about_broken(upstream: DemoUpstream, name: str, after: int) -> requests.Response:
    query = {"stream": "true", "starting_after": str(after)}
    return requests.get(f"{upstream.base_url}/responses/{name}", params=query, stream=True, timeout=WAIT_SECONDS)


def frames_of_break(response: requests.Response) -> list[Json]:
    """The events before the one in whose middle the body broke off."""
    pieces = []
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        pieces.extend(response.iter_content(None))
    return frames(b"".join(pieces).rpartition(b"\n\n")[0])


def test_calls_that_come_back_may_have_a_fault_of_their_own(upstream: DemoUpstream) -> None:
    demo = {"tokens": 12, "resume": {"status": 503, "times": 1}}
    found = events(ask(upstream, stream=True, background=True, demo=demo))
    name = found[0]["response"]["id"]
    assert about(upstream, "GET", name, stream="true", starting_after=3).status_code == 503
    assert events(about(upstream, "GET", name, stream="true", starting_after=3)) == found[4:]


def test_a_response_in_the_background_is_cancelled_and_its_stream_says_so(upstream: DemoUpstream) -> None:
    demo = {"tokens": 10_000, "rate": 20}
    body = {**ASKED, "background": True, "stream": True, "demo": demo}
    with requests.post(f"{upstream.base_url}/responses", json=body, stream=True, timeout=WAIT_SECONDS) as response:
        lines = response.iter_lines()
        assert next(lines) == b"event: response.created"
        name = json.loads(next(lines).removeprefix(b"data: "))["response"]["id"]
        cancelled = about(upstream, "POST", f"{name}/cancel").json()
        assert (cancelled["id"], cancelled["status"]) == (name, "cancelled")
        assert b"event: response.cancelled" in list(lines)
    assert about(upstream, "GET", name).json()["status"] == "cancelled"
    assert about(upstream, "POST", f"{name}/cancel").json()["status"] == "cancelled"


def test_one_that_is_not_streamed_is_queued_and_can_be_polled(upstream: DemoUpstream) -> None:
    begun = ask(upstream, background=True, demo={"tokens": 3}).json()
    assert (begun["status"], begun["output"]) == ("queued", [])
    events(about(upstream, "GET", begun["id"], stream="true"))
    whole = about(upstream, "GET", begun["id"]).json()
    assert (whole["status"], whole["output"][0]["content"][0]["text"]) == ("completed", text(SEED, 3))


def test_what_is_deleted_or_was_never_there_is_404(upstream: DemoUpstream) -> None:
    name = ask(upstream, background=True).json()["id"]
    assert about(upstream, "DELETE", name).json() == {"id": name, "object": "response", "deleted": True}
    for method, path in (("GET", name), ("DELETE", name), ("POST", f"{name}/cancel"), ("GET", "resp_none")):
        assert about(upstream, method, path).status_code == 404


def test_the_openai_sdk_reads_it(upstream: DemoUpstream) -> None:
    with openai.OpenAI(base_url=upstream.base_url, api_key="k", max_retries=0) as client:
        more = {"extra_body": {"demo": {"tokens": 7, "rate": 0, "reasoning": 3}}}
        with client.responses.stream(model="demo", input="Hi", **more) as stream:  # type: ignore[arg-type]
            seen = [event.type for event in stream]
            whole = stream.get_final_response()
        assert (whole.output_text, seen[-1]) == (text(SEED, 7), "response.completed")
        begun = client.responses.create(model="demo", input="Hi", background=True, **more)  # type: ignore[call-overload]
        again = client.responses.retrieve(begun.id, stream=True, starting_after=2)
        assert [event.sequence_number for event in again][:2] == [3, 4]


def test_the_end_of_the_server_ends_what_is_in_the_background() -> None:
    before = set(threading.enumerate())
    with DemoUpstream() as upstream:
        assert ask(upstream, background=True, demo={"tokens": 100_000, "rate": 1}).json()["status"] == "queued"
    assert not {thread for thread in threading.enumerate() if thread.name == "demo-upstream"} - before
