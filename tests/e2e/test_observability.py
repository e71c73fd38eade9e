"""The logs, metrics and traces of the whole stack, and that they never contain text from users or models.

One stack has every failure that could leak content: the upstream quotes the prompt in its refusals, Firestore quotes
what it rejects, and gunicorn logs as much as it can.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from grpc import StatusCode

from lib.runtime.logs import FIELDS
from local.client import Client
from local.firestore_proxy.strict import StrictFirestore
from local.ports import HOST, Ports
from local.stack import Stack
from tests.e2e.collector import Collector, Span
from tests.e2e.log_filter import extracted, matches
from tests.receiver import Answer, Receiver

PATIENCE = 60.0
MARK = uuid.uuid4().hex
PROMPT, ANSWER, REFUSAL, KEY, USER, CHAT, TOKEN, QUERY = (
    f"{what}{MARK}" for what in ("prompt", "answer", "refusal", "key", "user", "chat", "token", "query")
)
DENIED, REFUSED = f"denied{MARK}", f"refused{MARK}"
SECRET = f"whsec_{base64.b64encode(MARK.encode()).decode()}"
TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FUNCTIONS = ("api", "worker")
COMMIT_FAILED = "commit failed, will be tried again"
Json = dict[str, Any]


class QuotingFirestore(StrictFirestore):
    """Refuses commits that have a certain word in them, and says in full why."""

    def commit(self, method: str, request: bytes, context: Any) -> bytes:
        quoted = re.sub(r"[^ -~]", " ", request.decode("latin-1"))[:2000]
        if DENIED.encode() in request:
            context.abort(StatusCode.PERMISSION_DENIED, quoted)
        if REFUSED.encode() in request:
            context.abort(StatusCode.INVALID_ARGUMENT, quoted)
        return super().commit(method, request, context)


def event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields).encode()


def delta(finish: str | None = None, **said: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": said, "finish_reason": finish}])


SAID = delta(role="assistant", content="") + delta(content=f"{ANSWER} {PROMPT}")
USAGE = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "quoted": ANSWER})
DONE = b"data: [DONE]\n\n"
CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": ANSWER, "arguments": f'{{"a":"{ANSWER}"}}'},
}
ERROR = {"error": {"message": f"{REFUSAL}: {PROMPT}", "type": "invalid_request_error", "code": REFUSAL}}
BODY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]}
STREAMS = {
    "whole": SAID + delta("stop") + USAGE + DONE,
    "tool": delta(role="assistant", tool_calls=[CALL]) + delta("tool_calls") + DONE,
    "malformed": SAID + f'data: {{"choices": [{ANSWER}\n\n'.encode(),
    "error": SAID + event(**ERROR),
    "cut": SAID,
    "refused": delta(role="assistant", content=REFUSED) + delta("stop") + DONE,
}


class Upstream(ThreadingHTTPServer):
    """Does what the model's name says, with content in everything it says, and keeps the headers of each call."""

    daemon_threads = True

    def __init__(self) -> None:
        self.headers: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        self.over = threading.Event()
        super().__init__((HOST, 0), Calls)
        threading.Thread(target=self.serve_forever, args=[0.1], daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        pass


class Calls(BaseHTTPRequestHandler):
    server: Upstream

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = asked["model"]
        self.server.headers[model].append({name.lower(): value for name, value in self.headers.items()})
        if model == "body":
            self._answer(200, "application/json", json.dumps(BODY).encode())
        elif model == "bad":
            self._answer(400, "application/json", json.dumps(ERROR).encode())
        elif model == "down":
            self._answer(503, "text/html", f"<h1>{REFUSAL}</h1>".encode())
        elif model == "slow":
            self._answer(200, "text/event-stream", SAID, length=False)
            while not self.server.over.wait(0.1):
                self.wfile.write(delta(content=ANSWER))
                self.wfile.flush()
        else:
            self._answer(200, "text/event-stream", STREAMS[model])

    def _answer(self, status: int, media_type: str, body: bytes, length: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        if length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Told:
    """What is left to look at once the stack has been through it all."""

    printed: dict[str, str]
    lines: dict[str, list[Json]]
    spans: list[Span]
    sent: bytes
    whole: str
    upstream: dict[str, list[dict[str, str]]]

    def of(self, service: str, message: str, **fields: Any) -> list[Json]:
        """The lines of one function with these words, and these fields."""
        return [
            line
            for line in self.lines[service]
            if line["message"] == message and all(line.get(name) == value for name, value in fields.items())
        ]


def asked(model: str, prompt: str = PROMPT, **more: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


def begin(client: Client, model: str, **headers: str) -> str:
    """Starts an answer, reads its first event, leaves, and says which it is."""
    with client.stream(asked(model), **headers) as stream:
        next(stream.frames())
        return stream.generation


def go_through_it_all(stack: Stack, firestore: QuotingFirestore) -> str:
    """Every path that has content in its hands. Gives the generation of the answer that is whole."""
    client = Client(stack.url, USER)
    traced = {"traceparent": f"00-{TRACE}-{ABOVE}-01"}
    with client.stream(asked("whole"), X_Chat_Id=CHAT, X_Message_Id=CHAT, Idempotency_Key=CHAT, **traced) as stream:
        assert [frame.data for frame in stream.frames()][-1] == "[DONE]"
        whole = stream.generation
    client.stream(asked("whole"), X_Chat_Id=CHAT, X_Message_Id=CHAT, Idempotency_Key=CHAT).leave()
    statuses = {model: client.complete(asked(model)).status_code for model in ("body", "bad", "tool", "down")}
    assert statuses == {"body": 200, "bad": 400, "tool": 200, "down": 503}
    ends = {}
    for model in ("malformed", "error", "cut", "refused"):
        with client.stream(asked(model)) as stream:
            list(stream.frames())  # none, where all is over before the first one could be saved
            ends[model] = client.wait_until_ended(stream.generation)["state"]
    assert ends == {"malformed": "incomplete", "error": "incomplete", "cut": "incomplete", "refused": "failed"}
    assert client.complete(asked("whole", DENIED)).status_code == 500
    refuse(client)
    call(client)
    assert client.request("POST", f"/v1/generations/{begin(client, 'slow')}/stop").status_code == 200
    assert client.request("DELETE", f"/v1/generations/{begin(client, 'slow')}").status_code == 204
    stumbling = begin(client, "slow")
    firestore.fault(share=0.5)
    deadline = time.monotonic() + PATIENCE
    while COMMIT_FAILED not in stack.processes["worker"].printed:
        assert time.monotonic() < deadline, "no commit failed"
        time.sleep(0.1)
    firestore.fault(share=0.0)
    crash(stack, stumbling, client)
    client.session.close()
    return whole


def refuse(client: Client) -> None:
    """What is not taken, each with something to quote in it."""
    post = {"method": "POST", "path": "/v1/chat/completions"}
    json_body = {"Content-Type": "application/json"}
    statuses = [
        client.request(**post, data=f"{{{PROMPT}", headers=json_body).status_code,
        client.request(**post, json={"model": PROMPT}).status_code,
        client.request(**post, json=asked("whole", temperature=PROMPT, n=PROMPT)).status_code,
        client.request(**post, json=asked("whole", max_tokens=60_000, n=4)).status_code,
        client.request(**post, json=asked("whole"), headers={"Authorization": f"Bearer {TOKEN}"}).status_code,
        client.request("GET", f"/{QUERY}").status_code,
        client.request("GET", "/v1/generations", params={"cursor": QUERY}).status_code,
    ]
    assert statuses == [400, 400, 400, 429, 401, 404, 400]
    host, _, port = client.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nbad {TOKEN}: {TOKEN}\r\n\r\n".encode())
        assert b"400" in raw.recv(100)


def call(client: Client) -> None:
    """The callable wire: whole, streamed, refused."""
    accept = {"Accept": "text/event-stream"}
    assert client.request("POST", "/", json={"data": asked("whole")}).status_code == 200
    assert "result" in client.request("POST", "/", json={"data": asked("tool")}, headers=accept).text
    assert "error" in client.request("POST", "/", json={"data": asked("bad")}, headers=accept).text
    assert client.request("POST", "/", json={"data": {"resume": QUERY, QUERY: 1}}).status_code == 400


def crash(stack: Stack, generation: str, client: Client) -> None:
    """gunicorn's worker process is killed in the middle of an answer."""
    (child,) = psutil.Process(stack.processes["worker"].pid).children()
    child.send_signal(signal.SIGKILL)
    assert client.wait_until_ended(generation)["reason"] == "worker_lost"


@pytest.fixture(scope="module")
def told(stack: Stack) -> Iterator[Told]:
    with ExitStack() as parts:
        collector = parts.enter_context(Collector())
        upstream = Upstream()
        parts.callback(upstream.server_close)
        parts.callback(upstream.shutdown)
        firestore = QuotingFirestore(stack.firestore_host)
        address = parts.enter_context(firestore.serving(0))
        receiver = Receiver(lambda got: Answer(410 if got.json["data"]["state"] == "stopped" else 204))
        parts.callback(receiver.server_close)
        settings = {
            "WEBHOOK_URL": receiver.url,
            "WEBHOOK_SECRETS": SECRET,
            "FIRESTORE_EMULATOR_HOST": address,
            "UPSTREAM_BASE_URL": upstream.base_url,
            "UPSTREAM_API_KEY": KEY,
            "UPSTREAM_TRACEPARENT": "on",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "GUNICORN_LOG_LEVEL": "debug",
            "MAX_ATTEMPTS": "2",
            "LEASE_SECONDS": "2",
            "BUDGET_SERVICE_DAY_TOKENS": "1000000000",
            "BUDGET_USER_DAY_TOKENS": "200000",
        }
        environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
        with Stack(Ports.free(), settings, environ, beside=stack) as own:
            whole = go_through_it_all(own, firestore)
            collector.until(lambda spans: [span for span in spans if span.attributes.get("generation") == whole][2:])
            upstream.over.set()
            for name in FUNCTIONS:
                own.processes[name].terminate()
                own.processes[name].end(time.monotonic() + PATIENCE)
            parts_of_it = {**own.processes, "firestore": stack.processes["firestore"]}
            printed = {name: process.printed for name, process in parts_of_it.items()}
        lines = {name: [json.loads(line) for line in printed[name].splitlines()] for name in FUNCTIONS}
        yield Told(printed, lines, collector.spans, b"".join(collector.bodies), whole, dict(upstream.headers))


CONTENT = (PROMPT, ANSWER, REFUSAL, KEY, SECRET, TOKEN, DENIED, REFUSED)
NAMES = (USER, CHAT, QUERY)  # which Firestore's emulator has in a document's path


def test_no_log_has_a_word_of_what_was_asked_answered_refused_or_presented(told: Told) -> None:
    for name, printed in told.printed.items():
        canaries = (*CONTENT, *NAMES, MARK) if name in FUNCTIONS else CONTENT
        found = [line for line in printed.splitlines() if any(canary in line for canary in canaries)]
        assert not found, (name, found[:3])


def test_what_could_have_told_it_did_come_to_pass(told: Told) -> None:
    """Else the silence would prove nothing."""
    assert {line["state"] for line in told.of("worker", "generation ended")} == {
        "completed",
        "stopped",
        "incomplete",
        "failed",
    }
    reasons = {line.get("reason") for line in told.of("worker", "generation ended")}
    assert reasons >= {"upstream_status", "upstream_malformed", "upstream_error", "worker_lost", "stopped"}
    (denied,) = told.of("api", "request failed")
    assert "google.api_core.exceptions.PermissionDenied" in denied["stack_trace"]
    refused = [line for line in told.lines["worker"] if "InvalidArgument" in line.get("stack_trace", "")]
    assert refused
    gunicorn = {name: [line for line in told.lines[name] if line["logger"] == "gunicorn.error"] for name in FUNCTIONS}
    assert any("Perhaps out of memory" in line["message"] for line in gunicorn["worker"])
    assert any(line["severity"] == "DEBUG" for line in gunicorn["api"])


def test_every_line_of_the_functions_is_one_json_object_as_cloud_logging_takes_it(told: Told) -> None:
    severities = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
    own = {"severity", "time", "message", "logger", "stack_trace", "@type", *FIELDS}
    for name in FUNCTIONS:
        for line in told.lines[name]:
            assert line["severity"] in severities
            assert line["message"]
            assert {key for key in line if not key.startswith("logging.googleapis.com/")} <= own
            labels = line.get("logging.googleapis.com/labels", {})
            assert all(type(value) is str for value in labels.values())


def test_an_error_is_told_as_error_reporting_groups_it(told: Told) -> None:
    (denied,) = told.of("api", "request failed")
    stack = denied["stack_trace"].splitlines()
    assert denied["severity"] == "ERROR"
    assert stack[0] == "Traceback (most recent call last):"
    assert re.fullmatch(r'  File ".*/lib/.*\.py", line \d+, in \w+', next(line for line in stack if "/lib/" in line))
    assert stack[-1] == "google.api_core.exceptions.PermissionDenied"


def test_each_change_of_a_generation_is_one_line_with_its_labels_and_numbers(told: Told) -> None:
    (queued,) = [line for line in told.of("api", "generation queued") if label(line, "generation") == told.whole]
    assert (queued["state"], queued["upstream"]) == ("queued", "default")
    assert queued["bytes"] > 0
    worker = [line for line in told.lines["worker"] if label(line, "generation") == told.whole]
    claimed, ended = (line for line in worker if line["message"].startswith("generation "))
    assert claimed["message"] == "generation claimed"
    assert (claimed["state"], claimed["events"]) == ("streaming", 0)
    assert ended["message"] == "generation ended"
    assert (ended["state"], ended["tokens"], ended["inputTokens"]) == ("completed", 3, 7)
    assert label(claimed, "attempt") == label(ended, "attempt") == "1"
    assert ended["events"] == 3
    assert ended["commits"] >= 2
    assert ended["writes"] >= ended["commits"]
    assert 0 < claimed["waitMs"] <= ended["ttftMs"] <= ended["durationMs"]
    assert 0 < ended["flushMs"] <= ended["flushMaxMs"]


def test_what_was_asked_again_retried_stopped_and_deleted_is_told(told: Told) -> None:
    assert told.of("api", "request repeated", state="completed")
    (again,) = told.of("worker", "generation to be tried again")
    assert (again["reason"], again["status"], label(again, "attempt")) == ("upstream_status", 503, "1")
    assert told.of("worker", "generation ended", state="failed", reason="upstream_status", status=400)
    (stop,) = told.of("api", "stop requested")
    (stopped,) = told.of("worker", "generation ended", state="stopped")
    assert label(stop, "generation") == label(stopped, "generation")
    assert told.of("api", "generation deleted", state="streaming")
    assert [line for line in told.of("api", "last viewer left") if line["changes"] and line["lagMaxMs"] >= 0]


def label(line: Json, name: str) -> str | None:
    labels: dict[str, str] = line.get("logging.googleapis.com/labels", {})
    return labels.get(name)


def test_both_functions_lines_are_of_the_trace_that_the_client_named(told: Told) -> None:
    for name in FUNCTIONS:
        lines = [line for line in told.lines[name] if label(line, "generation") == told.whole]
        of_it = [line for line in lines if line["message"] != "request repeated"]
        assert {line["logging.googleapis.com/trace"] for line in of_it[:2]} == {
            f"projects/demo-holdfast/traces/{TRACE}"
        }
        assert all(line["logging.googleapis.com/trace_sampled"] for line in of_it[:2])


def only(spans: Sequence[Span], name: str) -> Span:
    (span,) = [span for span in spans if span.name == name and span.trace == TRACE]
    return span


def test_one_trace_goes_from_the_client_over_the_queue_to_the_upstream(told: Told) -> None:
    asked, enqueued, task, attempt, upstream = (
        only(told.spans, name) for name in ("POST /v1/chat/completions", "enqueue", "POST /", "attempt", "upstream")
    )
    assert asked.above == ABOVE
    assert [span.above for span in (enqueued, task, attempt, upstream)] == [asked.id, enqueued.id, task.id, attempt.id]
    assert [span.service for span in (asked, enqueued, task, attempt, upstream)] == [
        *["holdfast-api"] * 2,
        *["holdfast-worker"] * 3,
    ]
    assert [span.kind for span in (asked, enqueued, task, upstream)] == ["SERVER", "PRODUCER", "SERVER", "CLIENT"]
    assert asked.attributes["generation"] == attempt.attributes["generation"] == told.whole
    assert (attempt.attributes["attempt"], attempt.attributes["state"]) == (1, "completed")
    traceparents = [headers.get("traceparent") for headers in told.upstream["whole"]]
    assert f"00-{TRACE}-{upstream.id}-01" in traceparents


def test_a_fault_of_the_upstream_is_in_its_span_as_a_code_of_ours(told: Told) -> None:
    failed = [span for span in told.spans if span.name == "upstream" and span.failed]
    assert {span.attributes.get("http.response.status_code") for span in failed} >= {400, 503}


def test_no_span_has_a_word_of_what_was_asked_or_answered(told: Told) -> None:
    assert len(told.spans) > 20
    assert MARK.encode() not in told.sent


METRICS = sorted((Path(__file__).resolve().parents[2] / "monitoring" / "metrics").glob("*.json"))


@pytest.mark.parametrize("path", METRICS, ids=lambda path: path.stem)
def test_every_metric_is_fed_by_lines_that_the_functions_write(told: Told, path: Path) -> None:
    metric = json.loads(path.read_text(encoding="utf-8"))
    fits = matches(metric["filter"])
    found = [line for name in FUNCTIONS for line in told.lines[name] if fits(line)]
    assert found
    if "valueExtractor" in metric:
        assert all(type(extracted(metric["valueExtractor"], line)) in (int, float) for line in found)
    for label, extractor in metric.get("labelExtractors", {}).items():
        assert any(type(extracted(extractor, line)) is str for line in found), label
