"""All upstream faults, on the whole stack: the answer's outcome, what the client sees, and what is saved.

One row per fault. Many rows run at once, because the queue's pauses between attempts take most of the time. Then each
promise is checked for each row. A scripted upstream has the faults that the demo upstream does not.
"""

from __future__ import annotations

import json
import os
import re
import socket
import socketserver
import ssl
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.cloud import firestore, tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from chaos.saved import read_journal
from chaos.stage import errors
from local.client import Client, Frame, question
from local.demo_text import seed_of, text
from local.ports import HOST, Ports
from local.stack import Stack
from local.token import PROJECT
from tests.conftest import calls_of, database_of
from tests.e2e.scripted_upstream import DONE, ROLE, SAID, TOKENS, Peer, Script, Server, catalog, delta, event

RESPONSE_SECONDS = 100  # a response that would hang ends by then, and says so
QUIET_SECONDS = 15  # in which all that goes on has to end, once the answers have
STATUS_WAIT_SECONDS = 55  # enough for all attempts of every row at once, however busy the machine
EARLY_SECONDS = 1  # after which those functions send their own status that are told of a fault when it is too late
LIMIT_SECONDS = 3  # longer than the queue's own first pause
ROWS_AT_ONCE = 24  # not so many that a busy machine takes seconds for a claim, which costs an attempt
NEVER = {"first_byte_delay": 3600}
TOO_LATE = {"first_byte_delay": EARLY_SECONDS + 3}
OPEN_AND_SILENT = {"first_token_delay": 3600}
STUCK = {"fault": "stall"}
DONE_FRAME = Frame(None, "[DONE]")
# Exceptions, tracebacks, addresses, the code's own names and values.
INTERNAL = re.compile(r"Traceback|Errno|[a-z](Error|Exception|Timeout)\b|://|\d\.\d+\.\d|[<>{}\[\]_\\]|\bNone\b")


@dataclass(frozen=True)
class Case:
    """A fault, and what is to become of it.

    `upstream` is the catalog's table: where the call goes, and its deadlines. `demo` is what the demo upstream is told
    to do, `script` the scripted one. `status` is what the client gets; `error` the upstream's own error object, where
    it sends one that is the client's to see; `calls` how often the upstream is called; `said` how many tokens are kept,
    None where chance says how many. `whole`: the client asks for one body. `early`: its response has its status before
    the upstream's comes.
    """

    name: str
    state: str
    reason: str | None = None
    _: KW_ONLY
    status: int = 200
    error: Mapping[str, Any] | None = None
    calls: int = 1
    said: int | None = 0
    tokens: int = TOKENS
    whole: bool = False
    early: bool = False
    upstream: str = "demo"
    demo: Mapping[str, Any] = field(default_factory=dict)
    script: str | None = None

    def question(self, what: str) -> dict[str, Any]:
        """The request; `what` tells it from all others."""
        asked = {"model": self.upstream, **question(what, self.tokens, **{"rate": 200, **self.demo})}
        return asked if self.script is None else {**asked, "script": self.script}

    @property
    def code(self) -> str | None:
        """What apps branch on: the upstream's own word, or this service's."""
        error = self.error or {}
        return error.get("code") or error.get("type") or self.reason


def strikes(kind: str, **more: Any) -> dict[str, Any]:
    return {"fault": {"kind": kind, **more}}


def refuses(status: int, **more: Any) -> dict[str, Any]:
    return strikes("refuse", status=status, **more)


def late(kind: str, **more: Any) -> dict[str, Any]:
    """A fault that comes after some output."""
    return strikes(kind, at=SAID, **more)


SCRIPTS: dict[str, Script] = {}


def scripted(script: Script, state: str, reason: str | None = None, **more: Any) -> Case:
    """A fault of the scripted upstream, which is named after its script."""
    name = script.__name__.replace("_", " ")
    SCRIPTS[name] = script
    return Case(name, state, reason, script=name, **{"upstream": "scripted", **more})


# What the scripted upstream does


ERROR = {"message": "The prompt is longer than the model takes.", "type": "invalid_request_error", "param": "messages"}
OVERLOAD = {"message": "The model is overloaded.", "type": "server_error"}
PAGE = "<html><h1>502 Bad Gateway</h1></html>"


def a_hang_up_instead_of_an_answer(peer: Peer) -> None:
    pass


