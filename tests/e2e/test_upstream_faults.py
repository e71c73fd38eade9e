"""Every way an upstream can fail, on the whole stack: how the answer ends, who is told what, and what is kept of it.

One row a fault. All rows start at once, since what takes long is the queue's pauses between attempts, and each promise
is then checked of each of them. What the demo upstream can't do wrong, a scripted one in here does.
"""

from __future__ import annotations

import json
import os
import re
import socket
import socketserver
import ssl
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from chaos.stage import errors
from local.client import Client, Frame, question
from local.demo_text import seed_of, text, token
from local.ports import HOST, Ports
from local.stack import Stack
from local.token import PROJECT

WAIT_SECONDS = 60.0
RESPONSE_SECONDS = 25  # a response that would hang ends by then, and says so
QUIET_SECONDS = 15  # in which all that goes on has to end, once the answers have
STATUS_WAIT_SECONDS = 20  # enough for all attempts of every row but one, which is told in the stream
LIMIT_SECONDS = 3  # longer than the queue's own first pause
TOKENS = 40
SAID = 30  # of them, where the fault comes after some output
NEVER = {"first_byte_delay": 3600}
TOO_LATE = {"first_byte_delay": STATUS_WAIT_SECONDS + 3}
OPEN_AND_SILENT = {"first_token_delay": 3600}
STUCK = {"fault": "stall"}
DONE = Frame(None, "[DONE]")
# Exceptions, tracebacks, addresses, the code's own names and values.
INTERNAL = re.compile(r"Traceback|Errno|[a-z](Error|Exception|Timeout)\b|://|\d\.\d+\.\d|[<>{}\[\]_\\]|\bNone\b")


@dataclass(frozen=True)
class Case:
    """A fault, and what is to become of it.

    `upstream` is the catalog's table: where the call goes, and its deadlines. `demo` is what the demo upstream is told
    to do, `script` the scripted one. `status` is what the client gets; `calls` how often the upstream is called; `said`
    how many tokens are kept, None where chance says how many. `whole`: the client asks for one body.
    """

    name: str
    state: str
    reason: str | None = None
    _: KW_ONLY
    status: int = 200
    calls: int = 1
    said: int | None = 0
    tokens: int = TOKENS
    whole: bool = False
    upstream: str = "demo"
    demo: Mapping[str, Any] = field(default_factory=dict)
    script: str | None = None

    def question(self, what: str) -> dict[str, Any]:
        """The request; `what` tells it from all others."""
        asked = {"model": self.upstream, **question(what, self.tokens, **{"rate": 200, **self.demo})}
        return asked if self.script is None else {**asked, "script": self.script}


def strikes(kind: str, **more: Any) -> dict[str, Any]:
    return {"fault": {"kind": kind, **more}}


def refuses(status: int, **more: Any) -> dict[str, Any]:
    return strikes("refuse", status=status, **more)


def late(kind: str, **more: Any) -> dict[str, Any]:
    """A fault that comes after some output."""
    return strikes(kind, at=SAID, **more)


SCRIPTS: dict[str, Callable[[Peer], None]] = {}


def scripted(script: Callable[[Peer], None], state: str, reason: str | None = None, **more: Any) -> Case:
    """A fault of the scripted upstream, which is named after its script."""
    name = script.__name__.replace("_", " ")
    SCRIPTS[name] = script
    return Case(name, state, reason, script=name, **{"upstream": "scripted", **more})


# The scripted upstream


def event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields).encode()


