"""What real upstreams send, on the whole stack: each row is an example of a kind, from a public report.

Structures are real; texts and ids are invented. Each row is requested as a stream, as a callable, and if it says so as
a unary body. All rows start at once. Unless a row says otherwise, the client gets the upstream's events unchanged.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import pytest
from google.cloud import firestore

from chaos.saved import read_journal
from chaos.stage import errors
from local.client import Client, Frame
from local.ports import Ports
from local.stack import Stack
from tests.conftest import database_of
from tests.e2e.scripted_upstream import DONE, ROLE, Peer, Script, Server, catalog, delta, event

STATUS_WAIT_SECONDS = 55  # enough for all attempts of every row at once, however busy the machine
EARLY_SECONDS = 1  # after which those functions send their own status that are told of a fault when it is too late
LATE_SECONDS = EARLY_SECONDS + 2
LIMIT_SECONDS = 2.5  # longer than the queue's own first pause
MANY = 32_000

Json = dict[str, Any]

HI = ROLE + delta(content="Hel") + delta(content="lo.")
HELLO = "Hello."
STOP = delta("stop")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
IMAGE = "data:image/png;base64," + os.urandom(1_125_000).hex()[:1_500_000]
TOO_LONG = {"message": "Too long by 12 tokens.", "type": "invalid_request_error", "code": "context_length_exceeded"}
EXHAUSTED = {"message": "Resource has been exhausted", "code": 429}
DISCONNECTED = {"code": 502, "message": "Provider disconnected"}
CRASHED = {"message": "model crashed", "code": "E9"}
LATE = {**TOO_LONG, "param": "messages"}
NO_OPTIONS = {"message": "stream_options: Extra inputs are not permitted", "type": "invalid_request_error"}


@dataclass(frozen=True)
class Row:
    """What is sent, and what is right.

    `sends` is a whole event stream, or a script. `kept` has the events that the client gets: those of `sends`, unless
    the row says otherwise. `error` is the upstream's own error object, `code` what apps branch on (this service's
    `reason` unless set), `kept_status` the status that goes with it, `status` that of the stream's response. `message`
    has what an app finds in the message, `body` what a plain request's answer has. `ask` are further fields of the
    request, `calls` how often the upstream is called. `rewritten`: an event is not as it came, but says the same.
    `early`: its response has its status before the upstream's comes.
    """

    name: str
    sends: bytes | Script
    state: str = "completed"
    reason: str | None = None
    _: KW_ONLY
    kept: bytes | None = None
    status: int = 200
    error: Mapping[str, Any] | None = None
    code: str | None = None
    kept_status: int = 502
    words: str | None = None
    message: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    ask: Mapping[str, Any] = field(default_factory=dict)
    upstream: str = "scripted"
    calls: int = 1
    rewritten: bool = False
    early: bool = False

    @property
    def script(self) -> Script:
        sends = self.sends
        return (lambda peer: peer.stream(sends)) if isinstance(sends, bytes) else sends

    @property
    def events(self) -> list[str]:
        """The data of each event that the client gets."""
        kept = self.kept if self.kept is not None else self.sends
        assert isinstance(kept, bytes), f"{self.name}: say which events are kept"
        found = [each.removeprefix("data: ") for each in kept.decode().split("\n\n")[:-1]]
        return [data for data in found if data != "[DONE]"]

    @property
    def in_words(self) -> str | None:
        return self.words or (self.error or {}).get("message")


def choice(**fields: Any) -> bytes:
    """A chunk with one choice, whose fields these are."""
    return event(choices=[{"index": 0, **fields}])


def whole(**fields: Any) -> str:
    """A completion in one body."""
    message = {"role": "assistant", "content": HELLO}
    return json.dumps({"id": "c1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **fields})


def calls_of(*pieces: Json) -> bytes:
    """An answer whose deltas are these pieces of tool calls."""
    return ROLE + b"".join(delta(tool_calls=[piece]) for piece in pieces) + delta("tool_calls") + DONE


def function(name: str | None, arguments: str, **more: Any) -> Json:
    """A piece of a tool call."""
    return {**more, "function": {**({"name": name} if name else {}), "arguments": arguments}}


def once(script: Script) -> Script:
    """The script for the first call; a good answer for those after it."""

    def play(peer: Peer) -> None:
        if peer.call == 1:
            script(peer)
        else:
            peer.stream(HI, STOP, DONE)

    return play


def in_a_stream(data: bytes) -> Script:
    return lambda peer: peer.stream(data)


def in_one_body(data: str | bytes, content_type: str | None = "application/json", status: str = "200 OK") -> Script:
    return lambda peer: peer.body(data, content_type, status)


def and_a_reset(data: bytes) -> Script:
    """Sends so much of a stream, and resets the connection."""

    def play(peer: Peer) -> None:
        peer.open()
        peer.say(data)
        time.sleep(0.2)  # a reset throws away what was not sent yet
        peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(peer.connection.detach())

    return play


def late(script: Script) -> Script:
    def play(peer: Peer) -> None:
        time.sleep(LATE_SECONDS)
        script(peer)

    return play


def limited(header: str) -> Script:
    """One refusal that says when to come again."""

    def refuse(peer: Peer) -> None:
        peer.head("HTTP/1.1 429 Too Many Requests", header, "Content-Length: 0")

    return once(refuse)


def with_early_hints(peer: Peer) -> None:
    peer.head("HTTP/1.1 103 Early Hints", "Link: </style.css>; rel=preload; as=style")
    peer.stream(HI, STOP, DONE)


def in_brotli(peer: Peer) -> None:
    peer.open("Content-Encoding: br")
    peer.say(b"\x0b\x02\x80Hello\x03")
    peer.end()


def without_options(peer: Peer) -> None:
    if "stream_options" in peer.asked:
        peer.body(json.dumps({"error": NO_OPTIONS}), status="422 Unprocessable Entity")
    else:
        peer.stream(HI, STOP, DONE)


def thought(text: str, **more: Any) -> bytes:
    part = {"type": "reasoning.text", "index": 0, "format": "f-v1", "text": text, **more}
    return delta(reasoning=text, reasoning_details=[part])


def thinking(text: str) -> bytes:
    return delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": text}]}])


SAFE = {"hate": {"filtered": False, "severity": "safe"}}
FILTERED = ROLE + b"".join(
    choice(delta={"content": word}, finish_reason=None, content_filter_results=SAFE) for word in ("Hel", "lo.")
)
LOGGED = b"".join(
    choice(
        delta={"content": f"t{number} "},
        finish_reason=None,
        logprobs={"content": [{"token": f"t{number} ", "logprob": -0.5, "bytes": None, "top_logprobs": []}]},
    )
    for number in range(MANY)
)
SOURCES = {"citations": ["https://a.example/1"], "search_results": [{"title": "One", "url": "https://a.example/1"}]}
PERPLEXITY = b"".join(
    event(choices=[{"index": 0, "delta": {"content": word}, "finish_reason": None}], **SOURCES)
    for word in ("Hel", "lo.")
)
BROKEN = choice(delta={"content": ""}, finish_reason="error", error=DISCONNECTED)
HI_AGAIN = choice(delta={}, message={"role": "assistant", "content": HELLO}, finish_reason="stop")
PICTURE = delta(images=[{"type": "image_url", "index": 0, "image_url": {"url": IMAGE}}])
OSLO = {"id": "fc", "type": "function", "function": {"name": "w", "arguments": '{"city":"Oslo"}'}}

ROWS = [
    # Kind 1: the end is believed too readily
    Row(
        "an SSE field error, then [DONE]",
        b'error: {"message":"exceeds the context size"}\n\n' + DONE,
        "failed",
        "upstream_error",
        kept=b"",
        status=502,
        error={"message": "exceeds the context size"},
    ),
    Row(
        "text, then an event named error, [DONE]",
        HI + b"event: error\ndata: %b\n\n" % json.dumps(CRASHED).encode() + DONE,
        "incomplete",
        "upstream_error",
        kept=HI,
        error=CRASHED,
        code="E9",
    ),
    Row(
        "text, then finish_reason error with an error in the choice, [DONE]",
        HI + BROKEN + DONE,
        "incomplete",
        "upstream_error",
        error=DISCONNECTED,
        code="502",
    ),
    Row(
        "finish_reason error with an error in the choice, before a word: called again by its code",
        once(in_a_stream(BROKEN + DONE)),
        kept=HI + STOP,
        calls=2,
    ),
    Row(
        "finish_reason error with an error in the choice, before a word",
        BROKEN + DONE,
        "failed",
        "upstream_error",
        kept=b"",
        status=502,
        error=DISCONNECTED,
        code="502",
        calls=3,
    ),
    Row(
        "the same in a whole JSON body",
        in_one_body(
            json.dumps(
                {
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": HELLO},
                            "finish_reason": "error",
                            "error": DISCONNECTED,
                        }
                    ]
                }
            )
        ),
        "incomplete",
        "upstream_error",
        kept=event(
            choices=[
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": HELLO},
                    "finish_reason": "error",
                    "error": DISCONNECTED,
                }
            ],
            object="chat.completion.chunk",
        ),
        error=DISCONNECTED,
        code="502",
        body={
            "error": {"message": "Provider disconnected. What was read is saved as incomplete.", "code": "502"},
        },
        rewritten=True,
    ),
    Row(
        "finish_reason error alone",
        HI + delta("error") + DONE,
        "incomplete",
        "upstream_error",
        words="The upstream reported an error.",
    ),
    Row(
        "[DONE] and nothing else",
        DONE,
        "failed",
        "upstream_empty",
        status=502,
        body={"error": {"code": "upstream_empty"}},
        calls=3,
    ),
    Row("[DONE] and nothing else, once", once(in_a_stream(DONE)), kept=HI + STOP, calls=2),
    Row(
        "finish_reason stop in every chunk, then a reset",
        and_a_reset(delta("stop", content="Hel") + delta("stop", content="lo.")),
        "incomplete",
        "upstream_disconnected",
        kept=delta("stop", content="Hel") + delta("stop", content="lo."),
    ),
    Row(
        "finish_reason stop in every chunk, [DONE]", delta("stop", content="Hel") + delta("stop", content="lo.") + DONE
    ),
    Row(
        "finish_reason stop at the end of the reasoning, then text and a reset",
        and_a_reset(delta("stop", reasoning="They greet.") + HI),
        "incomplete",
        "upstream_disconnected",
        kept=delta("stop", reasoning="They greet.") + HI,
        message={"reasoning": "They greet."},
    ),
    Row("an error after a whole answer's finish reason", HI + STOP + event(error=CRASHED) + DONE, kept=HI + STOP),
    # Kind 2: the upstream's words are dropped
    Row(
        "an error with a code as the first event",
        event(error=TOO_LONG) + DONE,
        "failed",
        "upstream_error",
        kept=b"",
        status=502,
        error=TOO_LONG,
        code="context_length_exceeded",
        body={"error": TOO_LONG},
    ),
    Row(
        "an error with a numeric code as the first event",
        event(error={**EXHAUSTED, "code": 402}) + DONE,
        "failed",
        "upstream_error",
        kept=b"",
        status=402,
        kept_status=402,
        error={**EXHAUSTED, "code": 402},
        code="402",
    ),
    Row(
        "an error body under text/event-stream",
        in_one_body(json.dumps({"error": EXHAUSTED}), "text/event-stream"),
        "failed",
        "upstream_error",
        kept=b"",
        status=429,
        kept_status=429,
        error=EXHAUSTED,
        code="429",
        calls=3,
    ),
    Row(
        "an error body under text/event-stream, once",
        once(in_one_body(json.dumps({"error": EXHAUSTED}), "text/event-stream")),
        kept=HI + STOP,
        calls=2,
    ),
    Row(
        "400 after the stream's 200 is out",
        late(in_one_body(json.dumps({"error": LATE}), status="400 Bad Request")),
        "failed",
        "upstream_status",
        kept=b"",
        kept_status=400,
        error=LATE,
        code="context_length_exceeded",
        early=True,
    ),
    Row(
        "422 to stream_options that the client did not send",
        without_options,
        "failed",
        "upstream_status",
        kept=b"",
        status=422,
        kept_status=422,
        error=NO_OPTIONS,
        code="invalid_request_error",
    ),
    Row("the same upstream, usage as_asked", without_options, kept=HI + STOP, upstream="as_asked"),
    Row(
        "the client's own include_usage false",
        HI + STOP + DONE,
        ask={"stream_options": {"include_usage": False}},
    ),
    # Kind 3: strings that are not text are appended
    Row(
        "reasoning_details with a format in each piece",
        thought("Let ") + thought("me ") + thought("see.", signature="c2ln") + HI + STOP + DONE,
        message={
            "reasoning": "Let me see.",
            "extra": {
                "reasoning_details": [
                    {
                        "type": "reasoning.text",
                        "index": 0,
                        "format": "f-v1",
                        "text": "Let me see.",
                        "signature": "c2ln",
                    }
                ]
            },
        },
    ),
    Row(
        "content_filter_results in each chunk",
        FILTERED + STOP + DONE,
        message={"extra": {"content_filter_results": SAFE}},
    ),
    # Kind 4: items of a list are known by their index alone
    Row(
        "two whole tool calls, both index 0",
        calls_of(
            function("w", '{"city":"Oslo"}', index=0, id="a", type="function"),
            function("w", '{"city":"Rome"}', index=0, id="b", type="function"),
        ),
        message={
            "content": "",
            "toolCalls": [
                {"index": 0, **OSLO, "id": "a"},
                {"index": 0, **OSLO, "id": "b", "function": {"name": "w", "arguments": '{"city":"Rome"}'}},
            ],
        },
    ),
    Row(
        "one tool call, index 0, with another id in its second piece",
        calls_of(
            function("w", '{"city":', index=0, id="fc", type="function"), function(None, '"Oslo"}', index=0, id="fd")
        ),
        message={"content": "", "toolCalls": [{"index": 0, **OSLO}]},
    ),
    Row(
        "one tool call without an index anywhere",
        calls_of(function("w", '{"city":', id="fc", type="function"), function(None, '"Oslo"}')),
        message={"content": "", "toolCalls": [OSLO]},
    ),
    Row(
        "thinking as parts of the content, one a token",
        thinking("The user ") + thinking("greets") + HI + STOP + DONE,
        message={"reasoning": "The user greets", "extra": None},
    ),
    Row(
        "32,000 chunks with logprobs",
        LOGGED + STOP + DONE,
        message={"content": "".join(f"t{number} " for number in range(MANY))},
    ),
    # Kind 5: only choices[].delta is looked at
    Row("citations and search_results beside choices", PERPLEXITY + STOP + DONE, message={"extra": SOURCES}),
    Row(
        "a usage chunk, and a plain request",
        HI + STOP + event(choices=[], usage=USAGE) + DONE,
        kept=HI + STOP,  # nobody asked for it in the stream
        message={"usage": USAGE},
        body={"usage": USAGE},
    ),
    Row("a message in the last chunk, after deltas that said it", HI + HI_AGAIN + DONE, body={}),
    Row(
        "a message in the last chunk, never said in deltas",
        ROLE + HI_AGAIN + DONE,
        kept=ROLE + choice(delta={"role": "assistant", "content": HELLO}, finish_reason="stop"),
        body={},
        rewritten=True,
    ),
    Row(
        "usage {} after a real one",
        HI
        + event(choices=[], usage=USAGE)
        + event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage={})
        + DONE,
        ask={"stream_options": {"include_usage": True}},
        message={"usage": USAGE},
    ),
    # Kind 6: one header, or one odd event, decides all
    Row("data: with nothing as a keep-alive", b"data:\n\n" + HI + b"data: \n\n" + STOP + DONE, kept=HI + STOP),
    Row(
        "event: ping with empty data as a keep-alive",
        HI + b"event: ping\ndata:\n\n" + STOP + b"event: ping\ndata:\n\n" + DONE,
        kept=HI + STOP,
    ),
    Row("SSE as application/json", in_one_body(HI + STOP + DONE), kept=HI + STOP),
    Row("SSE as text/plain", in_one_body(HI + STOP + DONE, "text/plain"), kept=HI + STOP),
    Row("SSE without any Content-Type", in_one_body(HI + STOP + DONE, None), kept=HI + STOP),
    Row(
        "a JSON completion as text/event-stream",
        in_one_body(whole(), "text/event-stream"),
        kept=event(
            id="c1",
            choices=[{"index": 0, "finish_reason": "stop", "delta": {"role": "assistant", "content": HELLO}}],
            object="chat.completion.chunk",
        ),
        body=json.loads(whole()),
        rewritten=True,
    ),
    Row("103 Early Hints before the 200", with_early_hints, kept=HI + STOP),
    Row("Retry-After: 2.5", limited("Retry-After: 2.5"), kept=HI + STOP, calls=2),
    Row("retry-after-ms: 2500", limited("retry-after-ms: 2500"), kept=HI + STOP, calls=2),
    Row("Content-Encoding: br, unasked", in_brotli, "failed", "upstream_encoding", kept=b"", status=502),
    Row(
        "an image of 1.5 MB of base64 in one delta",
        HI + PICTURE + STOP + DONE,
        message={"extra": {"images": [{"type": "image_url", "index": 0, "image_url": {"url": IMAGE}}]}},
    ),
]


@dataclass(frozen=True, kw_only=True)
class World:
    """`early_url` has the functions that wait only `EARLY_SECONDS` for an upstream's status."""

    stack: Stack
    early_url: str
    database: firestore.Client
    server: Server


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as held:
        server = held.enter_context(Server(Peer, {row.name: row.script for row in ROWS}))
        url = {"base_url": f"http://{server.address}/v1"}
        upstreams = tmp_path_factory.mktemp("upstreams") / "upstreams.toml"
        upstreams.write_text(catalog({"scripted": url, "as_asked": {**url, "usage": "as_asked"}}))
        settings = {"UPSTREAMS_FILE": str(upstreams), "STATUS_WAIT_SECONDS": str(STATUS_WAIT_SECONDS)}
        environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
        # Not strict: calls are counted, and a claim that a strict Firestore refuses may cost an attempt.
        own = held.enter_context(Stack(Ports.free(), settings, environ, beside=stack))
        early = own.add_functions("early", {"STATUS_WAIT_SECONDS": str(EARLY_SECONDS)})
        yield World(stack=own, early_url=early, database=database_of(own), server=server)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a row: as a stream, as a callable, and in one body where the row is asked for so."""

    status: int
    body: bytes
    live: list[Frame]
    replayed: list[Frame]
    shown: Json
    generation: Json
    message: Json
    final: Json
    kept: list[Frame]
    called: Json
    plain: Json | None
    moments: Sequence[float]
    requests: Sequence[Json]

    @property
    def places(self) -> list[Json]:
        """Where the end is told beside the responses."""
        return [self.shown, self.generation, self.message, self.final]


def message_of(database: firestore.Client, path: str) -> Json:
    """The message as an app puts it together: with the texts that lie in parts."""
    message: Json = database.document(path).get().to_dict()
    for part in message["parts"]:
        found = database.document(f"{path}/holdfastParts/{part}").get().to_dict()
        *outer, last = found["field"].split(".")
        place: Any = message
        for name in outer:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] += found["text"]
    return message


def outcome_of(world: World, row: Row) -> Outcome:
    client = Client(world.early_url if row.early else world.stack.url, f"user-{uuid.uuid4().hex[:12]}")

    def asked(how: str) -> Json:
        messages = [{"role": "user", "content": f"{row.name}, {how}"}]
        return {"model": row.upstream, "messages": messages, "script": row.name, **row.ask}

    with client.session:
        streamed = asked("streamed")
        stream = client.stream(streamed)
        response = stream.response
        live = list(stream.frames()) if response.ok else []
        # At once: the end of the response means that all is saved.
        shown = client.show(stream.generation)
        path = f"users/{client.user}/messages/{stream.generation}"
        head = world.database.document(f"{path}/holdfastJournal/head").get().to_dict()
        with client.resume(stream.generation, 0) as again:
            replayed = list(again.frames())
        called = client.request("POST", "/", json={"data": asked("called")}).json()
        plain = client.complete(asked("plain")).json() if row.body is not None else None
    what = streamed["messages"][0]["content"]
    return Outcome(
        status=response.status_code,
        body=b"" if live else response.content,
        live=live,
        replayed=replayed,
        shown=shown,
        generation=world.database.document(f"holdfastGenerations/{stream.generation}").get().to_dict(),
        message=message_of(world.database, path),
        final=head["final"] or {},
        kept=list(read_journal(world.database, path)),
        called=called,
        plain=plain,
        moments=world.server.moments[what],
        requests=world.server.requests[what],
    )


@pytest.fixture(scope="module")
def outcomes(world: World) -> dict[str, Future[Outcome]]:
    """Of each row, side by side: all have ended before the first test."""
    with ThreadPoolExecutor(len(ROWS)) as pool:
        return {row.name: pool.submit(outcome_of, world, row) for row in ROWS}


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    row: Row = request.param
    return row


@pytest.fixture
def outcome(row: Row, outcomes: dict[str, Future[Outcome]]) -> Outcome:
    return outcomes[row.name].result()


# The promises


def test_every_place_says_how_it_ended(row: Row, outcome: Outcome) -> None:
    for place in outcome.places:
        assert (place["state"], place["reason"]) == (row.state, row.reason)


def test_the_upstream_s_message_code_and_status_are_kept_in_every_place(row: Row, outcome: Outcome) -> None:
    for place in outcome.places:
        error = place["error"]
        if row.state == "completed":
            assert error is None
            continue
        assert (error["code"], error["status"]) == (row.code or row.reason, row.kept_status)
        assert error.get("param") == (row.error or {}).get("param")
        assert row.in_words in (None, error["message"])


def test_the_client_s_frames_are_the_upstream_s_events(row: Row, outcome: Outcome) -> None:
    assert [frame.id for frame in outcome.kept] == list(range(1, outcome.shown["lastSeq"] + 1))
    data = [frame.data for frame in outcome.kept]
    if row.rewritten:
        assert [json.loads(each) for each in data] == [json.loads(each) for each in row.events]
    else:
        assert data == row.events
    *replayed, end = outcome.replayed
    assert replayed == outcome.kept
    if outcome.live:
        assert outcome.live == [*outcome.kept, end]


def test_the_client_is_told_by_the_status_or_by_the_end_of_the_stream(row: Row, outcome: Outcome) -> None:
    assert outcome.status == row.status
    end = outcome.replayed[-1]
    if row.state == "completed":
        assert end == Frame(None, "[DONE]")
        return
    for told in (end.data, outcome.body.decode()):
        error = json.loads(told or end.data)["error"]
        if row.error is not None:
            assert error == row.error
        else:
            assert (error["code"], error["type"]) == (row.reason, "upstream_error")


def test_the_message_has_what_an_app_shows(row: Row, outcome: Outcome) -> None:
    expected = {"content": HELLO if outcome.kept else "", **row.message}
    assert {name: outcome.message.get(name) for name in expected} == expected


def test_a_callable_says_the_same(row: Row, outcome: Outcome) -> None:
    if row.state == "failed":
        error = outcome.called["error"]
        details = error["details"]
        assert (details["state"], details["reason"]) == (row.state, row.reason)
        assert (details["code"], details["upstreamStatus"]) == (row.code or row.reason, row.kept_status)
        assert details["param"] == (row.error or {}).get("param")
        assert row.in_words in (None, error["message"])
        return
    result = outcome.called["result"]
    assert (result["state"], result["reason"]) == (row.state, row.reason)
    assert result["content"] == outcome.message["content"]
    assert result["seq"] == outcome.shown["lastSeq"]


@pytest.mark.parametrize("plain", [row for row in ROWS if row.body is not None], ids=lambda row: row.name)
def test_a_plain_request_gets_it_in_one_body(plain: Row, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[plain.name].result()
    body = outcome.plain
    assert plain.body is not None
    assert body is not None
    if "error" in plain.body:
        assert set(body) == {"error"}
        assert plain.body["error"].items() <= body["error"].items()
        return
    (said,) = body["choices"]
    assert (said["message"]["content"], said["finish_reason"]) == (outcome.message["content"], "stop")
    assert {name: body.get(name) for name in plain.body} == plain.body


def test_the_upstream_is_called_again_only_where_that_can_help(row: Row, outcome: Outcome) -> None:
    assert len(outcome.requests) == row.calls
    assert outcome.shown["attempt"] >= row.calls  # a claim whose commit was answered by nobody costs an attempt


@pytest.mark.parametrize("name", ["Retry-After: 2.5", "retry-after-ms: 2500"])
def test_an_upstream_is_left_alone_for_as_long_as_it_asks(name: str, outcomes: dict[str, Future[Outcome]]) -> None:
    first, second = outcomes[name].result().moments
    assert second - first >= LIMIT_SECONDS


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("[DONE] and nothing else, once", {"include_usage": True}),
        ("the client's own include_usage false", {"include_usage": False}),
        ("usage {} after a real one", {"include_usage": True}),
        ("the same upstream, usage as_asked", None),
    ],
)
def test_a_stream_s_usage_is_asked_for_unless_the_client_or_the_operator_says_otherwise(
    name: str, options: Json | None, outcomes: dict[str, Future[Outcome]]
) -> None:
    for request in outcomes[name].result().requests:
        assert request.get("stream_options") == options


def test_an_image_is_resumed_from_right_before_it(world: World, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes["an image of 1.5 MB of base64 in one delta"].result()
    client = Client(world.stack.url, outcome.generation["owner"])
    with client.session, client.resume(outcome.shown["id"], 3) as rest:
        picture, *after = rest.frames()
    assert json.loads(picture.data)["choices"][0]["delta"]["images"][0]["image_url"]["url"] == IMAGE
    assert [picture, *after] == outcome.live[3:]


@pytest.mark.usefixtures("outcomes")
def test_none_of_it_took_the_service_by_surprise(world: World) -> None:
    for name in ("api", "worker", "early-api", "early-worker"):
        assert errors(world.stack.processes[name].log.read_text()) == []
