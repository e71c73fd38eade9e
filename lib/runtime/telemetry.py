"""Trace spans, from the client's request through the queue to the upstream call.

Off unless an endpoint is configured, and OpenTelemetry is imported only then. The tracer provider is private to this
module, because Google's libraries would add their own spans to a global one. Spans contain names, numbers and ids. They
must not record exceptions, whose messages may quote prompts or answers.
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

# Of the ten seconds that a process has at shutdown, for open spans to end and for ended ones to be sent. A worker hands
# over its answers in the rest.
CLOSE_SECONDS = {"api": 4.0, "worker": 1.0}
SEND_SECONDS = 1.5
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/trace.append"

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER"]
Value = str | int | float | bool | None


class Span:
    """One span. `trace` is the context for work that belongs to it; as a context manager it makes that current."""

    def __init__(self, telemetry: Telemetry, span: Any, context: Trace | None):
        self.trace = context
        self._telemetry = telemetry
        self._span = span
        self._token: Token[Trace | None] | None = None

    def set(self, **attributes: Value) -> None:
        """Sets attributes. None values are left out, and `a__b` stands for `a.b`."""
        if self._span is not None:
            self._span.set_attributes(_attributes(attributes))

    def fail(self, reason: str) -> None:
        """Marks the span as failed. `reason` must not contain text from users or models."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        if self._span is not None:
            self._span.end()
            self._telemetry.ended()

    def __enter__(self) -> Self:
        self._token = trace.current.set(self.trace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        if self._token is not None:
            trace.current.reset(self._token)
        self.end()


class Telemetry:
    """Makes spans with an SDK tracer provider, or no spans without one.

    Construct it after the server has forked: the provider runs a thread.
    """

    def __init__(self, provider: Any = None, close_seconds: float = CLOSE_SECONDS["worker"]):
        self._provider = provider
        self._close_seconds = close_seconds
        self._tracer = provider.get_tracer("holdfast") if provider is not None else None
        self._open = 0
        self._changed = threading.Condition()

    @classmethod
    def from_settings(cls, settings: Settings, service: str) -> Self:
        """Telemetry as configured by the settings. Errors: `ConfigurationError`."""
        if not settings.traces_endpoint:
            return cls()
        return cls(_provider(settings.traces_endpoint, settings.project, service), CLOSE_SECONDS[service])

    def span(self, name: str, kind: Kind = "INTERNAL", **attributes: Value) -> Span:
        """Starts a span below the current one. Use it as a context manager, or call `end`."""
        parent = trace.current.get()
        if self._tracer is None:
            return Span(self, None, parent)
        from opentelemetry.trace import SpanKind

        with self._changed:
            self._open += 1
        made = self._tracer.start_span(
            name, context=_context_below(parent), kind=SpanKind[kind], attributes=_attributes(attributes)
        )
        its = made.get_span_context()
        return Span(self, made, Trace(f"{its.trace_id:032x}", f"{its.span_id:016x}", its.trace_flags.sampled))

    def ended(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def instrument(self, app: Flask, excluded: Collection[str] = ()) -> None:
        """Traces each request of `app`, in the trace that its headers name, until its response has been sent.

        Routes in `excluded` are not traced.
        """

        @app.before_request
        def begin() -> None:
            route = request.url_rule.rule if request.url_rule else "no route"
            if route in excluded:
                return
            given = request.headers
            trace.current.set(Trace.from_headers(given.get("traceparent"), given.get("X-Cloud-Trace-Context")))
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
        """For shutdown: waits for open spans and sends the ended ones, both for a limited time."""
        if self._provider is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0, self._close_seconds)
        # The SDK's flush has no timeout.
        sending = threading.Thread(target=self._provider.force_flush, name="flush-spans", daemon=True)
        sending.start()
        sending.join(SEND_SECONDS)


OFF = Telemetry()


def _attributes(given: dict[str, Value]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in given.items() if value is not None}


def _context_below(parent: Trace | None) -> Any:
    """An OpenTelemetry context whose new spans are children of `parent`."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if parent is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    context = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(context), Context())


def _provider(endpoint: str, project: str, service: str) -> Any:
    """A provider that sends OTLP over HTTP to `{endpoint}/v1/traces`. The SDK reads the other OTEL_… variables."""
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
    """An HTTP session with the service account's token for Google's endpoint; None (the SDK's default) for others."""
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
