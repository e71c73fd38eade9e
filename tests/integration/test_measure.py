"""`make measure` against the local stack: what it prints, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from local.ports import free_port
from local.stack import QUEUE, Stack
from local.token import PROJECT
from operations.measure import main

LOCATION = QUEUE.partition("/queues/")[0]

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0
HERE = ("--location", "us-central1")
SHORT = ("--seconds", "0.5", "--rates", "10")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def environ(stack: Stack) -> dict[str, str]:
    return {**os.environ, "FIRESTORE_EMULATOR_HOST": stack.firestore_host, "TASKS_EMULATOR_HOST": stack.tasks_host}


@pytest.fixture
def run(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command: its exit status, and what it printed."""

    def run(*argv: str, **changes: str) -> tuple[int, str, str]:
        for name, value in {**environ, **changes}.items():
            monkeypatch.setenv(name, value)
        status = main([*argv, "--project", PROJECT], {**environ, **changes})
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def queues(stack: Stack) -> Iterator[tasks_v2.CloudTasksClient]:
    with grpc.insecure_channel(stack.tasks_host) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def left(database: Any, queues: tasks_v2.CloudTasksClient) -> Callable[[], list[str]]:
    """What is there of measuring."""

    def left() -> list[str]:
        documents = [
            document.path
            for run in database.collection("holdfastMeasure").list_documents()
            for collection in run.collections()
            for document in collection.list_documents()
        ]
        names = [queue.name for queue in queues.list_queues(parent=LOCATION)]
        return documents + [name for name in names if "measure" in name]

    return left


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@contextmanager
def answering(status: int) -> Iterator[str]:
    """The URL of a server that answers everything with this status."""

    class Request(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Request) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def rows(out: str) -> list[list[float]]:
    """The lines of numbers that were printed."""
    lines = [line.replace(",", "").split() for line in out.splitlines() if line[:1] == " "]
    return [[float(each) for each in line] for line in lines if all(each[:1].isdigit() for each in line)]


def test_every_rate_is_measured_and_every_task_and_nothing_is_left(
    run: Run, silent: str, left: Callable[[], list[str]]
) -> None:
    status, out, err = run("--seconds", "0.5", "--rates", "10,20", *HERE, "--tasks", "30", "--target", silent)
    assert (status, err) == (0, "")
    *commits, tasks = rows(out)
    assert [row[0] for row in commits] == [10, 20]
    for _, made, *latencies, aborted, failed, missed in commits:
        assert made > 0
        for p50, p95, most in (latencies[:3], latencies[3:]):
            assert 0 <= p50 <= p95 <= most
        assert (aborted, failed, missed) == (0, 0, 0)
    assert len(tasks) == 3
    assert "FLUSH_SECONDS=" in out or "Even the lowest rate does not hold." in out
    assert left() == []


def test_without_a_location_tasks_are_not_measured_and_it_says_so(run: Run, left: Callable[[], list[str]]) -> None:
    status, out, _ = run(*SHORT)
    assert (status, out.splitlines()[-1]) == (0, "Tasks were not measured: that takes the queue's --location.")
    assert left() == []


