"""The side port: `GET /certs`, and `GET` or `POST /faults` with the arguments of `TasksEmulator.fault` as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local.tasks_emulator.service import TasksEmulator


class SideServer(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class SideRequest(BaseHTTPRequestHandler):
    """The side port: `GET /certs`, and `GET` or `POST /faults` with the arguments of `TasksEmulator.fault` as JSON."""

    def __init__(self, emulator: TasksEmulator, *connection: Any) -> None:
        self._emulator = emulator
        super().__init__(*connection)

    def do_GET(self) -> None:
        pages = {"/certs": self._emulator.issuer.keys, "/faults": asdict(self._emulator.faults)}
        self._answer(200 if self.path in pages else 404, pages.get(self.path, {}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path == "/faults":
                self._answer(200, asdict(self._emulator.fault(**json.loads(body))))
            else:
                self._answer(404, {})
        except (TypeError, ValueError) as error:
            self._answer(400, {"error": str(error)})

    def _answer(self, status: int, page: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(page).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass
