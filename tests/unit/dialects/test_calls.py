"""What each upstream call took: what it said, else what was seen of it."""

from __future__ import annotations

import json

import pytest

from lib.dialects import DIALECTS
from lib.dialects.attempts import begin_call, folded_attempts
from lib.dialects.calls import Calls, seen
from lib.dialects.protocol import Malformed
from lib.dialects.salvage import salvaged
from lib.dialects.steps import Finish, Reasoning, Text, ToolCall, Usage
from lib.domain.event import Event
from lib.domain.usage import Spent

CHAT = DIALECTS["chat_completions"]
SAID = Usage({"prompt_tokens": 30, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 20}})


def chunk(text: str = "", finish: str | None = None, **more: object) -> Event:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return Event(json.dumps({"id": "c", "choices": [choice], **more}).encode())


def calls(*events: tuple[object, ...]) -> tuple[Spent, ...]:
    taken = Calls()
    for steps in events:
        taken.add(steps)  # type: ignore[arg-type]
    return taken.spent


def test_a_call_that_finished_took_what_the_upstream_said() -> None:
    assert calls((Text("x" * 400),), (Finish("stop"),), (SAID,)) == (Spent(30, 9, 20),)


def test_a_call_that_did_not_finish_took_at_least_what_was_seen_of_it() -> None:
    begun = Usage({"input_tokens": 25, "output_tokens": 1})  # as Messages begins
    assert calls((begun,), (Text("ab"),), (Text("cd"),), (Text("ef"),)) == (Spent(25, 3),)
    assert calls((Usage({"output_tokens": 50}),), (Text("ab"),)) == (Spent(0, 50),)


def test_a_later_usage_replaces_the_fields_that_it_has() -> None:
    first, last = Usage({"input_tokens": 25, "output_tokens": 1}), Usage({"output_tokens": 40})
    assert calls((first,), (Text("a"),), (Finish("end_turn"), last)) == (Spent(25, 40),)


def test_seen_are_events_or_a_fourth_of_the_characters_of_all_that_is_output() -> None:
    assert calls((Text("a"),), (Reasoning("b"),), (ToolCall(0, "", "", "c"),)) == (Spent(0, 3),)
    assert calls((Text("12345678"),), (Reasoning("1234"),), (ToolCall(0, "i", "name", "12345678"),)) == (Spent(0, 6),)
    assert calls((Text("123456789"),)) == (Spent(0, 3),) == (seen("123456789"),)
    assert calls() == (Spent(),) == (seen(""),)


def test_an_event_without_a_word_is_none() -> None:
    answer = CHAT.answer()
    for event in (chunk(), chunk("one"), chunk("two"), chunk(), chunk("", "stop")):
        answer.add(CHAT.read(event))
    assert answer.calls.spent == (Spent(0, 2),)


def test_each_attempt_s_call_is_counted_by_itself() -> None:
    attempts = [(1, [chunk("one"), chunk("two")]), (1, [chunk("more")]), (3, [chunk("rest"), chunk("", "stop")])]
    answer = folded_attempts(CHAT, attempts)
    assert answer.calls.spent == (Spent(0, 3), Spent(0, 1))
    said, silent = salvaged(CHAT, attempts, lambda: "")
    assert (said.calls, silent) == (answer.calls.spent, False)
    begin_call(CHAT, answer)
    answer.add(CHAT.read(chunk("more")))
    assert answer.calls.spent == (Spent(0, 3), Spent(0, 1), Spent(0, 1))


def test_reading_on_what_is_generated_in_the_background_is_no_other_call() -> None:
    responses = DIALECTS["responses"]
    created = {"type": "response.created", "sequence_number": 0}
    created |= {"response": {"id": "resp_1", "status": "queued", "background": True, "output": []}}
    delta = {"type": "response.output_text.delta", "sequence_number": 1, "output_index": 0, "content_index": 0}
    events = [Event(json.dumps(each).encode(), each["type"].encode()) for each in (created, delta | {"delta": "one"})]
    answer = folded_attempts(responses, [(1, events)])
    begin_call(responses, answer)
    assert len(answer.calls.spent) == 1


def test_what_can_not_be_read_is_left_out_where_that_is_wanted() -> None:
    attempts = [(1, [chunk("one"), Event(b"no JSON")])]
    with pytest.raises(Malformed):
        folded_attempts(CHAT, attempts)
    assert folded_attempts(CHAT, attempts, tolerant=True).calls.spent == (Spent(0, 1),)
    said, _ = salvaged(None, attempts, lambda: "12345678")
    assert said.calls == (Spent(0, 2),)
