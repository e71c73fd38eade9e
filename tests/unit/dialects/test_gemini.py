"""Gemini: what requests ask for, what events mean, and how errors are read and written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lib.dialects import DIALECTS
from lib.dialects.finishing import Ending, ending
from lib.dialects.protocol import Asked, Malformed, Read, folded
from lib.dialects.steps import Fault, File, Finish, Other, Reasoning, Source, Text, ToolCall, Usage
from lib.domain.errors import InvalidRequest, NotFound, StillRunning, TooManyRequests, Unauthenticated
from lib.domain.event import Event

GEMINI = DIALECTS["gemini"]
ASKED = {"model": "gemini-x", "contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
CHOICES, LIMIT = "generationConfig.candidateCount", "generationConfig.maxOutputTokens"
Json = dict[str, Any]


def event(**fields: Any) -> Event:
    return Event(json.dumps(fields).encode())


def said(*parts: Json, **fields: Any) -> Event:
    return event(candidates=[{"content": {"parts": list(parts), "role": "model"}, **fields}])


def read(event: Event) -> Read:
    return GEMINI.reading().read(event)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (ASKED, Asked(model="gemini-x", streamed=False)),
        ({**ASKED, "stream": True, "unheardOf": [1]}, Asked(model="gemini-x", streamed=True)),
        ({**ASKED, "generationConfig": {"candidateCount": 3}}, Asked(model="gemini-x", streamed=False, choices=3)),
        ({**ASKED, "generation_config": {"candidate_count": 3}}, Asked(model="gemini-x", streamed=False, choices=3)),
        (
            {**ASKED, "generationConfig": {"maxOutputTokens": 7}},
            Asked(model="gemini-x", streamed=False, output_tokens=7),
        ),
        ({**ASKED, "generationConfig": None}, Asked(model="gemini-x", streamed=False)),
    ],
)
def test_a_request_says_what_it_asks_for(body: Json, asked: Asked) -> None:
    found = GEMINI.check(body)
    assert found == replace(asked, choices_field=CHOICES, output_tokens_field=LIMIT)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({**ASKED, "model": ""}, "model"),
        ({**ASKED, "contents": []}, "contents"),
        ({**ASKED, "contents": {"parts": []}}, "contents"),
        ({**ASKED, "contents": [{}, "Hi"]}, "contents[1]"),
        ({**ASKED, "stream": "yes"}, "stream"),
        ({**ASKED, "generationConfig": [1]}, "generationConfig"),
        ({**ASKED, "generationConfig": {"candidateCount": 0}}, "generationConfig.candidateCount"),
        ({**ASKED, "generationConfig": {"candidateCount": 9}}, "generationConfig.candidateCount"),
        ({**ASKED, "generationConfig": {"candidateCount": True}}, "generationConfig.candidateCount"),
        ({**ASKED, "generation_config": {"candidate_count": "3"}}, "generationConfig.candidateCount"),
        ({**ASKED, "generationConfig": {"maxOutputTokens": "7"}}, "generationConfig.maxOutputTokens"),
        ({**ASKED, "generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
    ],
)
def test_a_wrong_request_is_refused_and_the_field_named(body: object, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        GEMINI.check(body)
    assert refused.value.param == param


def test_model_and_stream_go_into_the_path_and_out_of_the_body() -> None:
    whole = GEMINI.outgoing({**ASKED, "stream": False}, ask_usage=True)
    assert (whole.path, json.loads(whole.body)) == (
        "/models/gemini-x:generateContent",
        {"contents": ASKED["contents"]},
    )
    streamed = GEMINI.outgoing(GEMINI.streaming(ASKED), ask_usage=False)
    assert streamed.path == "/models/gemini-x:streamGenerateContent?alt=sse"
    assert json.loads(streamed.body) == {"contents": ASKED["contents"]}


def test_a_model_s_name_can_lead_nowhere_else() -> None:
    path = GEMINI.outgoing({**ASKED, "model": "../a b?c=#@001"}, ask_usage=False).path
    assert path == "/models/..%2Fa%20b%3Fc%3D%23@001:generateContent"


CALL = {"name": "look_up", "args": {"a": [1]}}


@pytest.mark.parametrize(
    ("event", "steps"),
    [
        (said({"text": "Hi"}), (Text("Hi"),)),
        (said({"text": ""}), ()),
        (said({"text": "Hm.", "thought": True}), (Reasoning("Hm."),)),
        (said({"text": "Hi", "thought": False, "thoughtSignature": "c2k="}), (Text("Hi"),)),
        (said({"text": "", "thoughtSignature": "c2k="}), ()),
        (said({"thoughtSignature": "c2k="}), ()),
        (said({"functionCall": {**CALL, "id": "f"}}), (ToolCall(-1, "f", "look_up", '{"a":[1]}'),)),
        (said({"functionCall": {"id": "f", "name": "n"}}), (ToolCall(-1, "f", "n", "{}"),)),
        (said({"functionCall": {"id": "f", "name": "n", "willContinue": True}}), (Other(),)),
        (said({"functionCall": {"partialArgs": [{"jsonPath": "$.a"}]}}), (Other(),)),
        (said({"functionCall": {"id": "f", "name": "n", "partialArgs": []}}), (Other(),)),
        (
            said({"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thoughtSignature": "c2k="}),
            (File("data:image/png;base64,AAAA", "image/png"),),
        ),
        (said({"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thought": True}), (Other(),)),
        (
            said({"fileData": {"mimeType": "video/mp4", "fileUri": "https://f.example/v"}}),
            (File("https://f.example/v", "video/mp4"),),
        ),
        (said({"executableCode": {"language": "PYTHON", "code": "1+1"}}), (Other(),)),
        (said({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}}), (Other(),)),
        (said({"unheardOf": 1}), (Other(),)),
        (said({"text": "a"}, {"text": "b", "thought": True}, index=2), (Text("a", 2), Reasoning("b", 2))),
        (
            event(candidates=[{"content": {"parts": [{"text": "a"}]}}, {"content": {"parts": [{"text": "b"}]}}]),
            (Text("a", 0), Text("b", 1)),
        ),
        (said({"text": "a"}, finishReason="STOP"), (Text("a"), Finish("STOP"))),
        (event(candidates=[{"finishReason": "SAFETY", "index": 1}]), (Finish("SAFETY", 1),)),
        (said(finishReason="FINISH_REASON_UNSPECIFIED"), ()),
        (event(candidates=[{"content": {}}]), ()),
        (event(promptFeedback={"blockReason": "SAFETY"}), (Finish("SAFETY"),)),
        (event(promptFeedback={"blockReason": "BLOCK_REASON_UNSPECIFIED"}), ()),
        (event(promptFeedback={"safetyRatings": []}), ()),
        (
            event(promptFeedback={"blockReason": "SAFETY"}, candidates=[{"content": {"parts": [{"text": "a"}]}}]),
            (Text("a"),),
        ),
        (
            said(
                groundingMetadata={
                    "groundingChunks": [{"web": {"uri": "https://w.example", "title": "W"}}, {"maps": {}}, {"web": {}}]
                }
            ),
            (Source("https://w.example", "W"),),
        ),
        (
            event(usageMetadata={"promptTokenCount": 7, "totalTokenCount": None, "promptTokensDetails": [{"x": 1}]}),
            (Usage({"promptTokenCount": 7}),),
        ),
        (event(responseId="r", modelVersion="gemini-x"), ()),
    ],
)
def test_each_event_has_its_meaning_and_is_kept_as_it_came(event: Event, steps: tuple[Any, ...]) -> None:
    its = read(event)
    assert (its.steps, its.kept, its.event) == (steps, True, event)
    assert GEMINI.read(event) == its


def test_a_call_without_an_id_gets_one_that_is_the_same_whenever_it_is_read() -> None:
    first, second = read(said({"functionCall": CALL}, {"functionCall": CALL})).steps
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert (first.id, second.id) == tuple(
        step.id for step in GEMINI.read(said({"functionCall": CALL}, {"functionCall": CALL})).steps
    )
    (other,) = read(said({"functionCall": CALL})).steps
    (third,) = read(said({"functionCall": CALL}, index=1)).steps
    assert len({first.id, second.id, other.id, third.id}) == 4
    message = folded(GEMINI, [said({"functionCall": CALL}, {"functionCall": CALL})]).said().fields
    assert [call["id"] for call in message["toolCalls"]] == [first.id, second.id]


def test_an_event_has_no_name() -> None:
    assert read(Event(said({"text": "Hi"}).data, b"message")).event == said({"text": "Hi"})


@pytest.mark.parametrize(
    "data",
    [
        b"[1]",
        b"no JSON",
        b"{}",
        b'{"choices": [{"index": 0, "delta": {"content": "Hi"}}]}',
        b'{"type": "message_start", "message": {}}',
        b'{"candidates": {"content": {}}}',
        b'{"candidates": [{"content": "Hi"}]}',
        b'{"candidates": [{"content": {"parts": "Hi"}}]}',
    ],
)
def test_what_is_no_event_of_this_api_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(Event(data))


OVERLOADED = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize(
    ("event", "message", "code", "status", "passing"),
    [
        (event(**OVERLOADED), "The model is overloaded.", "UNAVAILABLE", 503, True),
        (event(error={"message": "Later.", "status": "RESOURCE_EXHAUSTED"}), "Later.", "RESOURCE_EXHAUSTED", 429, True),
        (
            event(error={"code": 400, "message": "No.", "status": "INVALID_ARGUMENT"}),
            "No.",
            "INVALID_ARGUMENT",
            400,
            False,
        ),
        (event(error={"code": 418, "message": "No.", "status": "TEAPOT"}), "No.", "418", 418, False),
        (event(error="No."), "No.", "upstream_error", None, False),
        (Event(b"it broke", b"error"), "it broke", "upstream_error", None, False),
        (Event(json.dumps(OVERLOADED).encode(), b"error"), "The model is overloaded.", "UNAVAILABLE", 503, True),
        (Event(json.dumps([OVERLOADED]).encode(), b"error"), "The model is overloaded.", "UNAVAILABLE", 503, True),
    ],
)
def test_an_error_is_the_upstream_s_fault_with_its_status(
    event: Event, message: str, code: str, status: int | None, passing: bool
) -> None:
    its = read(event)
    (fault,) = its.steps
    assert isinstance(fault, Fault)
    assert (fault.message, fault.code, fault.status, fault.passing) == (message, code, status, passing)
    assert its.kept is False


def test_an_error_that_is_null_is_none() -> None:
    event_ = event(candidates=[{"content": {"parts": [{"text": "Hi"}]}}], error=None)
    assert read(event_).steps == (Text("Hi"),)


def test_a_refusal_has_the_upstream_s_words_and_says_whether_it_passes() -> None:
    for body in (OVERLOADED, [OVERLOADED]):
        fault = GEMINI.fault(503, json.dumps(body).encode())
        assert (fault.message, fault.code, fault.status) == ("The model is overloaded.", "UNAVAILABLE", 503)
        assert fault.passing
    assert GEMINI.fault(400, b"<html>").message == "The upstream answered with status 400."


def test_a_refusal_of_this_service_s_key_is_told_from_one_of_the_request() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}
    for details, about_key in (([{"@type": "x"}, info], True), ([{"reason": "OTHER"}, 7], False), (None, False)):
        body = json.dumps({"error": {**error, "details": details}}).encode()
        assert GEMINI.fault(400, body).about_key is about_key


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (InvalidRequest("No."), 400, "INVALID_ARGUMENT"),
        (Unauthenticated("Who?"), 401, "UNAUTHENTICATED"),
        (NotFound("Where?"), 404, "NOT_FOUND"),
        (TooManyRequests("Later."), 429, "RESOURCE_EXHAUSTED"),
        (StillRunning("On and on."), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_an_error_of_ours_is_written_as_google_writes_it(error: Any, code: int, status: str) -> None:
    written = GEMINI.error(error)
    said = json.loads(written.data)["error"]
    assert (written.name, said["code"], said["status"], said["message"]) == (b"", code, status, error.message)
    assert (said["details"][0]["reason"], said["details"][0]["domain"]) == (error.code, "holdfast")
    assert all(isinstance(value, str) for value in said["details"][0]["metadata"].values())


def test_the_wrong_field_is_a_violation() -> None:
    said = json.loads(GEMINI.error(InvalidRequest("No.", param="contents")).data)["error"]
    assert said["details"][1]["fieldViolations"] == [{"field": "contents", "description": "No."}]


def test_an_upstream_s_own_error_is_passed_on_in_one_line_and_one_in_another_shape_is_written_anew() -> None:
    own = json.dumps({"more": 1, **OVERLOADED}, indent=1).encode()
    passed = GEMINI.error(StillRunning("x"), own).data
    assert passed.startswith(b'{"error":')
    assert json.loads(passed) == OVERLOADED
    assert b"\n" not in passed
    for strange in (b'{"error": "No."}', b'{"detail": "No."}', b'{"error": {"message": "No."}}'):
        assert json.loads(GEMINI.error(InvalidRequest("Not so."), strange).data)["error"]["code"] == 400


RESPONSE = {
    "candidates": [
        {
            "content": {
                "parts": [
                    {"text": "Hm.", "thought": True},
                    {"functionCall": CALL, "thoughtSignature": "c2k="},
                    {"text": "Hi"},
                ],
                "role": "model",
            },
            "finishReason": "STOP",
            "index": 0,
        }
    ],
    "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2},
    "modelVersion": "gemini-x-001",
    "responseId": "r",
}


def test_a_whole_body_is_one_event_in_either_form_and_its_own_bytes() -> None:
    body = json.dumps(RESPONSE, indent=1).encode()
    for streamed in (False, True):
        (event,) = GEMINI.events(b"\xef\xbb\xbf" + body.replace(b"\n", b"\r\n"), streamed=streamed)
        assert event == Event(body)
    answer = folded(GEMINI, [event])
    assert (answer.body(), answer.finished) == (body, True)


def test_a_stream_that_comes_as_a_list_is_its_events() -> None:
    events = [said({"text": "H"}), said({"text": "i"}, finishReason="STOP")]
    body = b"[" + b",\n".join(each.data for each in events) + b"]"
    for streamed in (False, True):
        found = GEMINI.events(body, streamed=streamed)
        assert [json.loads(each.data) for each in found] == [json.loads(each.data) for each in events]
    assert json.loads(folded(GEMINI, found).body())["candidates"][0]["content"]["parts"] == [{"text": "Hi"}]
    (fault,) = read(GEMINI.events(json.dumps([OVERLOADED]).encode(), streamed=True)[0]).steps
    assert isinstance(fault, Fault)


@pytest.mark.parametrize("body", [b"[]", b'"Hi"', b"<html>", b"7"])
def test_a_body_that_is_neither_a_response_nor_a_list_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        GEMINI.events(body, streamed=True)


def test_a_character_that_two_events_share_is_whole_in_the_second() -> None:
    reading = GEMINI.reading()
    half = b'{"candidates":[{"content":{"parts":[{"text":"%b"}]},"index":%d}]}'
    first, other, second = (
        reading.read(Event(half % (text, index))) for text, index in ((rb"a\ud83e", 0), (b"b", 1), (rb"\udd8a", 0))
    )
    assert (first.text, other.steps, second.text) == ("a", (Text("b", 1),), "\U0001f98a")


def test_a_silent_answer_is_started_again_and_one_that_has_said_something_is_not() -> None:
    silent = folded(GEMINI, [event(usageMetadata={"promptTokenCount": 7}), said({"text": ""})])
    rest = GEMINI.rest(ASKED, silent, None)
    assert rest is not None
    assert rest.request == ASKED
    assert GEMINI.rest(ASKED, folded(GEMINI, []), None) is not None
    for spoken in (said({"text": "Hi"}), said({"functionCall": CALL}), event(promptFeedback={"blockReason": "SAFETY"})):
        assert GEMINI.rest(ASKED, folded(GEMINI, [spoken]), None) is None


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("STOP", Ending.STOP),
        ("MAX_TOKENS", Ending.LENGTH),
        *[
            (reason, Ending.FILTER)
            for reason in ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY")
        ],
        ("MALFORMED_FUNCTION_CALL", Ending.OTHER),
        ("OTHER", Ending.OTHER),
    ],
)
def test_each_reason_has_its_meaning(reason: str, meaning: Ending) -> None:
    assert ending(reason) is meaning