def a_hang_up_and_then_an_answer(peer: Peer) -> None:
    if peer.call > 1:
        peer.answer()


def an_answer_that_is_no_http(peer: Peer) -> None:
    peer.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")


def a_head_that_breaks_off(peer: Peer) -> None:
    peer.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Ty")


def a_rate_limit_that_passes_with_its_retry_after(peer: Peer) -> None:
    if time.monotonic() < peer.server.moments[peer.what][0] + LIMIT_SECONDS:
        peer.head("HTTP/1.1 429 Too Many Requests", f"Retry-After: {LIMIT_SECONDS}", "Content-Length: 0")
    else:
        peer.answer()


def a_page_with_status_502(peer: Peer) -> None:
    peer.body(PAGE, "text/html", "502 Bad Gateway")


def a_refusal_that_is_cut(peer: Peer) -> None:
    peer.head("HTTP/1.1 400 Bad Request", "Content-Type: application/json", "Content-Length: 500")
    peer.wfile.write(b'{"error": {"message": "The prompt')


def a_refusal_without_end(peer: Peer) -> None:
    peer.head("HTTP/1.1 400 Bad Request", "Content-Type: application/json", "Content-Length: 500000000")
    for _ in range(100):
        peer.wfile.write(b" " * 5_000_000)


def an_error_as_the_first_event(peer: Peer) -> None:
    peer.stream(event(error=ERROR))


def an_overload_as_the_first_event(peer: Peer) -> None:
    peer.stream(event(error=OVERLOAD))


def an_error_as_the_body(peer: Peer) -> None:
    peer.body(json.dumps({"error": ERROR}))


def a_first_event_that_is_no_json(peer: Peer) -> None:
    peer.stream(b"data: Please sign in.\n\n")


def a_stream_of_nothing(peer: Peer) -> None:
    peer.stream()


def an_answer_without_a_word(peer: Peer) -> None:
    peer.stream(ROLE, DONE)


def an_answer_without_a_word_once(peer: Peer) -> None:
    if peer.call > 1:
        peer.answer()
    else:
        peer.stream(ROLE, DONE)


def a_body_of_nothing(peer: Peer) -> None:
    peer.body("")


def a_stream_of_comments_only(peer: Peer) -> None:
    peer.open()
    while True:
        peer.say(b": ping\n\n")
        time.sleep(0.1)


def a_break_after_the_first_event(peer: Peer) -> None:
    peer.open()
    peer.say(ROLE)


def a_break_between_events(peer: Peer) -> None:
    peer.open()
    peer.say(peer.events())


def a_break_before_the_blank_line_of_an_event(peer: Peer) -> None:
    peer.open()
    peer.say(peer.events().removesuffix(b"\n"))


def an_end_in_the_middle_of_an_event(peer: Peer) -> None:
    peer.stream(peer.events() + ROLE[:20])


def a_cut_that_looks_like_the_end(peer: Peer) -> None:
    # Without a length or chunks, a body ends where its connection does.
    peer.head("HTTP/1.1 200 OK", "Content-Type: text/event-stream")
    peer.wfile.write(peer.events())


def an_event_of_another_shape(peer: Peer) -> None:
    peer.stream(peer.events() + event(choices=7))


def text_after_the_finish_reason_and_a_break(peer: Peer) -> None:
    peer.open()
    peer.say(peer.events(10) + delta("stop") + peer.events().removeprefix(peer.events(10)))


def gzip_that_is_cut(peer: Peer) -> None:
    peer.open("Content-Encoding: gzip")
    compress = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    peer.say(compress.compress(peer.events()) + compress.flush(zlib.Z_SYNC_FLUSH))


def gzip_that_is_spoilt(peer: Peer) -> None:
    gzip_that_is_cut(peer)
    peer.say(b"\xff" * 100)
    peer.end()


def a_break_of_a_stream_nobody_asked_for(peer: Peer) -> None:
    a_break_between_events(peer)


def a_break_after_the_finish_reason(peer: Peer) -> None:
    peer.open()
    peer.say(peer.events(TOKENS) + delta("stop"))


def a_usage_deeper_than_firestore_takes(peer: Peer) -> None:
    peer.answer(event(choices=[], usage=deep()))


