"""A task: a generation's id and path, and no contents."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.domain.errors import InvalidRequest
from lib.domain.task import Task, is_check

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None)
@given(texts, texts)
def test_a_task_that_was_encoded_is_decoded_to_itself(generation_id: str, message_path: str) -> None:
    task = Task(generation_id, message_path)
    assert Task.decode(task.encode()) == task


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
