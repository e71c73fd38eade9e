"""Runs the client snippets in `docs/clients.md` unchanged."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local.client import Client, Frame
from local.client import question as asking
from local.demo_text import seed_of, text
from local.token import id_token
from tests.e2e.callable_lines import heard
from tests.e2e.node_script import run
from tests.e2e.test_popular_clients import HERE as POPULAR
from tests.e2e.test_popular_clients import PYTHON

DOC = Path(__file__).resolve().parents[2] / "docs" / "clients.md"
UNLESS_SAID = 120  # tokens
RUN = [
    "## Firestore listener (no SSE)",
    "## Where messages lie",
    "## Turns of a chat",
    "### Web",
    "## OpenAI's SDKs",
    "## OpenAI Responses",
    "## Anthropic's SDKs",
    "## Google's SDKs",
    "### LangChain",
    "### LiteLLM",
    "### LlamaIndex",
    "### pydantic-ai",
    "### OpenAI's agents",
    "### TanStack AI",
    "## AI SDK",
    "## curl",
]


def snippets(section: str, language: str) -> list[str]:
    """The code of a section, up to the next heading of any level."""
    _, _, rest = DOC.read_text(encoding="utf-8").partition(f"\n{section}\n")
    return re.findall(rf"```{language}\n(.*?)```", re.split(r"\n#{2,} ", rest)[0], re.DOTALL)


def test_each_snippet_is_run_or_says_that_it_is_not() -> None:
    """`test_web_sdk.py` runs the listener's, `test_rules.py` compares the rules, and this file runs the others."""
    sections = re.split(r"\n(?=##+ )", DOC.read_text(encoding="utf-8"))
    shown = {section.partition("\n")[0]: section for section in sections if "\n```" in section}
    silent = [heading for heading, section in shown.items() if "Not run by the project's tests" not in section]
    assert silent == RUN


def ask() -> dict[str, Any]:
    """The variables that the snippets have."""
    messages = asking(uuid.uuid4().hex, 1)["messages"]
    return {"messages": messages, "key": "k", "expected": text(seed_of(messages), UNLESS_SAID)}


APPENDED = """
    let shown = '';
    const show = (text) => { shown += text; };
    const question = messages[0].content;
    SNIPPET
    say(shown);
"""
REPLACED = """
    import { functionsOf } from './functions.mjs';
    const functions = functionsOf(token);
    const shown = [];
    const bubble = { set textContent(text) { shown.push(text); } };
    SNIPPET
    say(shown.at(-1));
"""


@pytest.mark.parametrize(
    ("section", "around"),
    [
        ("### Web", REPLACED),
        ("## AI SDK", APPENDED),
        ("## OpenAI's SDKs", APPENDED),
        ("## Anthropic's SDKs", APPENDED),
        ("## OpenAI Responses", APPENDED),
        ("## Google's SDKs", APPENDED),
    ],
    ids=["callable", "AI SDK", "OpenAI", "Anthropic", "Responses", "Google"],
)
def test_the_documented_javascript_shows_the_answer(client: Client, section: str, around: str) -> None:
    (snippet,) = snippets(section, "js")
    shows_the_answer(client, around.replace("SNIPPET", snippet))


def shows_the_answer(client: Client, code: str, **where: Any) -> None:
    asked = ask()
    code = f"const {{ url, token, messages, key }} = order;\n{code}"
    assert run(code, url=client.url, token=id_token(client.user), **where, **asked) == [asked["expected"]]


def test_the_documented_tanstack_shows_the_answer(client: Client) -> None:
    (code,) = snippets("### TanStack AI", "js")
    code = f"let shown = '';\nconst show = (text) => {{ shown += text; }};\n{code}\nsay(shown);"
    shows_the_answer(client, code, folder=POPULAR, imports="import { order, say } from '../node/order.mjs';")


@pytest.mark.parametrize(
    "section", ["### LangChain", "### LiteLLM", "### LlamaIndex", "### pydantic-ai", "### OpenAI's agents"]
)
def test_the_documented_framework_prints_the_answer(client: Client, section: str) -> None:
    (code,) = snippets(section, "python")
    asked = ask()
    given = {"url": client.url, "token": id_token(client.user), **asked, "question": asked["messages"][0]["content"]}
    command = [PYTHON, "-W", "ignore", "-c", f"import json, sys\nglobals().update(json.load(sys.stdin))\n{code}"]
    printed = subprocess.run(
        command, input=json.dumps(given), capture_output=True, encoding="utf-8", timeout=180, check=True
    ).stdout
    assert printed == asked["expected"]


@pytest.mark.parametrize(
    "section", ["## OpenAI's SDKs", "## OpenAI Responses", "## Anthropic's SDKs", "## Google's SDKs"]
)
def test_the_documented_python_shows_the_answer(
    client: Client,
    upstream_calls: Callable[[str], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    section: str,
) -> None:
    (code,) = snippets(section, "python")
    asked = ask()
    question = asked["messages"][0]["content"]
    given = {"url": client.url, "token": id_token(client.user), **asked, "question": question}
    for _ in range(2):
        exec(textwrap.dedent(code) + "\nclient.close()", dict(given))
        assert capsys.readouterr().out == asked["expected"]
    assert len(upstream_calls(question)) == 1


def test_the_documented_prompt_waits_for_the_one_before_in_its_chat(client: Client, tmp_path: Path) -> None:
    (code,) = snippets("## Turns of a chat", "sh")
    asked = {"messages": [{"role": "user", "content": "first"}], "max_tokens": 20, "demo": {"rate": 20}}
    with client.stream(asked, X_Chat_Id="holidays", X_Turn="queue"):
        pass
    environ = {"URL": client.url, "TOKEN": id_token(client.user), "PATH": "/usr/bin:/bin"}
    command = ["sh", "-euc", code]
    shown = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=60, check=True).stdout
    assert shown.endswith(b"data: [DONE]\n\n")
    second, first = client.list(chat_id="holidays")
    assert first["finishedAt"] <= second["startedAt"]


def test_the_documented_curl_streams_and_resumes(client: Client, tmp_path: Path) -> None:
    (code,) = snippets("## curl", "sh")
    first, resumed, called = code.split("\n\n")
    environ = {"URL": client.url, "TOKEN": id_token(client.user), "KEY": "k", "PATH": "/usr/bin:/bin"}

    def said(script: str) -> str:
        command = ["sh", "-euc", script]
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, encoding="utf-8", timeout=60, check=True
        ).stdout

    *frames, done = [Frame.parse(raw) for raw in said(first).split("\n\n") if raw]
    assert done.data == "[DONE]"
    assert [Frame.parse(raw) for raw in said(resumed).split("\n\n") if raw] == [*frames[5:], done]
    finding = next(line for line in resumed.splitlines() if line.startswith("ID="))
    answer = heard(said(f"{finding}\n{called}").encode())
    assert [(message["seq"], message["event"]) for message in answer.events] == [
        (frame.id, json.loads(frame.data)) for frame in frames[5:]
    ]