def a_field_deeper_than_firestore_takes(peer: Peer) -> None:
    peer.answer(delta(note=deep()))


def a_name_longer_than_firestore_takes(peer: Peer) -> None:
    peer.answer(delta(**{"n" * 2000: 1}))


def more_numbers_than_a_document_takes(peer: Peer) -> None:
    peer.answer(delta(numbers=[0.5] * 150_000))


def deep() -> dict[str, Any]:
    """Objects in objects, 30 of them; Firestore takes 20."""
    value: dict[str, Any] = {}
    for _ in range(30):
        value = {"in": value}
    return value


class LeavesTheHandshake(socketserver.BaseRequestHandler):
    """A server that hangs up when TLS begins, as one does that is being restarted."""

    server: Server

    def handle(self) -> None:
        self.server.called()
        self.request.recv(4096)


# The table

# What the demo upstream says of its own faults
LIMITED = {"message": "Rate limit reached for requests.", "type": "requests", "code": "rate_limit_exceeded"}
NOT_READY = {"message": "The server is overloaded or not ready yet.", "type": "server_error"}
BROKEN = {
    "message": "The server had an error while processing your request.",
    "type": "server_error",
    "code": "server_error",
}


def refused(status: int) -> dict[str, Any]:
    message = f"The request was refused with status {status}."
    return {"message": message, "type": "invalid_request_error", "code": "refused"}


