"""Conversations in OpenAI's Responses that are compacted."""

from __future__ import annotations

from typing import Any

import pytest

from lib.domain.errors import InvalidRequest
from lib.wires.responses.compaction import NotSummarised, compacted, opened, summarising

Json = dict[str, Any]
USER: Json = {"type": "message", "role": "user", "content": "Launch when?"}
ASSISTANT: Json = {"role": "assistant", "content": "On Tuesday."}
CALL: Json = {"type": "function_call", "call_id": "c", "name": "look_up", "arguments": '{"day": 2}'}
RESULT: Json = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "free"}]}
USAGE: Json = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}


def response(text: str = "It launches on Tuesday. 🚀", status: str = "completed") -> Json:
    parts = [{"type": "output_text", "text": text}, {"type": "refusal", "refusal": "no"}]
    output = [{"type": "reasoning", "summary": []}, {"type": "message", "content": parts}]
    return {"id": "resp_g", "created_at": 7, "status": status, "output": output, "usage": USAGE}


def test_calls_are_told_in_words_and_nothing_is_kept_of_the_request() -> None:
    fields = {"model": "m", "instructions": "Be brief.", "stream": True, "tools": [CALL], "store": True}
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    asked = summarising(fields, [USER, reasoning, CALL, RESULT, ASSISTANT])
    *told, question = asked.pop("input")
    assert asked == {"model": "m", "instructions": "Be brief.", "store": False}
    assert told == [
        USER,
        {"type": "message", "role": "assistant", "content": 'I call look_up with {"day": 2}'},
        {"type": "message", "role": "user", "content": 'The result: [{"type":"input_text","text":"free"}]'},
        ASSISTANT,
    ]
    assert question["role"] == "user"
    assert "Summarise" in question["content"]


def test_what_users_said_stays_and_the_summary_is_read_back() -> None:
    found = compacted(response(), [USER, ASSISTANT, CALL, RESULT], "g")
    user, summary = found.pop("output")
    assert found == {"id": "resp_g", "object": "response.compaction", "created_at": 7, "usage": USAGE}
    assert (user["role"], user["content"][0]["text"]) == ("user", "Launch when?")
    assert (summary["type"], summary["id"]) == ("compaction", "cmp_g_0")
    kept, message = opened([USER, summary])
    assert (kept, message["role"]) == (USER, "user")
    assert message["content"].endswith("It launches on Tuesday. 🚀")


@pytest.mark.parametrize("short", [response(" "), response(status="incomplete"), response(status="cancelled")])
def test_a_summary_that_is_not_finished_is_none(short: Json) -> None:
    with pytest.raises(NotSummarised):
        compacted(short, [USER], "g")


def test_a_summary_of_openai_s_own_stays_as_it_is() -> None:
    theirs = {"type": "compaction", "encrypted_content": "gAAAAAB"}
    assert opened([theirs]) == [theirs]


@pytest.mark.parametrize("changed", ["_", "A", "é", "gAAA"])
def test_a_summary_that_was_changed_is_an_error_that_names_it(changed: str) -> None:
    item = {"type": "compaction", "encrypted_content": f"holdfast-summary-1.{changed}"}
    with pytest.raises(InvalidRequest) as wrong:
        opened([USER, item])
    assert wrong.value.param == "input[1].encrypted_content"