def delta(finish_reason: str | None = None, **said: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": said, "finish_reason": finish_reason}])


ROLE = delta(role="assistant", content="")
ERROR = {"error": {"message": "The prompt is longer than the model takes.", "type": "invalid_request_error"}}
OVERLOAD = {"error": {"message": "The model is overloaded.", "type": "server_error"}}
PAGE = "<html><h1>502 Bad Gateway</h1></html>"


class Server(socketserver.ThreadingTCPServer):
    """Serves from a thread of its own, and counts its calls by the question they ask."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[socketserver.BaseRequestHandler], tls: ssl.SSLContext | None = None):
        super().__init__((HOST, 0), handler)
        self.tls = tls
        self.calls: Counter[str] = Counter()
        self.first: dict[str, float] = {}
        self.running = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=[0.1])
        self._thread.start()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.server_address[1]}"

    def count(self, what: str = "") -> int:
        """Counts a call, and says which one of its question it is."""
        with self._lock:
            self.calls[what] += 1
            self.first.setdefault(what, time.monotonic())
            return self.calls[what]

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._run(1)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._run(-1)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        self.count()
        with self.tls.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def _run(self, more: int) -> None:
        with self._lock:
            self.running += more

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the other side left, which is what some faults are about

    def server_close(self) -> None:
        self.shutdown()
        self._thread.join(WAIT_SECONDS)
        super().server_close()


class Peer(socketserver.StreamRequestHandler):
    """One call to the scripted upstream. The connection ends where its script does."""

    server: Server

    def handle(self) -> None:
        length = 0
        while line := self.rfile.readline().strip().lower():
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
        self.asked = json.loads(self.rfile.read(length))
        self.what = self.asked["messages"][0]["content"]
        self.call = self.server.count(self.what)
        SCRIPTS.get(self.asked.get("script"), Peer.answer)(self)

    def head(self, *lines: str) -> None:
        self.wfile.write("\r\n".join([*lines, "", ""]).encode())

    def open(self, *headers: str) -> None:
        """Begins an event stream, in chunks."""
        self.head("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked", *headers)

    def say(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Ends the body in order."""
        self.wfile.write(b"0\r\n\r\n")

    def events(self, tokens: int = SAID) -> bytes:
        """How the answer begins."""
        seed = seed_of(self.asked["messages"])
        return ROLE + b"".join(delta(content=token(seed, k)) for k in range(tokens))

    def answer(self, more: bytes = b"") -> None:
        """The whole answer, with `more` before its end mark."""
        self.open()
        self.say(self.events(TOKENS) + delta("stop") + more + b"data: [DONE]\n\n")
        self.end()


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
    if time.monotonic() < peer.server.first[peer.what] + LIMIT_SECONDS:
        peer.head("HTTP/1.1 429 Too Many Requests", f"Retry-After: {LIMIT_SECONDS}", "Content-Length: 0")
    else:
        peer.answer()


def a_page_with_status_502(peer: Peer) -> None:
    peer.head("HTTP/1.1 502 Bad Gateway", "Content-Type: text/html", f"Content-Length: {len(PAGE)}")
    peer.wfile.write(PAGE.encode())


def an_error_as_the_first_event(peer: Peer) -> None:
    peer.open()
    peer.say(event(**ERROR))
    peer.end()


def an_overload_as_the_first_event(peer: Peer) -> None:
    peer.open()
    peer.say(event(**OVERLOAD))
    peer.end()


def an_error_as_the_body(peer: Peer) -> None:
    body = json.dumps(ERROR)
    peer.head("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}")
    peer.wfile.write(body.encode())


def a_first_event_that_is_no_json(peer: Peer) -> None:
    peer.open()
    peer.say(b"data: Please sign in.\n\n")
    peer.end()


def a_stream_of_nothing(peer: Peer) -> None:
    peer.open()
    peer.end()


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
    peer.open()
    peer.say(peer.events() + ROLE[:20])
    peer.end()


def a_cut_that_looks_like_the_end(peer: Peer) -> None:
    # Without a length or chunks, a body ends where its connection does.
    peer.head("HTTP/1.1 200 OK", "Content-Type: text/event-stream")
    peer.wfile.write(peer.events())


def an_event_of_another_shape(peer: Peer) -> None:
    peer.open()
    peer.say(peer.events() + event(choices=7))
    peer.end()


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
        self.server.count()
        self.request.recv(4096)


# The table

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
    scripted(a_head_that_breaks_off, "failed", "upstream_content_type", status=502, calls=3),
    Case("no answer", "failed", "upstream_timeout", status=504, calls=3, upstream="hasty", demo=NEVER),
    Case("no answer by the deadline", "failed", "deadline", status=504, upstream="short", demo=NEVER),
    # It refuses
    Case("400", "failed", "upstream_status", status=400, demo=refuses(400)),
    Case("401", "failed", "upstream_status", status=401, demo=refuses(401)),
    Case("429", "failed", "upstream_status", status=429, calls=3, demo=refuses(429, retry_after=1)),
    Case("500", "failed", "upstream_status", status=500, calls=3, demo=refuses(500)),
    Case("503", "failed", "upstream_status", status=503, calls=3, demo=refuses(503)),
    Case("429 once", "completed", calls=2, said=TOKENS, demo=refuses(429, times=1)),
    Case("500 once", "completed", calls=2, said=TOKENS, demo=refuses(500, times=1)),
    Case("503 once", "completed", calls=2, said=TOKENS, demo=refuses(503, times=1)),
    scripted(a_rate_limit_that_passes_with_its_retry_after, "completed", calls=2, said=TOKENS),
    scripted(a_page_with_status_502, "failed", "upstream_status", status=502, calls=3),
    Case("400 too late for the status line", "failed", "upstream_status", demo={**refuses(400), **TOO_LATE}),
    # It answers with something else
    Case("a page with status 200", "failed", "upstream_content_type", status=502, demo=strikes("html")),
    Case("a redirect", "failed", "upstream_status", status=502, demo=strikes("redirect")),
    scripted(an_error_as_the_first_event, "failed", "upstream_error", status=502),
    scripted(an_overload_as_the_first_event, "failed", "upstream_error", status=502, calls=3),
    scripted(a_first_event_that_is_no_json, "failed", "upstream_malformed", status=502),
    scripted(a_stream_of_nothing, "failed", "upstream_ended_early", status=502, calls=3),
    scripted(a_stream_of_comments_only, "failed", "deadline", status=504, upstream="scripted_short"),
    Case("a stall at first", "failed", "upstream_idle", status=502, calls=3, upstream="idle", demo=OPEN_AND_SILENT),
    # An answer in one piece fails: there is no part of it
    Case("a cut body once", "completed", calls=2, said=TOKENS, whole=True, demo=strikes("break", times=1)),
    Case("a cut body", "failed", "upstream_disconnected", status=502, calls=3, whole=True, demo=strikes("break")),
    Case("a stuck body", "failed", "upstream_idle", status=502, calls=3, whole=True, upstream="idle", demo=STUCK),
    Case("a body too late", "failed", "deadline", status=504, whole=True, upstream="short", demo=OPEN_AND_SILENT),
    Case("a body of no JSON", "failed", "upstream_malformed", status=502, whole=True, demo=strikes("malformed_json")),
    Case("a body of no UTF-8", "failed", "upstream_malformed", status=502, whole=True, demo=strikes("invalid_utf8")),
    scripted(an_error_as_the_body, "failed", "upstream_error", status=502, whole=True),
    # A stream fails after some output
    Case("a break", "incomplete", "upstream_disconnected", said=SAID, demo=late("break")),
    Case("a reset", "incomplete", "upstream_disconnected", said=SAID, demo=late("break", reset=True)),
    scripted(
        a_break_after_the_first_event, "incomplete", "upstream_disconnected", calls=3
    ),  # which says only whose it is
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
    Case("an error event", "incomplete", "upstream_error", said=SAID, demo=late("error_event")),
    Case("too large an event", "incomplete", "event_too_large", said=SAID, demo=late("big_event", bytes=5_000_000)),
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


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The catalog, each of whose upstreams has one model of the same name."""
    lines = []
    for name, table in tables.items():
        lines += [
            f"[{name}]",
            f'models = ["{name}"]',
            *(f"{key} = {json.dumps(value)}" for key, value in table.items()),
        ]
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class World:
    """The stack, what stands for its upstreams, and which of those counts the calls to a table of the catalog."""

    stack: Stack
    database: firestore.Client
    servers: Mapping[str, Server]

    def calls(self, upstream: str, what: str) -> int | None:
        """How often a question reached an upstream; None where nothing is there to count."""
        if upstream in ("refusing", "nameless", "full"):
            return None
        server = self.servers.get(upstream)
        return len(self.demo_calls(what)) if server is None else server.calls[what] or server.calls[""]

    def demo_calls(self, what: str = "") -> list[dict[str, Any]]:
        every = requests.get(f"{self.stack.upstream_url}/demo/calls", timeout=WAIT_SECONDS).json()
        return [call for call in every if what in call["request"]["messages"][0]["content"]]

    def tasks(self) -> list[tasks_v2.Task]:
        with grpc.insecure_channel(self.stack.tasks_host) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            return list(client.list_tasks(parent=f"projects/{PROJECT}/locations/us-central1/queues/holdfast"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("upstreams")
    with ExitStack() as held:
        script = held.enter_context(Server(Peer))
        untrusted = held.enter_context(Server(Peer, self_signed(folder)))
        handshake = held.enter_context(Server(LeavesTheHandshake))
        refusing, waiting = held.enter_context(unserved()), held.enter_context(full())
        ports = Ports.free()
        to_demo = {"base_url": f"http://{HOST}:{ports.upstream_port}/v1"}
        to_script = {"base_url": f"http://{script.address}"}
        tables: dict[str, dict[str, Any]] = {
            "demo": to_demo,
            "idle": {**to_demo, "idle_seconds": 1},
            # A read that waits for its first byte can't be woken; it ends by the later of the two.
            "hasty": {**to_demo, "first_byte_seconds": 0.7, "idle_seconds": 0.7},
            "short": {**to_demo, "first_byte_seconds": 5, "idle_seconds": 5, "total_seconds": 2},
            "long": {**to_demo, "total_seconds": 6},
            "scripted": to_script,
            "scripted_short": {**to_script, "total_seconds": 2},
            "refusing": {"base_url": f"http://{refusing}"},
            "nameless": {"base_url": "http://nowhere.invalid"},
            "full": {"base_url": f"http://{waiting}", "connect_seconds": 0.7},
            "untrusted": {"base_url": f"https://{untrusted.address}"},
            "handshake": {"base_url": f"https://{handshake.address}"},
        }
        catalog = folder / "upstreams.toml"
        catalog.write_text(toml(tables))
        settings = {
            "UPSTREAMS_FILE": str(catalog),
            "RESPONSE_SECONDS": str(RESPONSE_SECONDS),
            "STATUS_WAIT_SECONDS": str(STATUS_WAIT_SECONDS),
            "NO_PROXY": "*",
            "RES_OPTIONS": "timeout:1 attempts:1",  # where no name server answers at all
        }
        environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
        stack = held.enter_context(Stack(ports, settings, environ))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FIRESTORE_EMULATOR_HOST", stack.firestore_host)
            database = firestore.Client(project=PROJECT, credentials=AnonymousCredentials())
        servers = {"scripted": script, "scripted_short": script, "untrusted": untrusted, "handshake": handshake}
        yield World(stack=stack, database=database, servers=servers)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a row, as each who can look sees it. `seed` is the answer's."""

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
    segments: list[dict[str, Any]]
    calls: int | None

    @property
    def places(self) -> list[dict[str, Any]]:
        """Where the end is told: to the client, in the two documents, and in the journal."""
        return [self.shown, self.generation, self.message, self.head["final"] or {}]

    @property
    def kept(self) -> list[Frame]:
        """The journal's frames."""
        raw = b"".join(zlib.decompressobj().decompress(segment["frames"]) for segment in self.segments).decode()
        frames = [frame.partition("\ndata: ") for frame in raw.split("\n\n")[:-1]]
        return [Frame(int(number.removeprefix("id: ")), data) for number, _, data in frames]


def visible(frame: Frame) -> str:
    """The text of a chunk, or of a whole completion."""
    choices = json.loads(frame.data)["choices"]
    return "".join((choice.get("delta") or choice.get("message") or {}).get("content") or "" for choice in choices)


def outcome_of(world: World, case: Case) -> Outcome:
    what = f"{case.name} {uuid.uuid4().hex[:12]}"
    asked = case.question(what)
    client = Client(world.stack.url, f"user-{uuid.uuid4().hex[:12]}")
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
        journal = world.database.collection(f"{path}/journal").order_by("first").get()
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
        generation=world.database.document(f"generations/{generation}").get().to_dict(),
        message=message,
        head=next(each.to_dict() for each in journal if each.id == "head"),
        segments=[each.to_dict() for each in journal],
        calls=world.calls(case.upstream, what),
    )


