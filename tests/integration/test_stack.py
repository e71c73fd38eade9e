"""The local stack as a command: it starts, prints one line, ends on a signal or when a part dies, and cleans up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import requests

from local.client import Client, question
from local.demo_text import seed_of, text
from local.ports import Ports
from local.stack import Stack
from local.strict import STRICTNESSES, Strict
from tests.conftest import calls_of

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS = 60.0


@contextmanager
def running(ports: Ports, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """`make run`'s command on these ports."""
    variables = {name.upper(): str(port) for name, port in asdict(ports).items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "local.stack"],
        cwd=ROOT,
        env={**os.environ, **variables, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def nothing_left(parts: list[psutil.Process], ports: Ports) -> None:
    """Waits until every part has ended and every port is free."""
    gone, alive = psutil.wait_procs(parts, timeout=WAIT_SECONDS)
    assert not alive
    assert len(gone) == len(parts)
    ports.check()


def answer(url: str) -> str:
    return str(Client(url, "alice").complete(question("hi", 2, rate=0)).json()["choices"][0]["message"]["content"])


def test_the_stack_says_when_it_is_ready_and_leaves_nothing_when_it_is_told_to_end() -> None:
    ports = Ports.free()
    with running(ports) as process:
        assert said(process) == f"ready http://127.0.0.1:{ports.api_port}"
        parts = psutil.Process(process.pid).children(recursive=True)
        assert len(parts) >= 7  # the emulators, the upstream, and a master and a worker for each function
        assert answer(f"http://127.0.0.1:{ports.api_port}") == text(seed_of(question("hi", 2)["messages"]), 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_SECONDS)
        assert (process.returncode, out, err) == (0, "", "")
        nothing_left(parts, ports)


def test_the_stack_ends_while_a_stream_is_open() -> None:
    ports = Ports.free()
    with running(ports) as process:
        url = said(process).removeprefix("ready ")
        parts = psutil.Process(process.pid).children(recursive=True)
        with Client(url, "alice").stream(question("hi", 5000, rate=50)) as stream:
            next(stream.frames())
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=WAIT_SECONDS)
        assert (process.returncode, out, err) == (0, "", "")
        nothing_left(parts, ports)


def test_when_one_part_dies_the_stack_says_which_and_ends() -> None:
    ports = Ports.free()
    with running(ports) as process:
        said(process)
        parts = psutil.Process(process.pid).children(recursive=True)
        port = str(ports.tasks_port)
        victim = next(part for part in psutil.Process(process.pid).children() if port in " ".join(part.cmdline()))
        victim.kill()
        _, err = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 1
        assert err.startswith("tasks ended unexpectedly.")
        nothing_left(parts, ports)


def test_every_part_that_dies_is_named() -> None:
    with Stack(Ports.free(), strict=Strict()) as stack:
        assert stack.dead() is None
        assert stack.processes.keys() >= {"firestore", "tasks", "firestore-proxy", "upstream", "api", "front-worker"}
        # From the last on, because of several the first is named.
        for name in reversed(stack.processes):
            stack.processes[name].kill()
            dead = stack.dead()
            assert dead is not None
            assert dead.name == name


def test_even_a_killed_stack_leaves_nothing_behind() -> None:
    ports = Ports.free()
    with running(ports) as process:
        said(process)
        parts = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        nothing_left(parts, ports)


def test_a_taken_port_is_one_line_with_the_remedy() -> None:
    ports = Ports.free()
    with socket.create_server(("127.0.0.1", ports.worker_port)), running(ports) as process:
        out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out) == (1, "")
    assert err == f"Port {ports.worker_port} is taken: end what listens there, or set WORKER_PORT.\n"


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"API_PORT": "x"}, "API_PORT must be a port from 1 to 65535, and is 'x'."),
        ({"FIRESTORE_EMULATOR_JAR": "/nowhere.jar"}, "FIRESTORE_EMULATOR_JAR names /nowhere.jar, which is no file."),
        (
            {"HOLDFAST_STRICT": "raeds"},
            f"STRICT must be 0, 1, or some of {','.join(STRICTNESSES)}, and has 'raeds'.",
        ),
    ],
    ids=["port", "jar", "strict"],
)
def test_what_is_wrong_is_said_in_one_line(environ: dict[str, str], line: str) -> None:
    with running(Ports.free(), **environ) as process:
        out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out, err) == (1, "", line + "\n")


def test_a_strict_stack_has_a_proxy_and_front_ends_and_each_strictness_alone() -> None:
    ports = Ports.free()
    with running(ports, HOLDFAST_STRICT="budget") as process:
        url = said(process).removeprefix("ready ")
        parts = psutil.Process(process.pid).children(recursive=True)
        commands = [" ".join(part.cmdline()) for part in parts]
        (proxy,) = [command for command in commands if "local.firestore_proxy" in command]
        assert '{"budget": 1.0}' in proxy
        (tasks,) = [command for command in commands if "local.tasks_emulator" in command]
        assert tasks.endswith("--faults {}")
        assert len([command for command in commands if "local.front_end" in command]) == 2
        assert requests.get(f"{url}/healthz", timeout=WAIT_SECONDS).status_code == 404  # the front end's
        assert requests.get(f"{url}/health", timeout=WAIT_SECONDS).status_code == 200
        worker = f"http://127.0.0.1:{ports.worker_port}/"
        assert requests.post(worker, json={}, timeout=WAIT_SECONDS).status_code == 403
        with Client(url, "alice").stream(question("strictly", 3, rate=0)) as stream:
            assert list(stream.frames())[-1].data == "[DONE]"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_SECONDS)
    nothing_left(parts, ports)


def test_both_functions_can_run_once_more_with_other_settings_and_end_for_good(stack: Stack) -> None:
    before = dict(stack.processes)
    url = stack.add_functions("second", {"MAX_REQUEST_BYTES": "500"})
    parts = [psutil.Process(stack.processes[name].pid) for name in ("second-api", "second-worker")]
    before["worker"].pause()
    try:
        assert answer(url) == text(seed_of(question("hi", 2)["messages"]), 2)
    finally:
        before["worker"].resume()
    too_large = question("x" * 500, 2)
    assert Client(url, "alice").complete(too_large).status_code == 413
    assert Client(stack.url, "alice").complete(too_large).status_code == 200
    stack.end("second-api", "second-worker")
    assert not psutil.wait_procs(parts, timeout=WAIT_SECONDS)[1]
    assert stack.processes == before


def test_another_upstream_can_take_the_demo_upstreams_place(stack: Stack) -> None:
    ports = Ports.free()
    key = "another-key"
    with running(ports, UPSTREAM_BASE_URL=f"{stack.upstream_url}/v1", UPSTREAM_API_KEY=key) as process:
        url = said(process).removeprefix("ready ")
        names = [" ".join(part.cmdline()) for part in psutil.Process(process.pid).children()]
        assert not any("local.demo_upstream" in name for name in names)
        with Client(url, "alice").stream(question("elsewhere", 3, rate=0)) as stream:
            list(stream.frames())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_SECONDS)
    (call,) = calls_of(stack, "elsewhere")
    assert {name.lower(): value for name, value in call["headers"].items()}["authorization"] == f"Bearer {key}"