FAULTS = [
    # The upstream is not reached
    Case("a port where nothing listens", "failed", "upstream_unreachable", status=502, calls=3, upstream="refusing"),
    Case("a name that nobody knows", "failed", "upstream_unreachable", status=502, calls=3, upstream="nameless"),
    Case("a host that takes no connection", "failed", "upstream_unreachable", status=504, calls=3, upstream="full"),
    Case("a certificate that nobody trusts", "failed", "upstream_tls", status=502, upstream="untrusted"),
    Case("a handshake that breaks off", "failed", "upstream_unreachable", status=502, calls=3, upstream="handshake"),
    # It does not answer, or not in HTTP
    scripted(a_hang_up_instead_of_an_answer, "failed", "upstream_unreachable", status=502, calls=3),
    scripted(a_hang_up_and_then_an_answer, "completed", calls=2, said=TOKENS),
    scripted(an_answer_that_is_no_http, "failed", "upstream_unreachable", status=502, calls=3),
    scripted(a_head_that_breaks_off, "failed", "upstream_empty", status=502, calls=3),
    Case("no answer", "failed", "upstream_timeout", status=504, calls=3, upstream="hasty", demo=NEVER),
    Case("no answer by the deadline", "failed", "deadline", status=504, upstream="short", demo=NEVER),
    # It refuses
    Case("400", "failed", "upstream_status", status=400, error=refused(400), demo=refuses(400)),
    Case("401", "failed", "upstream_key", status=502, demo=refuses(401)),
    Case("403", "failed", "upstream_key", status=502, demo=refuses(403)),
    Case("404", "failed", "upstream_status", status=404, error=refused(404), demo=refuses(404)),
    Case("408", "failed", "upstream_status", status=408, calls=3, error=refused(408), demo=refuses(408)),
    Case("429", "failed", "upstream_status", status=429, calls=3, error=LIMITED, demo=refuses(429, retry_after=1)),
    Case("500", "failed", "upstream_status", status=500, calls=3, error=NOT_READY, demo=refuses(500)),
    Case("503", "failed", "upstream_status", status=503, calls=3, error=NOT_READY, demo=refuses(503)),
    Case("429 once", "completed", calls=2, said=TOKENS, demo=refuses(429, times=1)),
    Case("500 once", "completed", calls=2, said=TOKENS, demo=refuses(500, times=1)),
    Case("503 once", "completed", calls=2, said=TOKENS, demo=refuses(503, times=1)),
    scripted(a_rate_limit_that_passes_with_its_retry_after, "completed", calls=2, said=TOKENS),
    scripted(a_page_with_status_502, "failed", "upstream_status", status=502, calls=3),
    scripted(a_refusal_that_is_cut, "failed", "upstream_status", status=400),
    scripted(a_refusal_without_end, "failed", "upstream_status", status=400),
    Case(
        "400 too late for the status line",
        "failed",
        "upstream_status",
        error=refused(400),
        early=True,
        demo={**refuses(400), **TOO_LATE},
    ),
    Case("401 too late for the status line", "failed", "upstream_key", early=True, demo={**refuses(401), **TOO_LATE}),
    Case("a key that no header takes", "failed", "upstream_key", status=502, upstream="odd_key"),
    # It answers with something else
    Case("a page with status 200", "failed", "upstream_content_type", status=502, demo=strikes("html")),
    Case("a redirect", "failed", "upstream_status", status=502, demo=strikes("redirect")),
    scripted(an_error_as_the_first_event, "failed", "upstream_error", status=502, error=ERROR),
    scripted(an_overload_as_the_first_event, "failed", "upstream_error", status=502, calls=3, error=OVERLOAD),
    scripted(a_first_event_that_is_no_json, "failed", "upstream_malformed", status=502),
    scripted(a_stream_of_nothing, "failed", "upstream_empty", status=502, calls=3),
    scripted(an_answer_without_a_word, "failed", "upstream_empty", calls=3),
    scripted(an_answer_without_a_word_once, "completed", calls=2, said=TOKENS),
    scripted(a_stream_of_comments_only, "failed", "deadline", status=504, upstream="scripted_short"),
    Case("a stall at first", "failed", "upstream_idle", status=502, calls=3, upstream="idle", demo=OPEN_AND_SILENT),
    # An answer in one piece fails: there is no part of it
    Case("a cut body once", "completed", calls=2, said=TOKENS, whole=True, demo=strikes("break", times=1)),
    Case("a cut body", "failed", "upstream_disconnected", status=502, calls=3, whole=True, demo=strikes("break")),
    Case("a body that ends early once", "completed", calls=2, said=TOKENS, whole=True, demo=strikes("close", times=1)),
    Case(
        "a body that ends early",
        "failed",
        "upstream_ended_early",
        status=502,
        calls=3,
        whole=True,
        demo=strikes("close"),
    ),
    Case("a stuck body", "failed", "upstream_idle", status=502, calls=3, whole=True, upstream="idle", demo=STUCK),
    Case("a body too late", "failed", "deadline", status=504, whole=True, upstream="short", demo=OPEN_AND_SILENT),
    Case("a body of no JSON", "failed", "upstream_malformed", status=502, whole=True, demo=strikes("malformed_json")),
    Case("a body of no UTF-8", "failed", "upstream_malformed", status=502, whole=True, demo=strikes("invalid_utf8")),
    scripted(an_error_as_the_body, "failed", "upstream_error", status=502, whole=True, error=ERROR),
    scripted(a_body_of_nothing, "failed", "upstream_empty", status=502, whole=True, calls=3),
    # A stream that said only whose it is has no output
    scripted(a_break_after_the_first_event, "failed", "upstream_disconnected", calls=3),
    # A stream fails after some output
    Case("a break", "incomplete", "upstream_disconnected", said=SAID, demo=late("break")),
    Case("a reset", "incomplete", "upstream_disconnected", said=SAID, demo=late("break", reset=True)),
    scripted(a_break_between_events, "incomplete", "upstream_disconnected", said=SAID),
    scripted(a_break_before_the_blank_line_of_an_event, "incomplete", "upstream_disconnected", said=SAID),
    Case("an end without its mark", "incomplete", "upstream_ended_early", said=SAID, demo=late("close")),
    scripted(an_end_in_the_middle_of_an_event, "incomplete", "upstream_ended_early", said=SAID),
    scripted(a_cut_that_looks_like_the_end, "incomplete", "upstream_ended_early", said=SAID),
    Case("a stall", "incomplete", "upstream_idle", said=SAID, upstream="idle", demo=late("stall")),
    Case("a stall to the deadline", "incomplete", "deadline", said=SAID, upstream="short", demo=late("stall")),
    Case("too long an answer", "incomplete", "deadline", said=None, tokens=20_000, upstream="long", demo={"rate": 500}),
    Case("an event that is no JSON", "incomplete", "upstream_malformed", said=SAID, demo=late("malformed_json")),
    Case("an event that is no UTF-8", "incomplete", "upstream_malformed", said=SAID, demo=late("invalid_utf8")),
    scripted(an_event_of_another_shape, "incomplete", "upstream_malformed", said=SAID),
    Case("an error event", "incomplete", "upstream_error", said=SAID, error=BROKEN, demo=late("error_event")),
    Case("too large an event", "incomplete", "event_too_large", said=SAID, demo=late("big_event", bytes=9_000_000)),
    scripted(text_after_the_finish_reason_and_a_break, "incomplete", "upstream_disconnected", said=SAID),
    scripted(gzip_that_is_cut, "incomplete", "upstream_disconnected", said=SAID),
    scripted(gzip_that_is_spoilt, "incomplete", "upstream_disconnected", said=SAID),
    scripted(
        a_break_of_a_stream_nobody_asked_for, "incomplete", "upstream_disconnected", status=502, said=SAID, whole=True
    ),
    # What is no fault
    Case("an error that is null", "completed", said=TOKENS, demo=strikes("null_error")),
    Case("gzip", "completed", said=TOKENS, demo=strikes("gzip")),
    scripted(a_break_after_the_finish_reason, "completed", said=TOKENS),
    scripted(a_usage_deeper_than_firestore_takes, "completed", said=TOKENS),
    scripted(a_field_deeper_than_firestore_takes, "completed", said=TOKENS),
    scripted(a_name_longer_than_firestore_takes, "completed", said=TOKENS),
    scripted(more_numbers_than_a_document_takes, "completed", said=TOKENS),
]


