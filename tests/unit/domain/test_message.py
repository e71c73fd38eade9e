"""The message document: its fields at each stage, and how texts that are too large for it are divided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.domain.end import End, State
from lib.domain.generation import Generation
from lib.domain.message import INLINE_BYTES, PART_BYTES, Part, Said, cut, ended, opening, plain, spill, started

SHORT = 256  # characters; a text of no more stays where it is and is not counted
NOW = datetime(2026, 1, 2, tzinfo=UTC)
GENERATION = Generation(
    id="g1",
    owner="alice",
    message_path="users/alice/messages/g1",
    chat_id=None,
    message_id="g1",
    model="asked-for",
    dialect="chat_completions",
    upstream="default",
    request=b"{}",
    request_hash="",
    created_at=NOW,
    expire_at=NOW + timedelta(days=7),
    attempt=2,
)

characters = st.sampled_from(["a", "\n", "é", "漢", "😀", "\u200d"])
texts = st.builds(lambda piece, times: "".join(piece) * times, st.lists(characters, max_size=5), st.integers(0, 400))
names = st.text("abcXYZ_", min_size=1, max_size=4)
values = st.recursive(
    texts | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(names, values, max_size=5)


def long_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) > SHORT:
            yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from long_texts(item)


def joined(fields: dict[str, Any], parts: list[Part]) -> dict[str, Any]:
    """The fields with each part put back at the end of the text it is of."""
    for part in parts:
        *outer, last = part.field.split(".")
        place: Any = fields
        for step in outer:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[int(last) if isinstance(place, list) else last] += part.text
    return fields


@given(documents, st.integers(0, 4000))
@example({"content": "😀" * 300}, 1)
@example({"content": "é" * 257, "reasoning": "b" * 257}, 0)
def test_the_kept_text_and_the_parts_together_are_the_whole_text(fields: dict[str, Any], inline: int) -> None:
    kept, parts = spill(fields, "2-", inline)
    assert joined(kept, parts) == fields


@given(documents, st.integers(0, 4000))
def test_the_long_texts_that_are_kept_are_within_their_bound(fields: dict[str, Any], inline: int) -> None:
    kept, parts = spill(fields, "2-", inline)
    rest = {part.field for part in parts}
    assert sum(len(text.encode()) for text in long_texts(kept)) <= inline
    assert all(len(part.text.encode()) <= PART_BYTES for part in parts)
    assert len(rest) <= len(list(long_texts(fields)))


@given(documents, st.integers(0, 4000))
def test_no_part_is_empty_and_none_has_another_s_id(fields: dict[str, Any], inline: int) -> None:
    _, parts = spill(fields, "2-", inline)
    assert all(part.text for part in parts)
    assert len({part.id for part in parts}) == len(parts)
    assert all(part.id.startswith("2-") for part in parts)
    assert [part.id for part in parts] == sorted(part.id for part in parts)


@given(texts, st.integers(0, 3000))
@example("😀😀", 5)
@example("é", 1)
def test_a_cut_never_splits_a_character_and_takes_as_many_as_fit(text: str, size: int) -> None:
    kept, rest = cut(text, size)
    assert kept + rest == text
    assert len(kept.encode()) <= size or not kept
    assert rest == "" or len((kept + rest[0]).encode()) > size


def test_a_text_of_three_megabytes_is_kept_whole_in_parts_that_firestore_takes() -> None:
    text = "漢字 and 😀 " * 170_000
    kept, parts = spill({"content": text, "choices": [{"content": text}], "state": "completed"}, "1-")
    assert len(kept["content"].encode()) <= INLINE_BYTES
    assert all(len(part.text.encode()) < 1 << 20 for part in parts)
    assert joined(kept, parts) == {"content": text, "choices": [{"content": text}], "state": "completed"}


def test_what_fits_stays_as_it_is() -> None:
    fields = {"content": "hello", "toolCalls": [{"id": "a", "n": 1}], "none": None}
    assert spill(fields, "1-") == (fields, [])


def test_a_part_s_document_says_which_text_it_continues() -> None:
    _, parts = spill({"choices": [{"content": "a" * 300}]}, "1-", 299)
    assert [(part.id, part.fields()) for part in parts] == [("1-00000", {"field": "choices.0.content", "text": "a"})]


def test_the_message_is_there_from_the_first_moment_with_all_that_an_app_shows() -> None:
    message = opening(GENERATION)
    assert (message["state"], message["content"], message["role"]) == ("queued", "", "assistant")
    assert (message["generationId"], message["model"], message["createdAt"]) == ("g1", "asked-for", NOW)
    assert {"reason", "usage", "error", "stoppedBy", "finishedAt"} <= message.keys()
    assert started(NOW) == {"state": "streaming", "updatedAt": NOW}


def test_an_ended_message_has_the_answer_its_state_its_usage_and_the_model_that_answered() -> None:
    said = Said(fields={"content": "hi", "finishReason": "stop"}, model="answered")
    done = GENERATION.ended(End(state=State.COMPLETED, usage={"total_tokens": 3}), 1, NOW)
    fields, parts = ended(done, said)
    assert (fields["content"], fields["state"], fields["model"], fields["finishReason"]) == (
        "hi",
        "completed",
        "answered",
        "stop",
    )
    assert (fields["usage"], fields["stoppedBy"], fields["finishedAt"]) == ({"total_tokens": 3}, None, NOW)
    assert (fields["parts"], parts) == ([], [])


def test_a_stopped_message_says_who_stopped_it_and_is_no_error() -> None:
    fields, _ = ended(
        GENERATION.ended(End(state=State.STOPPED, reason="stopped"), 0, NOW), Said(fields={"content": ""})
    )
    assert (fields["state"], fields["stoppedBy"], fields["error"], fields["content"]) == ("stopped", "user", None, "")


def test_a_failed_message_has_its_error_and_the_model_that_was_asked_for() -> None:
    error = {"message": "No.", "code": "upstream_status", "status": 401}
    failed = GENERATION.ended(End(state=State.FAILED, reason="upstream_status", error=error), 0, NOW)
    fields, _ = ended(failed, Said(fields={"content": ""}))
    assert (fields["state"], fields["error"], fields["model"]) == ("failed", error, "asked-for")


def test_the_parts_of_two_attempts_never_have_the_same_id() -> None:
    said = Said(fields={"content": "a" * (INLINE_BYTES + 1)})
    done = GENERATION.ended(End(state=State.COMPLETED), 1, NOW)
    fields, parts = ended(done, said)
    assert fields["parts"] == [part.id for part in parts] == ["2-00000"]


def nested(levels: int) -> Any:
    return 1 if levels == 0 else {"in": nested(levels - 1)}


@pytest.mark.parametrize(
    ("structure", "kept"),
    [
        (nested(10), True),
        (nested(30), False),
        ({"n" * 900: 1}, True),
        ({"n" * 1600: 1}, False),
        ([1] * 1500, True),
        ([1] * 4000, False),
    ],
    ids=["some levels", "too deep", "a long name", "too long a name", "a list", "too long a list"],
)
def test_a_structure_that_firestore_can_not_hold_is_there_as_its_json(structure: Any, kept: bool) -> None:
    fields, parts = ended(GENERATION, Said(fields={"content": "a", "extra": {"strange": structure}}))
    assert fields["content"] == "a"
    assert not parts
    if kept:
        assert fields["extra"] == {"strange": structure}
    else:
        assert json.loads(fields["extra"]) == {"strange": structure}


def test_what_is_plain_of_a_message_has_its_words_and_state() -> None:
    said = Said(fields={"content": "a", "reasoning": "b", "extra": {"strange": {"c": 1}}})
    fields = plain(ended(GENERATION, said)[0])
    assert {"content": "a", "reasoning": "b", "parts": []}.items() <= fields.items()
    assert "extra" not in fields
