"""Spans: what took how long, from the client's request over the queue to the upstream.

Off unless an endpoint is set, and OpenTelemetry is imported only then. The provider is this object's own, not the
process's: Google's libraries would otherwise add spans of theirs. A span holds names, numbers and ids; no exception is
recorded in one, since its message may quote what was said. Build it after a server's fork: it has a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextvars import Token
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from lib.domain.errors import ConfigurationError
from lib.runtime import trace
from lib.runtime.settings import Settings
from lib.runtime.trace import Trace

CLOSE_SECONDS = 1.0  # for the spans under way to end
SEND_SECONDS = 1.5  # for what has ended to be sent; both are left of the ten once a worker has handed over
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/trace.append"

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER"]
Value = str | int | float | bool | None


class Span:
    """A piece of work. `trace` is what is done for it belongs to; with `with`, that is all that is done inside."""

    def __init__(self, telemetry: Telemetry, made: Any, place: Trace | None):
        self.trace = place
        self._telemetry = telemetry
        self._made = made
        self._before: Token[Trace | None] | None = None

    def set(self, **attributes: Value) -> None:
        """Says more of it. What is None is left out, and `a__b` stands for `a.b`."""
        if self._made is not None:
            self._made.set_attributes(_attributes(attributes))

    def fail(self, reason: str) -> None:
        """It did not come to a good end, by a word of ours."""
        if self._made is not None:
            from opentelemetry.trace import Status, StatusCode

            self._made.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        if self._made is not None:
            self._made.end()
            self._telemetry.ended()

    def __enter__(self) -> Self:
        self._before = trace.current.set(self.trace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        if self._before is not None:
            trace.current.reset(self._before)
        self.end()


class Telemetry:
    """Makes spans with an SDK's provider, or none at all."""

    def __init__(self, provider: Any = None):
        self._provider = provider
        self._tracer = provider.get_tracer("holdfast") if provider is not None else None
        self._open = 0
        self._changed = threading.Condition()

    @classmethod
    def of(cls, settings: Settings, service: str) -> Self:
        """What the settings ask for. Errors: `ConfigurationError`."""
        return cls(_provider(settings.traces_endpoint, settings.project, service) if settings.traces_endpoint else None)

    def span(self, name: str, kind: Kind = "INTERNAL", **attributes: Value) -> Span:
        """Begins a piece of work, as a part of the one at hand. Use it with `with`, or end it."""
        above = trace.current.get()
        if self._tracer is None:
            return Span(self, None, above)
        from opentelemetry.trace import SpanKind

        with self._changed:
            self._open += 1
        made = self._tracer.start_span(
            name, context=_below(above), kind=SpanKind[kind], attributes=_attributes(attributes)
        )
        its = made.get_span_context()
        return Span(self, made, Trace(f"{its.trace_id:032x}", f"{its.span_id:016x}", its.trace_flags.sampled))

    def ended(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def follow(self, app: Flask, but: Collection[str] = ()) -> None:
        """From now on each request of `app` belongs to the trace it names, and is a span, to the end of its answer.

        `but` are routes that are followed nowhere.
        """

        @app.before_request
        def begin() -> None:
            route = request.url_rule.rule if request.url_rule else "no route"
            if route in but:
                return
            given = request.headers
            trace.current.set(Trace.of(given.get("traceparent"), given.get("X-Cloud-Trace-Context")))
            g.span = self.span(
                f"{request.method} {route}", "SERVER", http__request__method=request.method, http__route=route
            )
            trace.current.set(g.span.trace)

        @app.after_request
        def answer(response: Response) -> Response:
            span: Span | None = g.get("span")
            if span is None:
                return response
            status = response.status_code
            span.set(http__response__status_code=status, generation=response.headers.get("X-Generation-Id"))
            if status >= 500:
                span.fail(str(status))

            def end() -> None:
                span.end()
                trace.current.set(None)

            response.call_on_close(end)
            return response

    def close(self) -> None:
        """The process is to end: waits for the spans under way, and sends what there is, for a bounded time."""
        if self._provider is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0, CLOSE_SECONDS)
        # The SDK's own flush knows no bound.
        sending = threading.Thread(target=self._provider.force_flush, name="flush-spans", daemon=True)
        sending.start()
        sending.join(SEND_SECONDS)


OFF = Telemetry()


def _attributes(given: dict[str, Value]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in given.items() if value is not None}


def _below(above: Trace | None) -> Any:
    """A context of OpenTelemetry's in which a span becomes a part of `above`."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if above is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if above.sampled else TraceFlags.DEFAULT)
    its = SpanContext(int(above.trace_id, 16), int(above.span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(its), Context())


def _provider(endpoint: str, project: str, service: str) -> Any:
    """OTLP over HTTP to `{endpoint}/v1/traces`; what else OTEL_… variables say is the SDK's to read."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"holdfast-{service}", "gcp.project_id": project})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", session=session_for(endpoint))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def session_for(endpoint: str) -> Any:
    """How to get there: Google's own endpoint wants the service account's token, any other the SDK's plain session."""
    if not (urlsplit(endpoint).hostname or "").endswith(".googleapis.com"):
        return None
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError
    from google.auth.transport.requests import AuthorizedSession

    try:
        credentials, _ = google.auth.default(scopes=[_GOOGLE_SCOPE])
    except DefaultCredentialsError as error:
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_ENDPOINT: Google's endpoint needs a service account, and there is none here"
        ) from error
    return AuthorizedSession(credentials)
