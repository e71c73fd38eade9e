"""Spans at the end of a process, and without a reachable collector: none is lost that could be sent, and nothing waits
for one that can't be.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import requests

from local.client import Client, question
from local.ports import Ports
from local.stack import Stack
from tests.conftest import STRICT
from tests.e2e.collector import Collector

PATIENCE = 60.0
# Cloud Run gives 10, and a busy machine may take longer; gunicorn kills what has not ended after 30.
END_SECONDS = 25.0
NEVER = "3600000"  # milliseconds


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def stack(stack: Stack, collector: Collector) -> Iterator[Stack]:
    """Its spans are sent by the end of the process and by nothing else."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": NEVER}
    with Stack(Ports.free(), settings, environ, STRICT, stack) as running:
        yield running


def told_to_end(stack: Stack, name: str) -> bool:
    """Whether it ended before gunicorn would have killed it."""
    stack.processes[name].terminate()
    return stack.processes[name].end(time.monotonic() + END_SECONDS)


def test_the_spans_of_an_answer_that_was_under_way_are_sent_by_the_end_of_both_processes(
    stack: Stack, client: Client, collector: Collector
) -> None:
    with client.stream(question("a long one", 4000, rate=20)) as stream:
        frames = stream.frames()
        next(frames)
        assert collector.spans == []
        assert told_to_end(stack, "worker")
        attempt = collector.until(lambda spans: [span for span in spans if span.name == "attempt"])[0]
        assert attempt.attributes["generation"] == stream.generation
        assert {span.name for span in collector.spans if span.trace == attempt.trace} == {
            "POST /",
            "attempt",
            "upstream",
            "enqueue",  # of the task that hands the answer over
        }
        assert told_to_end(stack, "api")
        asked = collector.until(lambda spans: any(span.name == "POST /v1/chat/completions" for span in spans) and spans)
        (call,) = requests.get(f"{stack.upstream_url}/demo/calls", timeout=PATIENCE).json()
        assert "traceparent" not in call["headers"]  # unless it is set to be told
        assert {span.name for span in asked if span.service == "holdfast-api" and span.trace == attempt.trace} == {
            "POST /v1/chat/completions",
            "enqueue",
        }


@pytest.mark.parametrize("collector_is", ["deaf", "away"])
def test_a_collector_that_does_not_answer_holds_up_neither_an_answer_nor_the_end(
    stack: Stack, client: Client, collector_is: str
) -> None:
    with Collector(deaf=True) as deaf:
        url = deaf.url
        if collector_is == "deaf":
            held_up(stack, client, url)
            assert deaf.called.is_set()
    if collector_is == "away":
        held_up(stack, client, url)


def held_up(stack: Stack, client: Client, collector: str) -> None:
    for name in ("api", "worker"):
        stack.processes[name].kill()
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        stack.restart(name, settings)
        stack.wait_for(name)
    answer = client.complete(question("a short one", 10))
    assert answer.status_code == 200
    assert told_to_end(stack, "worker")
    assert told_to_end(stack, "api")
