"""The counts in the usage of any API."""

from __future__ import annotations

from typing import Any

import pytest

from lib.dialects.counts import Counts, counted

CHAT = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
RESPONSES = {
    "input_tokens": 10,
    "output_tokens": 7,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "output_tokens_details": {"reasoning_tokens": 3},
}
MESSAGES = {"input_tokens": 4, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 7}
GEMINI = {
    "promptTokenCount": 8,
    "toolUsePromptTokenCount": 2,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 4,
    "thoughtsTokenCount": 3,
}


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (CHAT, Counts(10, 7, 4, 0, 3)),
        (RESPONSES, Counts(10, 7, 4, 2, 3)),
        (MESSAGES, Counts(10, 7, 4, 2, 0)),
        (GEMINI, Counts(10, 7, 4, 0, 3)),
        ({}, Counts(0, 0, 0, 0, 0)),
        ({"prompt_tokens": "10", "completion_tokens": -1, "prompt_tokens_details": None}, Counts(0, 0, 0, 0, 0)),
    ],
    ids=["chat completions", "responses", "messages", "gemini", "none", "wrong"],
)
def test_each_api_s_usage_has_the_same_counts(usage: dict[str, Any], counts: Counts) -> None:
    assert counted(usage) == counts
