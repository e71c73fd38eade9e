"""A server that takes what is delivered, and answers as a test wants: an operator's webhook, or Google's FCM."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from local.ports import HOST

PATIENCE = 60.0  # seconds that a failing test waits; a passing one never does


@dataclass(frozen=True)
class Got:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Receiver(ThreadingHTTPServer):
    """Serves until it is closed. `answer` says what a request gets; `got` has all of them."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, answer: Callable[[Got], Answer] = lambda _: Answer(), port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.answer = answer
        self.got: list[Got] = []
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self.serve_forever, args=[0.05], daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    def take(self, got: Got) -> Answer:
        answer = self.answer(got)
        with self._came:
            self.got.append(got)
            self._came.notify_all()
        return answer

    def until(self, condition: Callable[[list[Got]], Any]) -> list[Got]:
        """Waits until the requests fulfil a condition, and returns them."""
        with self._came:
            assert self._came.wait_for(lambda: condition(self.got), PATIENCE), f"{len(self.got)} requests came"
            return list(self.got)

    def server_close(self) -> None:
        self.shutdown()
        self._thread.join(PATIENCE)
        super().server_close()

    def handle_error(self, *_: object) -> None:
        """A client that has gone is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.take(Got(self.path, headers, body))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing."""
