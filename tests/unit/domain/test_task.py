"""A task: a generation's id and path, and no contents."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.domain.errors import InvalidRequest
from lib.domain.generation import Generation
from lib.domain.task import Created, Task, is_check

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(texts, texts)
def test_a_task_that_was_encoded_is_decoded_to_itself(generation_id: str, message_path: str) -> None:
    task = Task(generation_id, message_path)
    assert Task.decode(task.encode()) == task


def test_a_task_of_a_new_generation_carries_it_without_its_request() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    generation = Generation(
        id="g1",
        owner="alice",
        message_path="users/alice/chats/c/messages/m",
        chat_id="c",
        message_id="m",
        model="demo",
        dialect="messages",
        upstream="default",
        request=b"a secret",
        own_request=b"the same secret",
        headers={"anthropic-beta": "one"},
        request_hash="hash",
        created_at=now,
        expire_at=now + timedelta(days=7),
        watchers={"viewer": now + timedelta(seconds=30)},
    )
    task = Task("g1", generation.message_path, Created(generation, 1_767_323_045_678_901_000))
    assert b"secret" not in task.encode()
    found = Task.decode(task.encode())
    assert found == replace(task, created=Created(generation.without_bodies(), 1_767_323_045_678_901_000))
    assert found.successor == Task("g1", generation.message_path)


def test_a_task_is_small_and_has_the_two_places_alone() -> None:
    assert (
        Task("g1", "users/día/messages/g1").encode() == '{"generation":"g1","message":"users/día/messages/g1"}'.encode()
    )


def test_a_field_of_a_later_version_is_no_error() -> None:
    assert Task.decode(b'{"message":"m","generation":"g","more":[1]}') == Task("g", "m")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"1",
        b'"text"',
        b"[]",
        b'[{"generation":"g","message":"m"}]',
        b"{}",
        b'{"generation":"g"}',
        b'{"message":"m"}',
        b'{"generation":"","message":"m"}',
        b'{"generation":"g","message":""}',
        b'{"generation":1,"message":"m"}',
        b'{"generation":"g","message":null}',
        b'{"generation":"g","message":["m"]}',
        b'{"generation":"g","message":"\xff"}',
        b"\x00\x01",
        b'{"generation":"g","message":"m","created":null}',
        b'{"generation":"g","message":"m","created":{"fields":{},"version":1}}',
        b'{"generation":"g","message":"m","created":{"fields":{"createdAt":1,"expireAt":2},"version":1}}',
    ],
)
def test_what_is_no_task_is_refused_as_a_bad_request(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Task.decode(body)
    assert refused.value.status == 400
    assert "'generation'" in refused.value.message
    assert "'message'" in refused.value.message


@pytest.mark.parametrize("body", [b'{"check": true}', b'{"check":true}', b' {\n"check" : true }\n'])
def test_a_check_is_one_however_it_is_written(body: bytes) -> None:
    assert is_check(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"true", b"{}", b'{"check":false}', b'{"check":1}', b'{"check":true,"generation":"g","message":"m"}'],
)
def test_anything_else_is_no_check(body: bytes) -> None:
    assert not is_check(body)