@pytest.fixture(scope="module")
def outcomes(world: World) -> Iterator[dict[str, Future[Outcome]]]:
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        yield {each.name: pool.submit(outcome_of, world, each) for each in FAULTS}


@pytest.fixture(params=FAULTS, ids=lambda case: case.name)
def fault(request: pytest.FixtureRequest) -> Case:
    case: Case = request.param
    return case


@pytest.fixture
def outcome(fault: Case, outcomes: dict[str, Future[Outcome]]) -> Outcome:
    return outcomes[fault.name].result(2 * WAIT_SECONDS)


# The promises


def test_every_place_says_the_same_state_and_reason(fault: Case, outcome: Outcome) -> None:
    for place in outcome.places:
        assert (place.get("state"), place.get("reason")) == (fault.state, fault.reason)
    assert outcome.shown["finishedAt"] is not None


def test_the_error_is_a_sentence_for_people(fault: Case, outcome: Outcome) -> None:
    errors = [place.get("error") for place in outcome.places]
    if fault.state == "completed":
        assert errors == [None] * 4
        return
    for error in errors:
        assert error is not None
        assert error["code"] == fault.reason
        assert re.fullmatch(r"[A-Z][^\n]* [^\n]*\.", error["message"])
        assert not INTERNAL.search(error["message"])


