"""On a machine whose way out is a proxy, the parts of a local stack still find each other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from requests.utils import should_bypass_proxies

from local.client import Client
from local.ports import HOST, free_port

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("no_proxy", "NO_PROXY")


@pytest.mark.parametrize("given", [None, *NAMES])
def test_a_command_of_the_project_reaches_this_machine_without_a_proxy(given: str | None) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in NAMES}
    if given:
        environ[given] = "corp.example"
    done = subprocess.run(
        ["make", "--silent", "--eval", "shown:\n\t@echo $$no_proxy $$NO_PROXY", "shown"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    lower, upper = done.stdout.split()
    assert lower == upper
    assert "" not in lower.split(",")  # for gRPC this would be every host
    for here in (HOST, "localhost"):
        assert should_bypass_proxies(f"http://{here}:8080/", lower)
    assert should_bypass_proxies("https://api.corp.example/", lower) is bool(given)
    assert not should_bypass_proxies("https://api.openai.com/", lower)


class Authorization(BaseHTTPRequestHandler):
    """Answers with the header."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Authorization"].encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer((HOST, 0), Authorization) as server:
        serving = Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        serving.join()


def test_the_client_goes_by_no_variable_and_no_file_of_the_machine(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:{free_port()}")
    logins = tmp_path / "netrc"
    logins.write_text("default login someone password else\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(logins))
    client = Client(url, "alice")
    assert client.request("GET", "/").text == client.session.headers["Authorization"]
