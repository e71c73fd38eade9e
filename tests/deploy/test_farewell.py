"""Runs what deploy.sh prints at the end, against the local stack."""

from __future__ import annotations

import re
import subprocess
import uuid

import pytest

from local.client import Client, Frame
from local.demo_text import seed_of, text
from local.token import id_token
from tests.deploy.cloud import Cloud
from tests.e2e.node_script import run

UNLESS_SAID = 120  # tokens


@pytest.fixture
def question() -> str:
    return f"Hi {uuid.uuid4().hex}"


@pytest.fixture
def said(cloud: Cloud, client: Client, question: str) -> str:
    """The last words, of what is where the local stack is."""
    done = cloud.run("--dry-run", UPSTREAM_MODELS="demo,gpt-*")
    assert done.code == 0, done.err
    (url,) = re.findall("# The API is at (.*)", done.out)
    last = done.out.partition("# The API is at")[2].replace("\n# ", "\n").replace("\n#\n", "\n\n")
    return last.replace(url, client.url).replace("Hi", question)


def test_the_curl_line_streams_an_answer(client: Client, said: str, question: str) -> None:
    command = said[said.index("curl") :].partition("\n\n")[0]
    environ = {"TOKEN": id_token(client.user), "PATH": "/usr/bin:/bin"}
    shell = ["sh", "-euc", command]
    out = subprocess.run(shell, env=environ, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    *frames, done = [Frame.parse(raw) for raw in out.split("\n\n") if raw]
    assert done.data == "[DONE]"
    assert len(frames) > UNLESS_SAID


def test_the_app_s_lines_stream_an_answer(client: Client, said: str, question: str) -> None:
    code = said[said.index("import {") :].strip()
    imported, _, body = code.partition("\n")
    assert imported == "import { getFunctions, httpsCallableFromURL } from 'firebase/functions';"
    around = """
        import { httpsCallableFromURL } from '@firebase/functions';
        import { functionsOf } from './functions.mjs';
        const app = undefined;
        const getFunctions = () => functionsOf(order.token);
        console.log = say;
    """
    *deltas, state = run(around + body, token=id_token(client.user))
    assert state == "completed"
    assert "".join(deltas) == text(seed_of([{"role": "user", "content": question}]), UNLESS_SAID)