def test_contention_is_counted_and_no_interval_is_suggested(
    stack: Stack, run: Run, left: Callable[[], list[str]]
) -> None:
    between = [sys.executable, "-m", "local.firestore_proxy", "--target", stack.firestore_host]
    with subprocess.Popen(between, cwd=ROOT, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            addresses = dict(part.split("=", 1) for part in proxy.stdout.readline().split() if "=" in part)
            host, faults = addresses["grpc"], addresses["http"]
            requests.post(f"{faults}/faults", json={"share": 0.5, "done": 0.0}, timeout=WAIT_SECONDS).raise_for_status()
            arguments = ["--seconds", "3", "--rates", "20", "--project", PROJECT]
            with subprocess.Popen(
                [sys.executable, "-m", "operations.measure", *arguments],
                cwd=ROOT,
                env={**os.environ, "FIRESTORE_EMULATOR_HOST": host},
                stdout=subprocess.PIPE,
                text=True,
            ) as measuring:
                assert measuring.stdout is not None
                lines = iter(measuring.stdout.readline, "")
                printed = [next(line for line in lines if rows(line))]
                requests.post(f"{faults}/faults", json={"share": 0.0}, timeout=WAIT_SECONDS).raise_for_status()
                printed += lines
        finally:
            proxy.terminate()
    ((_, made, *_, aborted, failed, missed),) = rows("".join(printed))
    assert made > 0
    assert aborted > 0
    assert failed > 0
    assert missed == 0
    assert "Even the lowest rate does not hold." in "".join(printed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("part", ["commits", "tasks"])
def test_who_interrupts_it_finds_nothing_left(
    environ: dict[str, str], silent: str, left: Callable[[], list[str]], part: str, number: signal.Signals
) -> None:
    seconds = ["--seconds", "60" if part == "commits" else "0.2", "--rates", "10"]
    with answering(500) as away:
        arguments = [*seconds, *HERE, "--tasks", "1000", "--target", silent if part == "commits" else away]
        measuring = subprocess.Popen(
            [sys.executable, "-m", "operations.measure", "--project", PROJECT, *arguments],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wanted = "holdfastMeasure/" if part == "commits" else "queues/holdfast-measure"
            threading.Event().wait(0.5)
            while not any(wanted in each for each in left()):
                assert measuring.poll() is None, measuring.communicate()
                threading.Event().wait(0.02)
            measuring.send_signal(number)
            _, err = measuring.communicate(timeout=WAIT_SECONDS)
        finally:
            measuring.kill()
            measuring.communicate()
    assert measuring.returncode == 130
    assert err.endswith("Interrupted. What was made is removed.\n")
    assert left() == []


def test_the_queue_has_the_limits_of_the_service_s(run: Run, silent: str, queues: tasks_v2.CloudTasksClient) -> None:
    name = f"{LOCATION}/queues/slow"
    slow = tasks_v2.Queue(name=name, rate_limits=tasks_v2.RateLimits(max_dispatches_per_second=5))
    queues.create_queue(parent=LOCATION, queue=slow)
    try:
        status, out, _ = run(*SHORT, *HERE, "--queue", "slow", "--tasks", "10", "--target", silent)
    finally:
        queues.delete_queue(name=name)
    *_, (_, _, most) = rows(out)
    assert status == 0
    assert most >= 500  # ms: five at once, and one each fifth of a second


def test_a_target_that_refuses_or_accepts_is_told_of(run: Run, left: Callable[[], list[str]]) -> None:
    with answering(500) as refusing:
        status, out, _ = run(*SHORT, *HERE, "--tasks", "50", "--target", refusing)
        assert (status, len(rows(out)[-1])) == (0, 3)
        assert "were refused by the target, which slows a queue down: it may be faster than this." in out
    with answering(200) as accepting:
        status, out, _ = run(*SHORT, *HERE, "--tasks", "50", "--target", accepting)
        assert status == 0
        assert " were accepted by the target, so nothing is known of them: use one that never answers." in out
    assert left() == []


def test_tasks_that_are_not_dispatched_in_time_are_told_of(
    run: Run, silent: str, queues: tasks_v2.CloudTasksClient, left: Callable[[], list[str]]
) -> None:
    name = f"{LOCATION}/queues/narrow"
    narrow = tasks_v2.Queue(name=name, rate_limits=tasks_v2.RateLimits(max_concurrent_dispatches=1))
    queues.create_queue(parent=LOCATION, queue=narrow)
    try:
        status, out, _ = run(*SHORT, *HERE, "--queue", "narrow", "--tasks", "3", "--target", silent, "--patience", "1")
    finally:
        queues.delete_queue(name=name)
    assert (status, out.splitlines()[-1]) == (0, "2 were not dispatched in time.")
    assert left() == []


def test_a_queue_that_is_not_there_is_told_with_the_remedy(run: Run, left: Callable[[], list[str]]) -> None:
    status, _, err = run(*SHORT, *HERE, "--queue", "nowhere")
    assert status == 1
    assert err.startswith("Refused: 404 Queue does not exist\nCheck --project, --database, --location and --queue,")
    assert left() == []


def test_where_firestore_is_away_it_says_so(run: Run) -> None:
    status, out, err = run(*SHORT, FIRESTORE_EMULATOR_HOST=f"127.0.0.1:{free_port()}")
    assert (status, out) == (1, "")
    assert err.startswith("Firestore can't be reached (ServiceUnavailable).\nCheck --project,")
