"""PyPI's `llm-comply`, a checker of model APIs, against the local stack: one run for each API that is spoken."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from local.stack import Stack
from local.token import id_token
from tests.e2e.test_popular_clients import PYTHON

WAIT_SECONDS = 300.0
# An API's name, the path of its base URL, and a model's name with which nothing is skipped.
FORMATS = {
    "openai-chat": ("/v1", "gpt-5-demo"),
    "anthropic": ("/v1", "claude-opus-demo"),
    "google-genai": ("", "gemini-demo"),
    "open-responses": ("/v1", "gpt-5-demo"),
}
# The demo upstream has no such fields, and Holdfast adds nothing to an answer.
DEMO_S_OWN = {"choices[0].message missing 'annotations' field", "functionCall part has no id field"}


@pytest.fixture(scope="module")
def runs(stack: Stack) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A run of each format. All are started at once, since most of their time is the demo upstream's pace."""
    assert PYTHON.exists(), "The checker is not there: run './local/setup.sh tests'."
    token = id_token("checker")
    started = {}
    for name, (path, model) in FORMATS.items():
        asked = ["--format", name, "--base-url", f"{stack.url}{path}", "--api-key", token, "--model", model]
        command = [str(PYTHON.with_name("llm-comply")), *asked, "--json"]
        started[name] = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    yield started
    for each in started.values():
        each.kill()
        each.communicate(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_checker_of_model_apis_finds_no_fault(runs: dict[str, subprocess.Popen[str]], name: str) -> None:
    printed, _ = runs[name].communicate(timeout=WAIT_SECONDS)
    report: dict[str, Any] = json.loads(printed)
    faults = [each for each in report["results"] if each["status"] != "passed"]
    warnings = {warning for each in report["results"] for warning in each.get("warnings", ())}
    assert (faults, warnings - DEMO_S_OWN) == ([], set())
    assert report["summary"]["passed"] == report["summary"]["total"] >= 9
