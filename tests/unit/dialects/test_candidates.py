"""Gemini's events add up to the response, however they are divided."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.protocol import Answer, folded
from lib.domain.event import Event
from tests.unit.dialects.test_gemini import CALL, event, said

GEMINI = DIALECTS["gemini"]
Json = dict[str, Any]
WORDS = st.text(min_size=1, max_size=12)
SIGNATURE = {"thoughtSignature": "c2k="}
PARTS = st.one_of(
    st.fixed_dictionaries({"text": WORDS}),
    st.fixed_dictionaries({"text": WORDS, "thought": st.just(True)}),
    st.fixed_dictionaries({"text": st.text(max_size=3), "thoughtSignature": st.just("c2k=")}),
    st.fixed_dictionaries({"functionCall": st.fixed_dictionaries({"name": WORDS, "args": st.just({"a": 1})})}),
    st.just({"functionCall": CALL, **SIGNATURE}),
    st.fixed_dictionaries({"inlineData": st.just({"mimeType": "image/png", "data": "AAAA"})}),
    st.fixed_dictionaries({"executableCode": st.fixed_dictionaries({"code": WORDS})}),
)


def answer_of(*events: Event, choices: int = 1) -> Answer:
    reading = GEMINI.reading()
    answer = GEMINI.answer(choices)
    for each in events:
        answer.add(reading.read(each))
    return answer


def is_words(part: Json) -> bool:
    return part.keys() <= {"text", "thought"}


def kinds(part: Json) -> tuple[bool, bool]:
    return is_words(part), bool(part.get("thought"))


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[list[Json]], list[Event]]:
    """The parts of one or two candidates, and events that they could have come in."""
    candidates: list[list[Json]] = []
    waiting: list[tuple[int, list[Json]]] = []
    for index in range(draw(st.integers(1, 2))):
        parts: list[Json] = []
        for part in draw(st.lists(PARTS, max_size=5)):
            if not (parts and is_words(part) and kinds(parts[-1]) == kinds(part)):  # they would be one
                parts.append(part)
        candidates.append(parts)
        waiting.append((index, [piece for part in parts for piece in draw(divided(part))]))
    events = []
    while left := [each for each in waiting if each[1]]:
        index, pieces = draw(st.sampled_from(left))
        count = draw(st.integers(1, len(pieces)))
        events.append(said(*pieces[:count], **({"index": index} if index else {})))
        del pieces[:count]
    events += [said({"text": ""}, finishReason="STOP", index=index) for index in range(len(candidates))]
    return candidates, events


@st.composite
def divided(draw: st.DrawFn, part: Json) -> list[Json]:
    if not is_words(part):
        return [part]
    at = draw(st.integers(0, len(part["text"])))
    return [{**part, "text": part["text"][:at]}, {**part, "text": part["text"][at:]}]


@given(streams())
def test_any_division_of_an_answer_adds_up_to_it(stream: tuple[list[list[Json]], list[Event]]) -> None:
    candidates, events = stream
    answer = answer_of(*events, choices=len(candidates))
    if len(events) > 1:
        found = json.loads(answer.body())["candidates"]
        assert [each["content"]["parts"] for each in found] == candidates
    assert answer.finished
    first, *others = [answer.said().fields, *answer.said().fields.get("choices", ())]
    for message, parts in zip([first, *others], candidates, strict=True):
        texts = [part for part in parts if "text" in part]
        assert message["content"] == "".join(part["text"] for part in texts if not part.get("thought"))
        assert message.get("reasoning", "") == "".join(part["text"] for part in texts if part.get("thought"))
        calls = [call["function"] for call in message.get("toolCalls", ())]
        assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
            (part["functionCall"]["name"], part["functionCall"]["args"]) for part in parts if "functionCall" in part
        ]
        special = [part for part in parts if not is_words(part) and part.keys() != {"functionCall"}]
        assert ("content" in message.get("extra", {})) == bool(special)
        if special:
            assert message["extra"]["content"] == {"parts": parts, "role": "model"}
    assert answer.said() == folded(GEMINI, events, len(candidates)).said()


def test_the_last_of_what_comes_with_each_event_is_the_answer_s() -> None:
    answer = answer_of(
        event(
            candidates=[{"content": {"parts": [{"text": "a"}]}, "safetyRatings": [{"p": "LOW"}]}],
            usageMetadata={"promptTokenCount": 7, "toolUsePromptTokenCount": 2, "candidatesTokenCount": 1},
            modelVersion="gemini-x",
            responseId="r",
        ),
        event(
            candidates=[
                {"content": {"parts": [{"text": "b"}]}, "safetyRatings": [{"p": "HIGH"}], "finishReason": "MAX_TOKENS"}
            ],
            usageMetadata={"candidatesTokenCount": 5, "thoughtsTokenCount": 3, "promptTokensDetails": [{"n": 7}]},
            modelVersion="gemini-x-001",
        ),
    )
    assert json.loads(answer.body()) == {
        "candidates": [
            {
                "content": {"parts": [{"text": "ab"}], "role": "model"},
                "finishReason": "MAX_TOKENS",
                "safetyRatings": [{"p": "HIGH"}],
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 7,
            "toolUsePromptTokenCount": 2,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 3,
            "promptTokensDetails": [{"n": 7}],
        },
        "modelVersion": "gemini-x-001",
        "responseId": "r",
    }
    its = answer.said()
    assert (its.model, its.input_tokens, its.output_tokens) == ("gemini-x-001", 9, 8)
    assert its.usage == {
        "promptTokenCount": 7,
        "toolUsePromptTokenCount": 2,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 3,
    }
    assert its.fields == {
        "content": "ab",
        "finishReason": "MAX_TOKENS",
        "extra": {"safetyRatings": [{"p": "HIGH"}]},
    }


def test_log_probabilities_of_all_events_are_kept() -> None:
    answer = answer_of(
        *[said({"text": each}, logprobsResult={"chosenCandidates": [{"token": each}]}) for each in "aba"]
    )
    (candidate,) = json.loads(answer.body())["candidates"]
    assert candidate["logprobsResult"] == {"chosenCandidates": [{"token": "a"}, {"token": "b"}, {"token": "a"}]}


def test_a_blocked_prompt_is_a_finished_answer_whatever_was_asked_for() -> None:
    blocked = event(promptFeedback={"blockReason": "SAFETY"}, usageMetadata={"promptTokenCount": 7})
    answer = answer_of(blocked, choices=3)
    assert (answer.finished, answer.silent, answer.withdrawn) == (True, False, False)
    assert answer.said().fields == {
        "content": "",
        "finishReason": "SAFETY",
        "extra": {"promptFeedback": {"blockReason": "SAFETY"}},
    }
    rebuilt = answer_of(event(responseId="r"), blocked)
    assert json.loads(rebuilt.body()) == {"responseId": "r", **json.loads(blocked.data)}


def test_an_answer_is_complete_with_a_reason_for_each_candidate() -> None:
    one = said({"text": "a"}, finishReason="STOP", index=0)
    other = said({"text": "b"}, finishReason="STOP", index=1)
    assert not answer_of(one, choices=2).finished
    assert answer_of(one, other, choices=2).finished
    assert not answer_of(one, said({"text": "b"}, index=1)).finished


def test_output_after_a_reason_withdraws_it_and_an_empty_part_does_not() -> None:
    ended = said({"text": "a"}, finishReason="STOP")
    assert answer_of(ended, said({"text": ""})).withdrawn is False
    assert answer_of(ended, said({"text": "b"})).withdrawn is True
    assert answer_of(ended, said({"text": "b"}, finishReason="STOP")).finished


def test_two_equal_calls_in_two_events_are_two() -> None:
    first = event(candidates=[{"content": {"parts": [{"functionCall": CALL}]}}], usageMetadata={"totalTokenCount": 1})
    second = event(candidates=[{"content": {"parts": [{"functionCall": CALL}]}}], usageMetadata={"totalTokenCount": 2})
    one, two = answer_of(first, second).said().fields["toolCalls"]
    assert one["function"] == two["function"]
    assert one["id"] != two["id"]
