"""Where messages lie: paths by a template, and templates that are refused."""

from __future__ import annotations

import re

import pytest

from lib.domain.message_path import MESSAGE_PATH, is_shared, message_path, valid_message_path

SHARED = "conversations/{chat}/turns/{message}"


def test_a_message_lies_in_its_chat_or_where_there_is_none_with_its_user() -> None:
    assert message_path("alice", "c1", "m1") == "users/alice/chats/c1/messages/m1"
    assert message_path("alice", None, "m1") == "users/alice/messages/m1"


def test_a_message_of_a_chat_lies_where_the_template_says_and_of_no_chat_where_it_always_does() -> None:
    assert message_path("alice", "c1", "m1", SHARED) == "conversations/c1/turns/m1"
    assert message_path("alice", None, "m1", SHARED) == "users/alice/messages/m1"
    assert message_path("alice", "c1", "m1", "a/{uid}/b/c/d/{chat}/e/{message}") == "a/alice/b/c/d/c1/e/m1"


def test_an_id_that_looks_like_a_placeholder_is_an_id() -> None:
    assert message_path("{chat}", "{message}", "{0}{uid}") == "users/{chat}/chats/{message}/messages/{0}{uid}"


def test_a_chat_is_shared_where_its_path_does_not_say_whose_it_is() -> None:
    assert is_shared(SHARED)
    assert not is_shared(MESSAGE_PATH)


@pytest.mark.parametrize(
    "template",
    [MESSAGE_PATH, SHARED, "people/{uid}/my-talks_2/{chat}/turns/{message}", "a/b/c/{chat}/d/{message}"],
)
def test_a_document_s_path_is_taken(template: str) -> None:
    assert valid_message_path(template) == template


REFUSED = {
    "conversations/{chat}/{message}": "even number of segments",
    "{chat}/{message}": "even number of segments",
    "": "even number of segments",
    "/conversations/{chat}/turns/{message}": "even number of segments",
    "conversations/{chat}/turns/{message}/": "even number of segments",
    "conversations/{chat}/turns/m1": "ends with {chat}",
    "conversations/all/turns/{message}": "ends with {chat}",
    "conversations/{chat}/parts/all/turns/{message}": "ends with {chat}",
    "users/{message}/chats/{chat}/messages/{uid}": "ends with {chat}",
    "conversations/{chat}/turns/m-{message}": "ends with {chat}",
    "//{chat}/turns//{message}": "ends with {chat}",
    "//conversations/{chat}/turns/{message}": "1 to 100 letters",
    "a/./conversations/{chat}/turns/{message}": "1 to 100 letters",
    "users/u-{uid}/chats/{chat}/messages/{message}": "1 to 100 letters",
    "users/{user}/chats/{chat}/messages/{message}": "1 to 100 letters",
    "users/{uid}/räume/{chat}/messages/{message}": "1 to 100 letters",
    "users/{uid}/my chats/{chat}/messages/{message}": "1 to 100 letters",
    "users/{uid}/__chats__/{chat}/messages/{message}": "1 to 100 letters",
    f"users/{{uid}}/{'c' * 101}/{{chat}}/messages/{{message}}": "1 to 100 letters",
    "users/{uid}/others/{uid}/chats/{chat}/messages/{message}": "once at the most",
    "users/{chat}/chats/{chat}/messages/{message}": "once at the most",
    "users/all/{uid}/{chat}/messages/{message}": "names a document",
    "holdfastChats/{chat}/messages/{message}": "begin with 'holdfast'",
    "holdfastGenerations/all/chats/{chat}/messages/{message}": "begin with 'holdfast'",
    "chats/{chat}/holdfastJournal/{message}": "begin with 'holdfast'",
}


@pytest.mark.parametrize(("template", "must_be"), REFUSED.items())
def test_what_is_no_path_for_messages_is_refused_with_what_it_must_be(template: str, must_be: str) -> None:
    with pytest.raises(ValueError, match=re.escape(must_be)):
        valid_message_path(template)