# The stack, and what became of each row


def self_signed(folder: Path) -> ssl.SSLContext:
    """What a server speaks TLS with, which nobody has a reason to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + made.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@contextmanager
def unserved() -> Iterator[str]:
    """An address that is taken, so that nobody else can serve there, and refuses."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        yield "{}:{}".format(*bound.getsockname())


@contextmanager
def full() -> Iterator[str]:
    """An address that leaves who connects waiting: its queue is full, and nobody takes from it."""
    with ExitStack() as held:
        listening = held.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(1000):
            waiting = held.enter_context(socket.socket())
            waiting.settimeout(0.2)
            try:
                waiting.connect(listening.getsockname())
            except TimeoutError:
                yield "{}:{}".format(*listening.getsockname())
                return
        raise AssertionError("a queue of no length takes a thousand connections")


@dataclass(frozen=True, kw_only=True)
class World:
    """The stack, what stands for its upstreams, and which of those counts the calls to a table of the catalog.

    `early_url` has the functions that wait only `EARLY_SECONDS` for an upstream's status.
    """

    stack: Stack
    early_url: str
    database: firestore.Client
    servers: Mapping[str, Server]

    def calls(self, upstream: str, what: str) -> int | None:
        """How often a question reached an upstream; None where nothing is there to count."""
        if upstream in ("refusing", "nameless", "full", "odd_key"):
            return None
        server = self.servers.get(upstream)
        return len(self.demo_calls(what)) if server is None else server.calls(what)

    def demo_calls(self, what: str = "") -> list[dict[str, Any]]:
        return calls_of(self.stack, what)

    def tasks(self) -> list[tasks_v2.Task]:
        with grpc.insecure_channel(self.stack.tasks_host) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            return list(client.list_tasks(parent=f"projects/{PROJECT}/locations/us-central1/queues/holdfast"))


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("upstreams")
    with ExitStack() as held:
        script = held.enter_context(Server(Peer, SCRIPTS))
        untrusted = held.enter_context(Server(Peer, tls=self_signed(folder)))
        handshake = held.enter_context(Server(LeavesTheHandshake))
        refusing, waiting = held.enter_context(unserved()), held.enter_context(full())
        ports = Ports.free()
        to_demo = {"base_url": f"http://{HOST}:{ports.upstream_port}/v1"}
        to_script = {"base_url": f"http://{script.address}"}
        tables: dict[str, dict[str, Any]] = {
            "demo": to_demo,
            "idle": {**to_demo, "idle_seconds": 4},  # a busy machine takes its time between two tokens, too
            # A read that waits for its first byte can't be woken; it ends by the later of the two.
            "hasty": {**to_demo, "first_byte_seconds": 0.7, "idle_seconds": 0.7},
            "short": {**to_demo, "first_byte_seconds": 9, "idle_seconds": 9, "total_seconds": 6},
            "long": {**to_demo, "total_seconds": 6},
            "scripted": to_script,
            "scripted_short": {**to_script, "total_seconds": 2},
            "refusing": {"base_url": f"http://{refusing}"},
            "nameless": {"base_url": "http://nowhere.invalid"},
            "full": {"base_url": f"http://{waiting}", "connect_seconds": 0.7},
            "untrusted": {"base_url": f"https://{untrusted.address}"},
            "handshake": {"base_url": f"https://{handshake.address}"},
            "odd_key": {**to_demo, "key_env": "ODD_KEY"},
        }
        upstreams = folder / "upstreams.toml"
        upstreams.write_text(catalog(tables))
        settings = {
            "UPSTREAMS_FILE": str(upstreams),
            "ODD_KEY": "a key with spaces",
            "RESPONSE_SECONDS": str(RESPONSE_SECONDS),
            "STATUS_WAIT_SECONDS": str(STATUS_WAIT_SECONDS),
            "NO_PROXY": "*",
            "RES_OPTIONS": "timeout:1 attempts:1",  # where no name server answers at all
        }
        environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
        # Not strict: calls are counted, and a claim that a strict Firestore refuses may cost an attempt.
        own = held.enter_context(Stack(ports, settings, environ, beside=stack))
        early = own.add_functions("early", {"STATUS_WAIT_SECONDS": str(EARLY_SECONDS)})
        servers = {"scripted": script, "scripted_short": script, "untrusted": untrusted, "handshake": handshake}
        yield World(stack=own, early_url=early, database=database_of(own), servers=servers)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a row, as each who can look sees it.

    `seed` is the answer's; `kept` has the journal's events, `text` what its segments say is their text.
    """

    seed: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    live: list[Frame]
    replayed: list[Frame]
    shown: dict[str, Any]
    generation: dict[str, Any]
    message: dict[str, Any]
    head: dict[str, Any]
    kept: list[Frame]
    text: str
    calls: int | None

    @property
    def places(self) -> list[dict[str, Any]]:
        """Where the end is told: to the client, in the two documents, and in the journal."""
        return [self.shown, self.generation, self.message, self.head["final"] or {}]


def visible(frame: Frame) -> str:
    """The text of a chunk, or of a whole completion."""
    choices = json.loads(frame.data)["choices"]
    return "".join((choice.get("delta") or choice.get("message") or {}).get("content") or "" for choice in choices)


def outcome_of(world: World, case: Case) -> Outcome:
    what = f"{case.name} {uuid.uuid4().hex[:12]}"
    asked = case.question(what)
    client = Client(world.early_url if case.early else world.stack.url, f"user-{uuid.uuid4().hex[:12]}")
    live: list[Frame] = []
    with client.session:
        if case.whole:
            response = client.complete(asked)
        else:
            stream = client.stream(asked)
            response = stream.response
            live = list(stream.frames()) if response.ok else []
        body = b"" if live else response.content
        generation = response.headers["X-Generation-Id"]
        # At once: the end of the response means that all is saved.
        shown = client.show(generation)
        path = f"users/{client.user}/messages/{generation}"
        message = world.database.document(path).get().to_dict()
        journal = world.database.collection(f"{path}/holdfastJournal").order_by("first").get()
        with client.resume(generation, 0) as again:
            replayed = list(again.frames())
    return Outcome(
        seed=seed_of(asked["messages"]),
        status=response.status_code,
        headers=response.headers,
        body=body,
        live=live,
        replayed=replayed,
        shown=shown,
        generation=world.database.document(f"holdfastGenerations/{generation}").get().to_dict(),
        message=message,
        head=next(each.to_dict() for each in journal if each.id == "head"),
        kept=list(read_journal(world.database, path)),
        text="".join(each.get("text") for each in journal),
        calls=world.calls(case.upstream, what),
    )


@pytest.fixture(scope="module")
def outcomes(world: World) -> dict[str, Future[Outcome]]:
    """Of each fault, side by side: all have ended before the first test."""
    with ThreadPoolExecutor(ROWS_AT_ONCE) as pool:
        return {each.name: pool.submit(outcome_of, world, each) for each in FAULTS}


@pytest.fixture(params=FAULTS, ids=lambda case: case.name)
def fault(request: pytest.FixtureRequest) -> Case:
    case: Case = request.param
    return case


@pytest.fixture
def outcome(fault: Case, outcomes: dict[str, Future[Outcome]]) -> Outcome:
    return outcomes[fault.name].result()


# The promises


def test_every_place_says_the_same_state_and_reason(fault: Case, outcome: Outcome) -> None:
    for place in outcome.places:
        assert (place.get("state"), place.get("reason")) == (fault.state, fault.reason)
    assert outcome.shown["finishedAt"] is not None


def test_the_error_is_a_sentence_for_people_and_the_upstream_s_own_where_it_has_one(
    fault: Case, outcome: Outcome
) -> None:
    errors = [place.get("error") for place in outcome.places]
    if fault.state == "completed":
        assert errors == [None] * 4
        return
    for error in errors:
        assert error is not None
        assert error["code"] == fault.code
        assert re.fullmatch(r"[A-Z][^\n]* [^\n]*\.", error["message"])
        assert not INTERNAL.search(error["message"])
        if fault.error:
            assert (error["message"], error.get("param")) == (fault.error["message"], fault.error.get("param"))


def test_the_client_is_told_by_the_status_or_by_the_end_of_the_stream(fault: Case, outcome: Outcome) -> None:
    assert outcome.status == fault.status
    if fault.state == "completed":
        assert fault.whole or outcome.live[-1] == DONE_FRAME
        return
    assert outcome.status == 200 or outcome.headers["Content-Type"].startswith("application/json")
    told = json.loads(outcome.body or outcome.live[-1].data)["error"]
    if fault.error:
        assert {name: value for name, value in told.items() if value is not None} == fault.error
        return
    said = told.pop("message")
    assert told == {"type": "upstream_error", "code": fault.reason, "param": None}
    saved = " What was read is saved as incomplete." if fault.state == "incomplete" else ""
    assert said == outcome.message["error"]["message"] + saved


@pytest.mark.parametrize("case", [case for case in FAULTS if case.reason == "upstream_key"], ids=lambda case: case.name)
def test_an_upstream_s_words_on_this_service_s_key_are_not_passed_on(
    case: Case, outcomes: dict[str, Future[Outcome]]
) -> None:
    outcome = outcomes[case.name].result()
    for place in (outcome.body, outcome.live, outcome.replayed, *outcome.places):
        assert not re.search("refused with status|invalid_request_error", str(place))


def test_all_that_came_before_the_fault_is_saved(fault: Case, outcome: Outcome) -> None:
    content = outcome.message["content"]
    if fault.said is None:
        assert content
        assert text(outcome.seed, fault.tokens).startswith(content)
    else:
        assert content == text(outcome.seed, fault.said)
    assert outcome.text == content
    assert "".join(map(visible, outcome.kept)) == content
    assert [frame.id for frame in outcome.kept] == list(range(1, outcome.shown["lastSeq"] + 1))


def test_who_watches_and_who_comes_later_get_what_is_saved(fault: Case, outcome: Outcome) -> None:
    *replayed, end = outcome.replayed
    assert replayed == outcome.kept
    if outcome.live:
        assert outcome.live == [*outcome.kept, end]
    elif outcome.status == 200:
        assert visible(Frame(None, outcome.body.decode())) == outcome.message["content"]


def test_the_upstream_is_called_again_only_where_that_can_help(fault: Case, outcome: Outcome) -> None:
    assert outcome.shown["attempt"] == fault.calls
    assert outcome.calls in (None, fault.calls)


@pytest.mark.usefixtures("outcomes")
def test_when_all_have_ended_no_task_and_no_call_is_left(world: World) -> None:
    def left() -> list[Any]:
        calls = [call["request"] for call in world.demo_calls() if call["ended"] is None]
        return [*world.tasks(), *calls, *(name for name, server in world.servers.items() if server.running)]

    deadline = time.monotonic() + QUIET_SECONDS
    while still := left():
        assert time.monotonic() < deadline, still
        time.sleep(0.1)


@pytest.mark.usefixtures("outcomes")
def test_none_of_it_took_the_service_by_surprise_and_a_key_that_is_refused_is_told_to_the_operator(
    world: World,
) -> None:
    for early, before in ((False, ""), (True, "early-")):
        told = {name: errors(world.stack.processes[before + name].log.read_text()) for name in ("api", "worker")}
        keys = [case for case in FAULTS if case.reason == "upstream_key" and case.early is early]
        assert told == {"api": [], "worker": ["ERROR the upstream refused this service's key"] * len(keys)}
