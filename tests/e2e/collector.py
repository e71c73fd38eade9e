"""A local trace collector: it receives and decodes OTLP over HTTP, and lists the spans."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

PATIENCE = 60.0


@dataclass(frozen=True)
class Span:
    """What was sent of one span."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    above: str
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """Listens from `with` on. Where it is `deaf`, it takes what is sent and never answers."""

    def __init__(self, *, deaf: bool = False):
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.called = threading.Event()
        self._deaf = deaf
        self._over = threading.Event()
        self._changed = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.called.set()
                if collector._deaf:
                    collector._over.wait(PATIENCE)
                    return
                collector._take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def until(self, condition: Callable[[list[Span]], Any]) -> Any:
        """What the condition gives of the spans, once that is something."""
        with self._changed:
            self._changed.wait_for(lambda: condition(self.spans), PATIENCE)
            found = condition(self.spans)
            assert found, [(span.service, span.name) for span in self.spans]
            return found

    def _take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        with self._changed:
            self.bodies.append(body)
            for of in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = _values(of.resource.attributes)["service.name"]
                self.spans += [_span(service, sent) for scope in of.scope_spans for sent in scope.spans]
            self._changed.notify_all()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=[0.1], daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


def _span(service: str, sent: Any) -> Span:
    return Span(
        service=service,
        name=sent.name,
        kind=Sent.SpanKind.Name(sent.kind).removeprefix("SPAN_KIND_"),
        trace=sent.trace_id.hex(),
        id=sent.span_id.hex(),
        above=sent.parent_span_id.hex(),
        failed=sent.status.code == 2,
        attributes=_values(sent.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
