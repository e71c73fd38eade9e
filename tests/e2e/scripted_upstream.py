"""An upstream on a raw socket: each call runs the script that its request names, so it can send anything.

For faults that the demo upstream does not have.
"""

from __future__ import annotations

import json
import socketserver
import ssl
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from local.demo_text import seed_of, token
from local.ports import HOST

WAIT_SECONDS = 60.0
TOKENS = 40
SAID = 30  # of them, where something happens in the middle of an answer
DONE = b"data: [DONE]\n\n"

Script = Callable[["Peer"], None]


def event(**fields: Any) -> bytes:
    """An event whose data is this object."""
    return b"data: %b\n\n" % json.dumps(fields).encode()


def delta(finish_reason: str | None = None, **said: Any) -> bytes:
    """A chunk of a chat completion's first choice."""
    return event(choices=[{"index": 0, "delta": said, "finish_reason": finish_reason}])


ROLE = delta(role="assistant", content="")


class Server(socketserver.ThreadingTCPServer):
    """Serves from a thread of its own. Keeps each question's requests, and when each of its calls came.

    A head has its headers by their names in lower case, and the request's first line by none.
    `scripts` are what a request can name in its field `script`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        handler: type[socketserver.BaseRequestHandler],
        scripts: Mapping[str, Script] | None = None,
        tls: ssl.SSLContext | None = None,
    ):
        super().__init__((HOST, 0), handler)
        self.scripts = scripts or {}
        self.tls = tls
        self.requests: defaultdict[str, list[Any]] = defaultdict(list)
        self.heads: defaultdict[str, list[Mapping[str, str]]] = defaultdict(list)
        self.moments: defaultdict[str, list[float]] = defaultdict(list)
        self.running = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=[0.1])
        self._thread.start()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.server_address[1]}"

    def called(self, what: str = "", request: Any = None, head: Mapping[str, str] | None = None) -> int:
        """Counts a call, and says which one of its question it is. Without a question, where none can be read."""
        with self._lock:
            self.moments[what].append(time.monotonic())
            self.requests[what].append(request)
            self.heads[what].append(head or {})
            return len(self.moments[what])

    def calls(self, what: str) -> int:
        """How many calls had this question, or could not say which they had."""
        return len(self.moments.get(what) or self.moments.get("") or ())

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
        self.called()
        with self.tls.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def _run(self, more: int) -> None:
        with self._lock:
            self.running += more

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # the other side left, which is what some faults are about
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        self.shutdown()
        self._thread.join(WAIT_SECONDS)
        super().server_close()


class Peer(socketserver.StreamRequestHandler):
    """One call. The connection ends where its script does."""

    server: Server

    def handle(self) -> None:
        head = {"": self.rfile.readline().strip().decode()}
        while line := self.rfile.readline().strip().decode():
            name, _, value = line.partition(":")
            head[name.lower()] = value.strip()
        self.asked = json.loads(self.rfile.read(int(head["content-length"])))
        self.what = self.question()
        self.call = self.server.called(self.what, self.asked, head)
        self.server.scripts.get(self.asked.get("script"), type(self).answer)(self)

    def question(self) -> str:
        """What tells the calls of one request from all others."""
        return str(self.asked["messages"][0]["content"])

    def head(self, status: str, *lines: str) -> None:
        """A status line and headers. The last head says that the connection ends: the next call must not come on it."""
        ending = [] if status.startswith("HTTP/1.1 1") else ["Connection: close"]
        self.wfile.write("\r\n".join([status, *ending, *lines, "", ""]).encode())

    def body(self, body: str | bytes, content_type: str | None = "application/json", status: str = "200 OK") -> None:
        """A whole response, without a Content-Type where there is to be none."""
        data = body.encode() if isinstance(body, str) else body
        typed = [f"Content-Type: {content_type}"] if content_type else []
        self.head(f"HTTP/1.1 {status}", *typed, f"Content-Length: {len(data)}")
        self.wfile.write(data)

    def open(self, *headers: str) -> None:
        """Begins an event stream, in chunks."""
        self.head("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked", *headers)

    def say(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Ends the body in order."""
        self.wfile.write(b"0\r\n\r\n")

    def stream(self, *events: bytes) -> None:
        """A whole stream."""
        self.open()
        for each in events:
            self.say(each)
        self.end()

    def events(self, tokens: int = SAID) -> bytes:
        """How the answer begins that the demo upstream would give."""
        seed = seed_of(self.asked["messages"])
        return ROLE + b"".join(delta(content=token(seed, k)) for k in range(tokens))

    def answer(self, more: bytes = b"") -> None:
        """The whole of it, with `more` before its end mark."""
        self.stream(self.events(TOKENS) + delta("stop") + more + DONE)


def catalog(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The catalog's TOML, each of whose upstreams has one model of the same name."""
    lines = []
    for name, table in tables.items():
        lines += [
            f"[{name}]",
            f'models = ["{name}"]',
            *(f"{key} = {json.dumps(value)}" for key, value in table.items()),
        ]
    return "\n".join(lines)