def test_the_client_is_told_by_the_status_or_by_the_end_of_the_stream(fault: Case, outcome: Outcome) -> None:
    assert outcome.status == fault.status
    if fault.state == "completed":
        assert fault.whole or outcome.live[-1] == DONE
        return
    kept = outcome.message["error"]
    assert outcome.status == 200 or outcome.headers["Content-Type"].startswith("application/json")
    if outcome.status != 200 and kept.get("body") and kept["contentType"].startswith("application/json"):
        assert outcome.body.decode() == kept["body"]
        return
    told = json.loads(outcome.body or outcome.live[-1].data)["error"]
    said = told.pop("message")
    assert told == {"type": "upstream_error", "code": fault.reason, "param": None}
    saved = " What was read is saved as incomplete." if fault.state == "incomplete" else ""
    assert said == kept["message"] + saved


def test_all_that_came_before_the_fault_is_saved(fault: Case, outcome: Outcome) -> None:
    content = outcome.message["content"]
    if fault.said is None:
        assert content
        assert text(outcome.seed, fault.tokens).startswith(content)
    else:
        assert content == text(outcome.seed, fault.said)
    assert "".join(segment["text"] for segment in outcome.segments) == content
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


def test_when_all_have_ended_no_task_and_no_call_is_left(world: World, outcomes: dict[str, Future[Outcome]]) -> None:
    for each in outcomes.values():
        each.exception(2 * WAIT_SECONDS)

    def left() -> list[Any]:
        calls = [call["request"] for call in world.demo_calls() if call["ended"] is None]
        return [*world.tasks(), *calls, *(name for name, server in world.servers.items() if server.running)]

    deadline = time.monotonic() + QUIET_SECONDS
    while still := left():
        assert time.monotonic() < deadline, still
        time.sleep(0.1)


def test_none_of_it_took_the_service_by_surprise(world: World, outcomes: dict[str, Future[Outcome]]) -> None:
    for each in outcomes.values():
        each.exception(2 * WAIT_SECONDS)
    for name in ("api", "worker"):
        assert errors(world.stack.processes[name].log.read_text()) == []
