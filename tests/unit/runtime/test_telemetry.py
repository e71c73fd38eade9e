"""Spans: their parents and attributes, and that nothing is loaded or sent if tracing is off."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import responses
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask, Response
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lib.domain.errors import ConfigurationError
from lib.runtime import telemetry as telemetry_module
from lib.runtime import trace
from lib.runtime.telemetry import OFF, Telemetry, session_for
from lib.runtime.trace import Trace

ROOT = Path(__file__).resolve().parents[3]
ABOVE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)
GOOGLE = "https://telemetry.googleapis.com"


@pytest.fixture
def made() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(made: InMemorySpanExporter) -> Telemetry:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(made))
    return Telemetry(provider)


@pytest.fixture(autouse=True)
def _no_trace_at_hand() -> Iterator[None]:
    before = trace.current.set(None)
    yield
    trace.current.reset(before)


def place(span: ReadableSpan) -> Trace:
    its = span.get_span_context()
    assert its is not None
    return Trace(f"{its.trace_id:032x}", f"{its.span_id:016x}", bool(its.trace_flags.sampled))


def above(span: ReadableSpan) -> str | None:
    return f"{span.parent.span_id:016x}" if span.parent else None


def test_a_span_is_a_part_of_the_one_it_was_begun_in(telemetry: Telemetry, made: InMemorySpanExporter) -> None:
    trace.current.set(ABOVE)
    with telemetry.span("outer", "SERVER") as outer:
        assert trace.current.get() == outer.trace
        with telemetry.span("inner"):
            pass
        assert trace.current.get() == outer.trace
    assert trace.current.get() == ABOVE
    inner, found = made.get_finished_spans()
    assert place(found) == outer.trace
    assert (above(found), above(inner)) == (ABOVE.span_id, place(found).span_id)
    assert {place(span).trace_id for span in (inner, found)} == {ABOVE.trace_id}


def test_without_a_trace_one_begins(telemetry: Telemetry, made: InMemorySpanExporter) -> None:
    with telemetry.span("first") as span:
        assert span.trace is not None
    (found,) = made.get_finished_spans()
    assert above(found) is None
    assert trace.current.get() is None


def test_a_trace_that_is_not_recorded_above_is_passed_on_and_not_recorded_here(
    telemetry: Telemetry, made: InMemorySpanExporter
) -> None:
    trace.current.set(Trace(ABOVE.trace_id, ABOVE.span_id, sampled=False))
    with telemetry.span("quiet") as span:
        assert span.trace is not None
        assert (span.trace.trace_id, span.trace.sampled) == (ABOVE.trace_id, False)
    assert made.get_finished_spans() == ()


def test_of_an_exception_a_span_has_the_kind_and_not_a_word(telemetry: Telemetry, made: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="canary"), telemetry.span("failing", upstream="one", status=None):
        raise ValueError("canary")
    (found,) = made.get_finished_spans()
    assert (found.status.is_ok, found.status.description) == (False, "ValueError")
    assert (dict(found.attributes or {}), found.events) == ({"upstream": "one"}, ())


def test_where_no_spans_are_made_the_trace_is_passed_on_as_it_is() -> None:
    trace.current.set(ABOVE)
    with OFF.span("nothing", "CLIENT", generation="g") as span:
        assert span.trace == trace.current.get() == ABOVE
        span.set(state="completed")
        span.fail("reason")
    OFF.close()


def test_a_request_is_a_span_until_its_answer_has_been_sent(telemetry: Telemetry, made: InMemorySpanExporter) -> None:
    app = Flask("app")
    seen = []

    @app.get("/things/<name>")
    def thing(name: str) -> Response:
        def body() -> Iterator[str]:
            seen.append((trace.current.get(), len(made.get_finished_spans())))
            yield name

        return Response(body(), headers={"X-Generation-Id": "g1"})

    telemetry.instrument(app)
    answer = app.test_client().get("/things/canary?more=canary", headers={"traceparent": ABOVE.traceparent})
    assert answer.text == "canary"
    answer.close()
    (found,) = made.get_finished_spans()
    assert seen == [(place(found), 0)]
    assert (found.name, above(found)) == ("GET /things/<name>", ABOVE.span_id)
    assert dict(found.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/things/<name>",
        "http.response.status_code": 200,
        "generation": "g1",
    }
    assert trace.current.get() is None


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": ABOVE.traceparent},
        {"X-Cloud-Trace-Context": f"{ABOVE.trace_id}/{int(ABOVE.span_id, 16)};o=1"},
    ],
    ids=["traceparent", "X-Cloud-Trace-Context"],
)
def test_a_request_is_of_the_trace_that_either_header_names(headers: dict[str, str]) -> None:
    app, seen = Flask("app"), []
    app.get("/")(lambda: seen.append(trace.current.get()) or "ok")  # type: ignore[func-returns-value]
    OFF.instrument(app)
    app.test_client().get("/", headers=headers).close()
    app.test_client().get("/").close()
    assert seen == [ABOVE, None]


def test_a_request_that_leads_nowhere_is_named_so_and_a_probe_is_no_span(
    telemetry: Telemetry, made: InMemorySpanExporter
) -> None:
    app = Flask("app")
    app.get("/ready")(lambda: "ok")
    telemetry.instrument(app, excluded=["/ready"])
    app.test_client().get("/ready").close()
    app.test_client().post("/canary").close()
    (found,) = made.get_finished_spans()
    assert found.name == "POST no route"


class Stuck(TracerProvider):
    """A provider whose flush waits for a collector that never answers."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.asked = threading.Event()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.asked.set()
        return threading.Event().wait(60)


