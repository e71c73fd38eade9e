"""The web examples as a command: it starts a stack or uses a running one, and cleans up."""

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

from local.ports import Ports
from local.stack import Stack
from local.web import FIREBASE, PAGES, build

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS = 60.0


@contextmanager
def running(ports: Ports, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """`make web`'s command, its stack on these ports."""
    variables = {name.upper(): str(port) for name, port in asdict(ports).items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "local.web", *arguments],
        cwd=ROOT,
        env={**os.environ, "WEB_PORT": "0", **variables, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip().removeprefix("ready ")


def parts(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_with_a_stack_of_its_own_and_leaves_nothing(number: signal.Signals) -> None:
    ports = Ports.free()
    with running(ports) as process:
        url = ready(process)
        config = requests.get(f"{url}/config.json", timeout=WAIT_SECONDS).json()
        push = config.pop("push")
        assert config == {"apiUrl": f"http://127.0.0.1:{ports.api_port}", "firebase": FIREBASE, "model": "demo"}
        assert push == {"emulator": f"http://127.0.0.1:{ports.firestore_port}"}
        assert requests.get(f"{config['apiUrl']}/health", timeout=WAIT_SECONDS).status_code == 200
        started = parts(process)
        assert len(started) >= 7
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT_SECONDS)
        assert (process.returncode, out, err) == (0, "", "")
        _, alive = psutil.wait_procs(started, timeout=WAIT_SECONDS)
        assert not alive
        ports.check()


def test_the_page_goes_beside_a_stack_that_is_up(stack: Stack) -> None:
    with running(stack.ports) as process:
        url = ready(process)
        assert requests.get(f"{url}/config.json", timeout=WAIT_SECONDS).json()["apiUrl"] == stack.url
        assert parts(process) == []


def test_each_page_has_its_own_files_alone_and_may_call_the_api_and_nobody_else(stack: Stack) -> None:
    with running(stack.ports, "--api-url", stack.url) as process:
        url = ready(process)
        for path, other in (("/", "/usechat/"), ("/usechat/", "/")):
            page = requests.get(url + path, timeout=WAIT_SECONDS)
            assert page.headers["Content-Security-Policy"] == (
                f"default-src 'self'; img-src 'self' data:; connect-src 'self' {stack.url}; frame-ancestors 'none'"
            )
            assert "//" not in page.text.partition("<body>")[0]
            for file in ("app.js", "style.css", "icon.svg"):
                assert f'"{path}{file}"' in page.text
                own = requests.get(url + path + file, timeout=WAIT_SECONDS)
                assert own.status_code == 200
                if file != "icon.svg":
                    assert own.content != requests.get(url + other + file, timeout=WAIT_SECONDS).content


@pytest.mark.parametrize("path", PAGES)
def test_a_page_that_is_being_read_stays_as_it_is_while_it_is_built_again(path: str) -> None:
    build()
    with (PAGES[path] / "public" / "app.js").open("rb") as reading:
        build()
        assert os.fstat(reading.fileno()).st_nlink == 0, "what is read was written over"


def test_a_taken_port_is_one_line_with_the_remedy(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(stack.ports, WEB_PORT=str(port)) as process:
            out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"The pages can't be served at port {port} (")
    assert err.endswith("): set WEB_PORT.\n")


def test_without_npm_there_is_one_line_with_the_remedy(stack: Stack, tmp_path: Path) -> None:
    with running(stack.ports, PATH=str(tmp_path)) as process:
        out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out) == (1, "")
    assert err == "There is no npm, which builds the pages: install Node.js 20 or newer.\n"


def test_when_a_part_of_its_stack_dies_the_page_says_which_and_ends() -> None:
    ports = Ports.free()
    with running(ports) as process:
        ready(process)
        started = parts(process)
        next(part for part in started if f"--port {ports.worker_port}" in " ".join(part.cmdline())).kill()
        _, err = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 1
        assert err.startswith("worker ended unexpectedly.")
        _, alive = psutil.wait_procs(started, timeout=WAIT_SECONDS)
        assert not alive