def test_the_end_of_a_process_waits_neither_for_a_span_nor_for_a_collector_for_ever() -> None:
    provider = Stuck()
    telemetry = Telemetry(provider)
    telemetry.span("under way")
    closing = threading.Thread(target=telemetry.close, daemon=True)
    closing.start()
    closing.join(telemetry_module.CLOSE_SECONDS["worker"] + telemetry_module.SEND_SECONDS + 20)
    assert provider.asked.is_set()
    assert not closing.is_alive()


def test_the_end_of_a_process_waits_for_a_span_that_is_about_to_end(
    telemetry: Telemetry, made: InMemorySpanExporter
) -> None:
    span = telemetry.span("under way")
    closing = threading.Thread(target=telemetry.close, daemon=True)
    closing.start()
    span.end()
    closing.join(60)
    assert [each.name for each in made.get_finished_spans()] == ["under way"]


def test_nothing_of_opentelemetry_is_loaded_where_no_spans_are_made() -> None:
    code = """
import sys
import main, lib.wires.api, lib.engine.worker, lib.cloud.task_queue
from lib.runtime.settings import Settings
from lib.runtime.telemetry import Telemetry
settings = Settings.from_env({
    "GOOGLE_CLOUD_PROJECT": "demo", "WORKER_URL": "http://w", "TASKS_INVOKER": "i", "UPSTREAM_BASE_URL": "http://u",
    "UPSTREAM_MODELS": "*",
})
with Telemetry.from_settings(settings, "api").span("nothing") as span:
    span.set(state="completed")
parts = tuple(f"opentelemetry.{part}" for part in ("trace", "sdk", "exporter"))
print([name for name in sys.modules if name.startswith(parts)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.fixture
def service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A service account's key file, whose tokens are given out at this URL."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    tokens = "https://tokens.example/token"
    account = {
        "type": "service_account",
        "client_email": "api@demo.iam.gserviceaccount.com",
        "private_key": key.decode(),
        "token_uri": tokens,
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return tokens


def test_google_s_own_endpoint_gets_the_service_account_s_token(service_account: str) -> None:
    session = session_for(GOOGLE)
    with responses.RequestsMock() as net:
        net.post(service_account, json={"access_token": "T", "expires_in": 3600})
        net.post(f"{GOOGLE}/v1/traces")
        session.post(f"{GOOGLE}/v1/traces", data=b"spans")
        assert net.calls[1].request.headers["authorization"] == "Bearer T"


def test_another_endpoint_gets_no_token_of_google_s(service_account: str) -> None:
    for endpoint in ("http://127.0.0.1:4318", "https://otlp.example", "https://telemetry.googleapis.com.example"):
        assert session_for(endpoint) is None
    assert isinstance(session_for(GOOGLE), requests.Session)


def test_google_s_endpoint_without_a_service_account_is_a_setting_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(ConfigurationError, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT: "):
        session_for(GOOGLE)
